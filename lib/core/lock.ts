import type { LockLostError } from './errors.js';
import type { Lease, LeaseState } from './lease.js';
import type { Reentry } from './reentry.js';
import type { AcquireRequestOfCaller } from './wait-queue.js';

/**
 * A lock that the caller holds, until it releases it or loses it.
 *
 * @example
 * await using lock = await locks.acquire('stock:42');
 * await warehouse.save(stock, { fence: lock.fencingToken, signal: lock.signal });
 */
export interface Lock extends AsyncDisposable {
  readonly key: string;
  /**
   * Larger than that of every earlier holder of the key. A resource that refuses a smaller token than it has seen is
   * safe even from a holder that was paused and writes late; no lock alone can promise that.
   *
   * @see https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
   */
  readonly fencingToken: number;
  /**
   * Where it stands: `jeopardy` is held, but the renewal is overdue or has failed. By the local clock, without asking
   * Redis, and right also just after a blocked event loop.
   */
  readonly state: LeaseState;
  /** Whether it's held at this moment: `state` is `held` or `jeopardy`. */
  readonly isHeld: boolean;
  /** How long it stays held without another renewal, in ms; 0 once it isn't held. */
  readonly remaining: number;
  /** Aborts with a {@link LockLostError} as soon as the lock is lost, before another can get it. Pass it on to whatever can be cancelled. */
  readonly signal: AbortSignal;
  /**
   * @throws LockLostError unless the lock is held at this moment. Call it before a step that can't be undone.
   */
  assertHeld(): void;
  /**
   * Renews the lock now, for a full ttl. Needed only with `renew: false`.
   * @throws LockLostError if it's lost; LockUnavailableError if Redis couldn't be asked, while the lock is still held
   * until its deadline.
   */
  extend(): Promise<void>;
  /**
   * Gives the lock back. Never rejects; a second call gives the first's answer.
   *
   * `lost`: it had been lost before. `unconfirmed`: Redis couldn't be asked; it's retried in the background, and at
   * worst the key stays taken for its ttl.
   */
  release(): Promise<LockReleased>;
}

export type LockReleased = 'released' | 'lost' | 'unconfirmed';

/** What a lock asks of the locker that made it. */
export interface LockKeeper {
  release(lock: HeldLock): Promise<LockReleased>;
  extend(lease: Lease): Promise<void>;
  newReentry(lease: Lease): Reentry<AcquireRequestOfCaller>;
}

/** One holder's lock: one of those that stand on a lease. */
export class HeldLock implements Lock {
  readonly lease: Lease;
  /** The lock inside which this one was entered again. */
  readonly parent: HeldLock | undefined;
  readonly keeper: LockKeeper;
  #released: Promise<LockReleased> | undefined;
  #reentry: Reentry<AcquireRequestOfCaller> | undefined;

  constructor(lease: Lease, keeper: LockKeeper, parent?: HeldLock) {
    this.lease = lease;
    this.parent = parent;
    this.keeper = keeper;
    lease.locks += 1;
  }

  get key(): string {
    return this.lease.name.key;
  }

  get fencingToken(): number {
    return this.lease.fencingToken;
  }

  get state(): LeaseState {
    return this.#released === undefined || this.lease.state === 'lost'
      ? this.lease.state
      : 'released';
  }

  get isHeld(): boolean {
    return this.#released === undefined && this.lease.isHeld;
  }

  get remaining(): number {
    return this.isHeld ? this.lease.remaining : 0;
  }

  get signal(): AbortSignal {
    return this.lease.signal;
  }

  assertHeld(): void {
    if (!this.isHeld) throw this.lostError();
  }

  lostError(): LockLostError {
    return this.lease.lostError();
  }

  async extend(): Promise<void> {
    this.assertHeld();
    await this.keeper.extend(this.lease);
    this.assertHeld();
  }

  release(): Promise<LockReleased> {
    this.#released ??= this.keeper.release(this);
    return this.#released;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  /** Where calls below this holder enter again. Made when the first does. */
  get reentry(): Reentry<AcquireRequestOfCaller> {
    this.#reentry ??= this.keeper.newReentry(this.lease);
    return this.#reentry;
  }

  /** The same, if any did. */
  get startedReentry(): Reentry<AcquireRequestOfCaller> | undefined {
    return this.#reentry;
  }
}
