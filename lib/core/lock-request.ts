import type { HeldLock } from './lock.js';
import type { ResolvedLockOptions } from './options.js';
import { Caller } from './waiting-line.js';

/** One caller's wish for a lock, from the call to its grant or its end; it waits in a `WaitQueue` or a `Reentry`. */
export class LockRequest extends Caller<HeldLock> {
  /** Whether it was said that it waits. */
  announced = false;
  /** Whether others of its process were waiting when it came, one of them at the backend. */
  stoodBehind = false;

  constructor(
    readonly key: string,
    readonly options: ResolvedLockOptions,
    /** Monotonic time of the call. */
    readonly since: number,
    /** What the call held when it came. */
    readonly holding: readonly HeldLock[],
    /** Those of several keys that it has got already. */
    readonly parts: readonly HeldLock[] = NONE,
  ) {
    super(since + options.waitTimeout, options.signal);
  }

  /** What stays taken while it waits. */
  get blocks(): readonly HeldLock[] {
    return this.parts.length === 0 ? this.holding : [...this.holding, ...this.parts];
  }

  get heldKeys(): readonly string[] {
    return [...new Set(this.holding.map(({ key }) => key))];
  }
}

const NONE: readonly HeldLock[] = [];
