import type { Access } from './access.js';
import { LockConfigError, LockLostError, type LockUnavailableError } from './errors.js';
import type { Lease, LeaseState } from './lease.js';
import type { Reentry } from './reentry.js';

/**
 * A lock that the caller holds, until it releases it or loses it.
 *
 * @example
 * await using lock = await locks.acquire('stock:42');
 * await warehouse.save(stock, { fence: lock.fencingToken, signal: lock.signal });
 */
export interface Lock extends AsyncDisposable {
  readonly key: string;
  /** The same as a list: of several, where several were taken together. */
  readonly keys: readonly string[];
  /** Whether others may hold it at the same time: readers, or up to a limit. */
  readonly access: Access;
  /**
   * Larger than that of every earlier holder of the key. A resource that refuses a smaller token than it has seen is
   * safe even from a holder that was paused and writes late; no lock alone can promise that.
   *
   * @see https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
   */
  readonly fencingToken: number;
  /**
   * The fencing token by key: the same for all that were taken together, except for those that were entered again. With
   * such, `fencingToken` throws LockConfigError, since no one token is right for all.
   */
  readonly fencingTokens: ReadonlyMap<string, number>;
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
   * Turns an exclusive lock into a shared one, without letting it go: readers that wait enter at once, and no writer comes
   * in between. The fencing token stays. Nothing happens to a lock that's shared already.
   * @throws LockConfigError for a lock with a `limit`, and while locks that were entered again below this one are held;
   * LockLostError if it's lost; LockUnavailableError if Redis couldn't be asked: then call it again, or not, it's held.
   */
  downgrade(): Promise<void>;
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
  /** Why the backend couldn't be asked, where it couldn't. */
  extend(lease: Lease): Promise<LockUnavailableError | undefined>;
  downgrade(lease: Lease): Promise<LockUnavailableError | undefined>;
  newReentry(lease: Lease): Reentry;
}

/**
 * One holder's lock: one of those that stand on a lease. Once it's released, the lease may be another's, and what
 * becomes of it is no longer this lock's business.
 */
export class HeldLock implements Lock {
  readonly lease: Lease;
  /** It can be raised until the caller sees it. */
  fencingToken: number;
  /** The several locks of which it's one. */
  joint: Lock | undefined;
  /** The lock inside which this one was entered again. */
  readonly parent: HeldLock | undefined;
  readonly keeper: LockKeeper;
  /** How it ended, by its release. */
  #end: 'released' | 'lost' | undefined;
  #released: Promise<LockReleased> | undefined;
  #signal: AbortSignal | undefined;
  #reentry: Reentry | undefined;

  constructor(lease: Lease, keeper: LockKeeper, parent?: HeldLock) {
    this.lease = lease;
    this.fencingToken = lease.fencingToken;
    this.parent = parent;
    this.keeper = keeper;
    lease.locks += 1;
  }

  get key(): string {
    return this.lease.name.key;
  }

  get keys(): readonly string[] {
    return [this.key];
  }

  get fencingTokens(): ReadonlyMap<string, number> {
    return new Map([[this.key, this.fencingToken]]);
  }

  get access(): Access {
    return this.lease.access;
  }

  /** Before the caller sees it: several locks that were taken one after the other get one token. */
  raiseFence(fencingToken: number): void {
    this.fencingToken = fencingToken;
    this.lease.fencingToken = fencingToken;
  }

  get state(): LeaseState {
    return this.#end ?? this.lease.state;
  }

  get isHeld(): boolean {
    return this.#end === undefined && this.lease.isHeld;
  }

  get remaining(): number {
    return this.isHeld ? this.lease.remaining : 0;
  }

  get signal(): AbortSignal {
    if (this.#signal === undefined) {
      if (this.#end === undefined) this.#signal = this.lease.signal;
      else if (this.#end === 'lost') this.#signal = AbortSignal.abort(this.lostError());
      // Read for the first time after the release: there's nothing left to lose.
      else this.#signal = new AbortController().signal;
    }
    return this.#signal;
  }

  assertHeld(): void {
    if (!this.isHeld) throw this.lostError();
  }

  lostError(): LockLostError {
    const reason = this.#end === 'released' ? 'released' : (this.lease.lostReason ?? 'released');
    return new LockLostError(this.key, reason, this.fencingToken, this.lease.lostBy);
  }

  async extend(): Promise<void> {
    this.assertHeld();
    const unavailable = await this.keeper.extend(this.lease);
    this.assertHeld();
    if (unavailable !== undefined) throw unavailable;
  }

  async downgrade(): Promise<void> {
    this.checkDowngrade();
    const unavailable = await this.keeper.downgrade(this.lease);
    this.assertHeld();
    if (unavailable !== undefined) throw unavailable;
  }

  /** @throws LockLostError, LockConfigError where {@link downgrade} would. */
  checkDowngrade(): void {
    this.assertHeld();
    const { access } = this.lease;
    if (access !== 'exclusive' && access !== 'shared') {
      throw new LockConfigError(
        `The lock '${this.key}' is held under a limit: only an exclusive one can be downgraded.`,
        'limit',
      );
    }
    if (this.lease.locks > 1 || this.#reentry?.isTaken === true) {
      throw new LockConfigError(
        `The lock '${this.key}' was entered again, by calls that count on being alone. Release those locks before downgrade().`,
      );
    }
  }

  release(): Promise<LockReleased> {
    if (this.#released === undefined) {
      this.#end = this.lease.isHeld ? 'released' : 'lost';
      this.#released = this.keeper.release(this);
    }
    return this.#released;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  /** Releases what the caller has never seen: there was no work, for which to keep the key taken. */
  giveBack(): Promise<LockReleased> {
    if (this.parent === undefined) this.lease.keepNoLonger();
    return this.release();
  }

  /** Where calls below this holder enter again. Made when the first does. */
  get reentry(): Reentry {
    this.#reentry ??= this.keeper.newReentry(this.lease);
    return this.#reentry;
  }

  /** The same, if any did. */
  get startedReentry(): Reentry | undefined {
    return this.#reentry;
  }
}
