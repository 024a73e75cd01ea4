/**
 * Lets Node run the TypeScript sources of this project as they are: `node --import ./test/support/register-ts.mjs x.ts`.
 * Types are not checked, decorators and their metadata are compiled as in the build.
 */
import { register } from 'node:module';

process.setSourceMapsEnabled(true);
register('./ts-hooks.mjs', import.meta.url);
