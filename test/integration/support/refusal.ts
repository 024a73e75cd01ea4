/** That a lock is refused whoever holds it, since Redis can't be asked or trusted: expected of a call, and why. */
import { expect } from '@jest/globals';
import { LockUnavailableError } from '../../../lib/core/errors.js';

export async function refusalOf(call: Promise<unknown>): Promise<LockUnavailableError> {
  const error = await call.then(
    () => 'it was granted',
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(LockUnavailableError);
  return error as LockUnavailableError;
}
