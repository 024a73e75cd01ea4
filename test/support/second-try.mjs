/**
 * Every test has a second try on CI: most wait for real processes with a bound, and on a machine that does other things too, one
 * in thousands runs out of it. What failed the first time is printed, so that it's seen. Elsewhere there's one try.
 */
import { jest } from '@jest/globals';

if (process.env['CI']) jest.retryTimes(1, { logErrorsBeforeRetry: true });
