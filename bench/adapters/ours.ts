import { LockConfigError } from '../../lib/core/errors.js';
import type { Lock } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { type Adapter, type LockClient, type OpenOptions, WAIT_TIMEOUT } from './adapter.js';

/** Everything on, as by default: renewal, fencing tokens, fair queue. Only the time to wait is longer. */
export function lockerOptions({ url, ttl }: OpenOptions): LockerOptions {
  return { connection: url, ttl, waitTimeout: WAIT_TIMEOUT };
}

class OurLocks implements LockClient<Lock> {
  readonly #locker: Locker;

  constructor(locker: Locker) {
    this.#locker = locker;
  }

  acquire(key: string): Promise<Lock> {
    return this.#locker.acquire(key);
  }

  release(held: Lock): Promise<unknown> {
    return held.release();
  }

  fencingToken(held: Lock): number {
    return held.fencingToken;
  }

  isHeld(held: Lock): boolean {
    return held.isHeld;
  }

  close(): Promise<void> {
    return this.#locker.close();
  }
}

/** Our library through its core, with some option other than by default. */
function variant(id: string, title: string, settings: string, options: object): Adapter {
  return {
    id,
    title,
    settings,
    lacks: {},
    unavailable() {
      try {
        // Unknown options are refused, and nothing is opened in memory.
        void new Locker({ connection: 'memory', ...options }).close();
        return undefined;
      } catch (error) {
        if (error instanceof LockConfigError) return error.message.split('. ')[0];
        throw error;
      }
    },
    async open(open) {
      const locker = new Locker({ ...lockerOptions(open), ...options });
      await locker.connect();
      return new OurLocks(locker);
    },
  };
}

export const ours = variant(
  'ours',
  'ours',
  'acquire() and release() of the core, all defaults',
  {},
);

export const oursWithoutHandOver = variant(
  'ours-no-hand-over',
  'ours, no hand-over',
  'localHandover: false',
  { localHandover: false },
);

export const oursPolling = variant('ours-polling', 'ours, polling', "wakeUp: 'poll'", {
  wakeUp: 'poll',
});
