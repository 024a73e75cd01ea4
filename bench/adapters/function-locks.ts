import type { LockClient } from './adapter.js';

/** A lock that is held by a function which has not ended yet. */
export interface HoldingFunction {
  readonly end: () => void;
  readonly ended: Promise<unknown>;
}

/**
 * Handles for a library that only runs functions: the function holds the lock until the handle is given back.
 */
export abstract class FunctionLocks implements LockClient<HoldingFunction> {
  /** Runs a function under the lock; settles when it has been given back. */
  protected abstract under(key: string, work: () => void | Promise<void>): Promise<unknown>;
  abstract close(): Promise<unknown>;

  run(key: string, work: () => void): Promise<unknown> {
    return this.under(key, work);
  }

  acquire(key: string): Promise<HoldingFunction> {
    return new Promise((resolve, reject) => {
      const ended = this.under(
        key,
        () =>
          new Promise<void>((end) => {
            resolve({ end, ended });
          }),
      );
      ended.catch(reject);
    });
  }

  release(held: HoldingFunction): Promise<unknown> {
    held.end();
    return held.ended;
  }
}
