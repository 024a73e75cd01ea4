import { AsyncLocalStorage } from 'node:async_hooks';

import { Agenda } from './agenda.js';
import { openBackend } from './backend/open-backend.js';
import type { LockBackend, LockState, ReleaseRequest } from './backend/lock-backend.js';
import { heldByCall, heldByCallOn, keysHeldByCall, runHolding } from './call-chain.js';
import { CleanUp } from './clean-up.js';
import { type Clock, systemClock, type Timer } from './clock.js';
import {
  LockBusyError,
  LockConfigError,
  LockTimeoutError,
  LockUnavailableError,
  type LostReason,
} from './errors.js';
import { LockEmitter, type LockEventName, type LockListener } from './events.js';
import { Lease, type LeaseGrant, validUntil } from './lease.js';
import { HeldLock, type Lock, type LockKeeper, type LockReleased } from './lock.js';
import { LockName } from './lock-name.js';
import { LockRequest } from './lock-request.js';
import {
  type LockerOptions,
  type LockOptions,
  type OnBusy,
  type ResolvedLockerOptions,
  resolveLockerOptions,
  resolveLockOptions,
} from './options.js';
import { Reentry, type ReentryRequest } from './reentry.js';
import { Renewal } from './renewal.js';
import { RunOnce } from './run-once.js';
import type { RunOnceOptions } from './run-options.js';
import type { RunInfo, RunOutcome, RunRecord } from './run-record.js';
import { TokenSource } from './token-source.js';
import { unavailableError, WaitQueue, type WaitQueueContext } from './wait-queue.js';
import type { Deadlines } from './waiting-line.js';

/** Options of {@link Locker.acquire}. */
export interface AcquireOptions extends Omit<LockOptions, 'onBusy'> {
  /** There is nothing to skip here; a default of `'skip'` counts as `'throw'`. */
  onBusy?: 'wait' | 'throw';
  /**
   * A held lock on the same key: enter it again instead of waiting for its release. Needed only where the call isn't
   * made below `using`, which passes this on by itself.
   */
  within?: Lock;
}

/** Options of {@link Locker.tryAcquire}, which never waits. */
export type TryAcquireOptions = Omit<AcquireOptions, 'onBusy' | 'waitTimeout' | 'signal'>;

/** Options of {@link Locker.using}. */
export interface UsingOptions extends LockOptions {
  /** @see AcquireOptions.within */
  within?: Lock;
}

/**
 * Distributed locks, without Nest: takes them, holds them, gives them back.
 *
 *     open ──stopGranting()──▶ draining ──close()──▶ closed
 *
 * While draining, only calls that already hold a lock are granted more, so that they can finish.
 *
 * A key is tried for by the `WaitQueue` of its name; a grant becomes a `Lease`, watched by the one `Renewal`, and may
 * pass from caller to caller; what a caller gets is a `Lock` on that lease. Whatever may be left at the backend is undone by the one `CleanUp`.
 */
export class Locker {
  readonly #options: ResolvedLockerOptions;
  readonly #backend: LockBackend;
  readonly #clock: Clock;
  readonly #events = new LockEmitter();
  readonly #cleanUp: CleanUp;
  readonly #renewal: Renewal;
  readonly #queues = new Map<string, WaitQueue>();
  /** What this process holds, by the name's owner key. */
  readonly #leases = new Map<string, Lease>();
  readonly #context: WaitQueueContext;
  readonly #keeper: LockKeeper;
  /** Where locks are entered again, so that those who wait there can be told when the lease is lost, or when we close. */
  readonly #reentries = new Map<Reentry, Lease>();
  /** When those who wait give up. */
  readonly #deadlines: Deadlines;
  readonly #tokens = new TokenSource();
  readonly #runOnce: RunOnce;
  #state: 'open' | 'draining' | 'closed' = 'open';
  #closing: Promise<void> | undefined;
  /**
   * Runs what serves all callers in the context in which the locker was made. In that of the call that happened to
   * start it (the one timer, the subscriber), everything that it causes would count as below that call: another's abort
   * listener could enter its locks again.
   */
  readonly #outside = AsyncLocalStorage.snapshot();
  /** How many commands for a lock are under way that aren't a queue's: single tries and releases. */
  #underWay = 0;
  #onSettled: (() => void) | undefined;

  /**
   * @throws LockConfigError that names the option, its value and the remedy.
   */
  constructor(options: LockerOptions, parts: LockerParts = {}) {
    this.#options = resolveLockerOptions(options);
    this.#clock = detached(parts.clock ?? systemClock, this.#outside);
    const random = parts.random ?? Math.random;
    const { commandTimeout } = this.#options;
    this.#backend = parts.backend ?? openBackend(this.#options, this.#clock, this.#events);
    this.#cleanUp = new CleanUp(this.#backend, this.#clock, random);
    this.#renewal = new Renewal(this.#backend, this.#clock, random, this.#events);
    this.#deadlines = new Agenda(this.#clock, true, () => this.#timeOut());
    const stands = new Map<string, WaitQueue>();
    this.#context = {
      backend: this.#backend,
      clock: this.#clock,
      random,
      events: this.#events,
      cleanUp: this.#cleanUp,
      deadlines: this.#deadlines,
      commandTimeout,
      localHandover: this.#options.localHandover,
      backoff: this.#options.backoff,
      stands,
      newToken: () => this.#tokens.next(),
      leases: this.#leases,
      ended: (queue) => {
        const { owner } = queue.name;
        if (this.#queues.get(owner) === queue) this.#queues.delete(owner);
        this.#onSettled?.();
      },
      newLock: (grant) => this.#newLock(grant),
      handOver: (lease, request) => this.#handOver(lease, request),
      tellReleased: (key, fencingToken, grantedAt) =>
        this.#tellReleased(key, fencingToken, grantedAt, 0),
      tellAcquired: (lock, since) => this.#tellAcquired(lock, since),
      outside: this.#outside,
    };
    this.#backend.wakeUp.onWake((message) => {
      switch (message.kind) {
        case 'woken':
          stands.get(message.token)?.wake(message.within);
          break;
        case 'othersWait':
          this.#othersWait(message.owner);
          break;
        case 'listening':
          for (const queue of this.#queues.values()) queue.wake();
          break;
      }
    });
    this.#keeper = {
      release: (lock) => this.#release(lock),
      extend: (lease) => this.#extend(lease),
      newReentry: (lease) => this.#newReentry(lease),
    };
    this.#runOnce = new RunOnce({
      backend: this.#backend,
      clock: this.#clock,
      wallClock: parts.wallClock ?? (() => Date.now()),
      random,
      defaults: this.#options.defaults,
      commandTimeout,
      application: this.#options.application,
      acquire: (key, lockOptions) => this.#take(key, lockOptions, waitOrThrow) as Promise<HeldLock>,
    });
  }

  /**
   * Waits for the first connection. Whether it's there; calls fail with `LockUnavailableError` until it is.
   * @throws LockUnavailableError with `requireConnection: true`, if Redis can't be reached.
   */
  async connect(): Promise<boolean> {
    const outcome = await this.#backend.connect();
    if (outcome.kind === 'connected') return true;
    if (this.#options.requireConnection)
      throw new LockUnavailableError(undefined, outcome.reason, outcome.cause);
    return false;
  }

  /**
   * Runs a function under a lock: takes it, runs, gives it back. Calls below the function may take the same key again.
   *
   * The function's own result and exception come through untouched; a release that fails is an event. With
   * `onBusy: 'skip'`, and the key held by another, the function isn't run and the result is `undefined`.
   *
   * @throws LockTimeoutError, LockBusyError, LockUnavailableError, LockKeyError, LockConfigError, or the signal's reason:
   * the function was not run. LockLostError: it ran to its end, but the lock was lost before that.
   *
   * @example
   * await locks.using('stock:42', async (lock) => {
   *   await save({ fence: lock.fencingToken });
   * });
   * await locks.using('report', { onBusy: 'skip' }, () => report());
   */
  using<T>(key: string, work: (lock: Lock) => T | PromiseLike<T>): Promise<T>;
  using<T>(
    key: string,
    options: UsingOptions & { onBusy: 'skip' },
    work: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T | undefined>;
  using<T>(
    key: string,
    options: UsingOptions,
    work: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T>;
  async using<T>(
    key: string,
    optionsOrWork: UsingOptions | ((lock: Lock) => T | PromiseLike<T>),
    givenWork?: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T | undefined> {
    const [options, work] =
      typeof optionsOrWork === 'function' ? [undefined, optionsOrWork] : [optionsOrWork, givenWork];
    if (typeof work !== 'function') {
      throw new LockConfigError(
        'Expected a function to run under the lock: using(key, work) or using(key, options, work).',
      );
    }
    const lock = await this.#take(key, options, asGiven);
    if (lock === undefined) return undefined;
    if (!lock.isHeld) {
      // Granted, and gone before the work could begin: the event loop was blocked, or the locker closed.
      await lock.release();
      const reason = this.#state === 'closed' ? 'shutting-down' : 'no-answer';
      throw new LockUnavailableError(key, reason, lock.lostError());
    }
    let result: T;
    try {
      result = await runHolding(lock, this.#keeper, () => work(lock));
    } catch (error) {
      await lock.release();
      throw error;
    }
    // Asked before the release: what the release finds is no longer the work's business.
    const lost = lock.state === 'lost';
    await lock.release();
    if (lost) throw lock.lostError();
    return result;
  }

  /**
   * Takes a lock that the caller gives back: with `await using`, or `release()` in a `finally`.
   *
   * @throws LockTimeoutError: held by others for the whole `waitTimeout`. LockBusyError: with `onBusy: 'throw'`.
   * LockUnavailableError: Redis can't be asked. LockKeyError, LockConfigError: the arguments. The signal's reason, once
   * it aborts. The call ends within `waitTimeout` plus `commandTimeout`, whatever Redis does.
   *
   * @example
   * await using lock = await locks.acquire('stock:42', { waitTimeout: '2s', signal });
   */
  acquire(key: string, options?: AcquireOptions): Promise<Lock> {
    // Only a caller that skips comes back without one.
    return this.#take(key, options, waitOrThrow) as Promise<HeldLock>;
  }

  /**
   * Takes a lock if it's free at this moment and nobody waits for it; else gives `null`.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   *
   * @example
   * const lock = await locks.tryAcquire('stock:42');
   * if (lock !== null) await lock.release();
   */
  async tryAcquire(key: string, options?: TryAcquireOptions): Promise<Lock | null> {
    return (await this.#take(key, options, skip)) ?? null;
  }

  /**
   * Who holds a key, and who waits for it.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   */
  async query(key: string, options?: Pick<LockOptions, 'prefix'>): Promise<LockState> {
    const { prefix } = resolveLockOptions(options, this.#options.defaults);
    const name = LockName.of(prefix, key);
    const outcome = await this.#backend.query(name);
    if (outcome.kind === 'unavailable') throw unavailableError(key, outcome);
    const { state } = outcome;
    const waitsHere = (this.#queues.get(name.owner)?.waitingHere ?? 0) > 0;
    return waitsHere ? { ...state, pending: [...state.pending, { sequence: undefined }] } : state;
  }

  /**
   * Runs a function once for each tick of a schedule, on whichever of the replicas claims the tick first; the others are told
   * why it's skipped there. By the wall clock of each process, or by `at`; replicas that are slow, or whose clocks differ, run
   * no tick twice. The function is given the lock under which it runs, and which tick it is.
   *
   * Its own result and exception come through untouched, and are recorded: see {@link Locker.runs}.
   *
   * @throws LockUnavailableError, LockKeyError, LockConfigError: the function was not run. LockLostError: it ran to its end,
   * but its lock was lost before that.
   *
   * @example
   * const outcome = await locks.runOnce('nightly-report', { per: '1d' }, () => report());
   * if (outcome.kind === 'skipped') console.log(outcome.reason, outcome.run.host);
   */
  async runOnce<T>(
    job: string,
    options: RunOnceOptions,
    work: (lock: Lock, run: RunInfo) => T | PromiseLike<T>,
  ): Promise<RunOutcome<T>> {
    if (this.#refuses({ heldKeys: this.#heldKeys() })) {
      throw new LockUnavailableError(job, 'shutting-down');
    }
    return this.#runOnce.run(job, options, work);
  }

  /**
   * What is recorded of a job's runs, newest first. One that crashed is recorded as such when this, or the next tick, finds
   * that its lock has ended.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   */
  runs(job: string, options?: Pick<LockOptions, 'prefix'>): Promise<RunRecord[]> {
    return this.#runOnce.list(job, options);
  }

  /** The lock under which the running call was started by `using`, if it's still held: the innermost, or that on `key`. */
  current(key?: string): Lock | undefined {
    for (const lock of heldByCall(this.#keeper)) {
      if (key === undefined || lock.key === key) return lock;
    }
    return undefined;
  }

  /** Listens to an event; returns the function that stops it. A listener that throws affects nothing. */
  on<N extends LockEventName>(name: N, listener: LockListener<N>): () => void {
    return this.#events.on(name, listener);
  }

  /**
   * Grants no more locks, except to calls that hold one already and need another to finish. Who waits is refused
   * with LockUnavailableError (`shutting-down`).
   */
  stopGranting(): void {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    // Who waits to enter its own lock again may: it takes nothing, and its holder can't finish without it.
    this.#refuseQueued((request) => this.#refuses(request));
  }

  /**
   * Stops granting, lets holders finish for up to `drainTimeout`, takes the locks of the others from them (their
   * signal aborts), and closes what the locker opened.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.stopGranting();
    await this.#until(
      () => this.#renewal.size === 0 && this.#underWay === 0,
      this.#options.drainTimeout,
    );
    this.#state = 'closed';
    this.#refuseQueued(() => true);
    for (const reentry of this.#reentries.keys()) reentry.refuse(() => true, refusalOf);
    for (const lease of this.#renewal.leases) lease.lose('shutdown');
    this.#renewal.stop();
    this.#deadlines.stop();
    // What is under way ends by its own command timeout; what it leaves is cleaned up while the connection is there.
    await this.#until(
      () => this.#queues.size === 0 && this.#underWay === 0,
      2 * this.#options.commandTimeout,
    );
    await this.#cleanUp.close();
    await this.#backend.close();
    this.#events.clear();
  }

  #refuseQueued(which: (request: LockRequest) => boolean): void {
    for (const queue of [...this.#queues.values()]) queue.refuse(which, refusalOf);
  }

  /** Ends when the condition holds, or after the timeout. Looked at whenever a lease, a queue or a try ends. */
  async #until(condition: () => boolean, timeout: number): Promise<void> {
    // Looked at when what just happened is over: in the middle of it, a lease may be on no list.
    await undefined;
    if (condition()) return;
    let timer: Timer | undefined;
    await new Promise<void>((resolve) => {
      timer = this.#clock.after(timeout, resolve);
      this.#onSettled = () => queueMicrotask(() => condition() && resolve());
    });
    timer?.cancel();
    this.#onSettled = undefined;
  }

  #othersWait(owner: string): void {
    const lease = this.#leases.get(owner);
    if (lease === undefined) this.#queues.get(owner)?.othersWait();
    else lease.othersSince = Math.min(lease.othersSince, this.#clock.now());
  }

  /** The lock, or `undefined` where the key is busy and the caller skips. */
  #take(
    key: string,
    options: UsingOptions | undefined,
    onBusyOf: (given: OnBusy) => OnBusy,
  ): Promise<HeldLock | undefined> {
    // No async function: a caller that waits would cost its frame as well.
    try {
      const since = this.#clock.now();
      let resolved = this.#options.defaults;
      let within: Lock | undefined;
      if (options !== undefined) {
        const { within: given, ...lockOptions } = options;
        within = given;
        resolved = resolveLockOptions(lockOptions, resolved);
      }
      const onBusy = onBusyOf(resolved.onBusy);
      const name = LockName.of(resolved.prefix, key);
      if (resolved.signal?.aborted) throw resolved.signal.reason;
      const request = new LockRequest(key, resolved, since, this.#heldKeys());
      if (this.#outer(name, within) !== undefined) {
        return this.#enterAgain(name, within, request, onBusy);
      }
      return this.#takeAnew(name, request, onBusy);
    } catch (error) {
      return Promise.reject(error as Error);
    }
  }

  /** Below a holder of the key: on its lease, for as long as there's one. */
  async #enterAgain(
    name: LockName,
    within: Lock | undefined,
    request: LockRequest,
    onBusy: OnBusy,
  ): Promise<HeldLock | undefined> {
    for (
      let outer = this.#outer(name, within);
      outer !== undefined;
      outer = this.#outer(name, within)
    ) {
      const outcome =
        onBusy === 'wait' ? await outer.reentry.enter(request) : outer.reentry.tryEnter();
      if (outcome === 'busy') return this.#busy(request.key, outer.remaining, onBusy);
      if (outcome === 'entered') {
        if (outer.isHeld) return new HeldLock(outer.lease, this.#keeper, outer);
        // Lost while it waited: whoever is behind it learns the same.
        outer.reentry.leave();
      }
    }
    return this.#takeAnew(name, request, onBusy);
  }

  #takeAnew(name: LockName, request: LockRequest, onBusy: OnBusy): Promise<HeldLock | undefined> {
    // Asked here and not at the door: entering a lock again takes nothing, and it may have become otherwise meanwhile.
    if (this.#refuses(request)) {
      return Promise.reject(new LockUnavailableError(request.key, 'shutting-down'));
    }
    return onBusy === 'wait'
      ? this.#queueOf(name).enter(request)
      : this.#tryOnce(name, request, onBusy);
  }

  #heldKeys(): readonly string[] {
    const keys = keysHeldByCall(this.#keeper);
    return keys.length < 2 ? keys : [...new Set(keys)];
  }

  /** The lock that this call may enter again: the one it names, or the one it was started under. */
  #outer(name: LockName, within: Lock | undefined): HeldLock | undefined {
    if (within === undefined) return heldByCallOn(this.#keeper, name);
    if (
      !(within instanceof HeldLock) ||
      within.keeper !== this.#keeper ||
      within.lease.name.owner !== name.owner
    ) {
      throw new LockConfigError(
        `Expected option \`within\` to be a lock that this service gave for the same key and prefix, got ${
          within instanceof HeldLock ? `one on '${within.key}'` : 'something else'
        }.`,
        'within',
        within,
      );
    }
    within.assertHeld();
    return within;
  }

  #busy(key: string, remaining: number | undefined, onBusy: OnBusy): undefined {
    this.#events.emit('busy', () => ({ key, remaining }));
    if (onBusy === 'throw') throw new LockBusyError(key, remaining);
    return undefined;
  }

  #queueOf(name: LockName): WaitQueue {
    let queue = this.#queues.get(name.owner);
    if (queue === undefined) {
      queue = new WaitQueue(name, this.#context);
      this.#queues.set(name.owner, queue);
    }
    return queue;
  }

  async #tryOnce(
    name: LockName,
    request: LockRequest,
    onBusy: OnBusy,
  ): Promise<HeldLock | undefined> {
    // It never jumps a queue: not the one at the backend, and not the one in this process.
    if (this.#queues.get(name.owner)?.contended) return this.#busy(name.key, undefined, onBusy);
    const { options } = request;
    const { ttl } = options;
    const notAfter = this.#clock.now() + this.#options.commandTimeout;
    // Under way until there's a lease: between the two, closing would find nothing to wait for.
    this.#underWay += 1;
    try {
      // Twice, because a reply that says "late" has set our idea of the server's clock right.
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const held = { name, token: this.#tokens.next(), ttl };
        const { token } = held;
        const asked = { name, token, ttl, notAfter, place: undefined };
        const outcome = await this.#backend.tryAcquire(asked);
        switch (outcome.kind) {
          case 'granted': {
            const { fencingToken, sentAt, othersWait } = outcome;
            if (this.#refuses(request)) {
              // It came while we began to close: work that begins now would be cut off.
              this.#cleanUp.cancel(held);
              throw new LockUnavailableError(name.key, 'shutting-down');
            }
            if (this.#clock.now() < validUntil(sentAt, ttl)) {
              const othersSince = othersWait ? sentAt : Number.POSITIVE_INFINITY;
              const grant = { name, token, ttl, fencingToken, sentAt, othersSince, hold: options };
              const lock = this.#newLock(grant);
              this.#tellAcquired(lock, request.since);
              return lock;
            }
            this.#cleanUp.cancel(held);
            break;
          }
          case 'busy':
            return this.#busy(name.key, outcome.remaining, onBusy);
          case 'late':
            break;
          case 'unavailable':
            if (outcome.mayHaveRun) this.#cleanUp.cancel(held, notAfter);
            throw unavailableError(name.key, outcome);
        }
      }
      throw new LockUnavailableError(name.key, 'no-answer');
    } finally {
      this.#underWay -= 1;
      this.#onSettled?.();
    }
  }

  /** Whether it's too late for a new lock. */
  #refuses({ heldKeys }: Pick<LockRequest, 'heldKeys'>): boolean {
    return this.#state === 'closed' || (this.#state === 'draining' && heldKeys.length === 0);
  }

  #newLock(grant: LeaseGrant): HeldLock {
    const lease = new Lease(grant, this.#clock, this.#onLost);
    this.#leases.set(lease.name.owner, lease);
    this.#renewal.watch(lease);
    return new HeldLock(lease, this.#keeper);
  }

  #handOver(lease: Lease, { options }: LockRequest): HeldLock {
    lease.passOn(options);
    this.#renewal.passedOn(lease);
    return new HeldLock(lease, this.#keeper);
  }

  #tellAcquired({ key, fencingToken }: HeldLock, since: number): void {
    this.#events.emit('acquired', () => ({
      key,
      fencingToken,
      waited: this.#clock.now() - since,
    }));
  }

  #tellReleased(key: string, fencingToken: number, grantedAt: number, kept: number): void {
    this.#events.emit('released', () => ({
      key,
      fencingToken,
      held: this.#clock.now() - grantedAt,
      kept,
    }));
  }

  readonly #onLost = (lease: Lease, reason: LostReason): void => {
    this.#renewal.unwatch(lease);
    // Who waits to enter it again competes like anyone.
    for (const [reentry, itsLease] of this.#reentries)
      if (itsLease === lease) this.#endReentry(reentry);
    // Nobody works under it any more, so the next need not wait for the server's expiry.
    if (reason === 'shutdown' || reason === 'max-hold')
      this.#cleanUp.release(() => releaseOf(lease));
    else if (reason !== 'taken')
      this.#cleanUp.cancel({ ...releaseOf(lease), lastFence: lease.fencingToken });
    this.#leaseEnded(lease);
    this.#events.emit('lost', () => ({
      key: lease.name.key,
      fencingToken: lease.fencingToken,
      reason,
    }));
    this.#onSettled?.();
  };

  /** Whether it's what we hold of its key: after a loss of data, there may be another before this one has ended. */
  #isCurrent(lease: Lease): boolean {
    return this.#leases.get(lease.name.owner) === lease;
  }

  #leaseEnded(lease: Lease): void {
    if (!this.#isCurrent(lease)) return;
    const { owner } = lease.name;
    this.#leases.delete(owner);
    this.#queues.get(owner)?.leaseEnded();
  }

  async #extend(lease: Lease): Promise<LockUnavailableError | undefined> {
    const outcome = await this.#renewal.renewNow(lease);
    return outcome.kind === 'unavailable' ? unavailableError(lease.name.key, outcome) : undefined;
  }

  async #release(lock: HeldLock): Promise<LockReleased> {
    const { lease, parent, startedReentry } = lock;
    if (startedReentry !== undefined) this.#endReentry(startedReentry);
    parent?.reentry.leave();
    lease.locks -= 1;
    if (lease.locks > 0) return lease.isHeld ? 'released' : 'lost';

    if (this.#isCurrent(lease) && this.#queues.get(lease.name.owner)?.passOn(lease))
      return 'released';
    if (!lease.markReleased()) return 'lost';
    // A renewal that is under way needn't be awaited: after the release it finds another's token or none, and the token
    // isn't used again.
    this.#renewal.unwatch(lease);
    const request = releaseOf(lease);
    this.#underWay += 1;
    const releasing = this.#backend.release(request);
    this.#leaseEnded(lease);
    const outcome = await releasing;
    this.#underWay -= 1;
    this.#onSettled?.();
    const { key } = lease.name;
    const { fencingToken } = lease;
    switch (outcome.kind) {
      case 'released':
        this.#tellReleased(key, fencingToken, lease.grantedAt, request.keepFor);
        return 'released';
      case 'taken':
        this.#events.emit('lost', () => ({ key, fencingToken, reason: 'taken' }));
        return 'lost';
      case 'unavailable':
        this.#cleanUp.release(() => releaseOf(lease));
        this.#events.emit('releaseFailed', () => ({ key, fencingToken, cause: outcome.cause }));
        return 'unconfirmed';
    }
  }

  #newReentry(lease: Lease): Reentry {
    const reentry = new Reentry(
      this.#deadlines,
      ({ key, since, heldKeys }) => new LockTimeoutError(key, this.#clock.now() - since, heldKeys),
    );
    this.#reentries.set(reentry, lease);
    return reentry;
  }

  /** Those who have waited for as long as they would, each in its own line. */
  #timeOut(): void {
    const now = this.#clock.now();
    for (let caller = this.#deadlines.takeDue(now); caller; caller = this.#deadlines.takeDue(now)) {
      caller.line?.timeOut(caller);
    }
  }

  #endReentry(reentry: Reentry): void {
    this.#reentries.delete(reentry);
    reentry.end();
  }
}

// What `onBusy` means to each of the ways in.
const asGiven = (given: OnBusy): OnBusy => given;
const waitOrThrow = (given: OnBusy): OnBusy => (given === 'wait' ? 'wait' : 'throw');
const skip = (): OnBusy => 'skip';

function refusalOf({ key }: ReentryRequest): LockUnavailableError {
  return new LockUnavailableError(key, 'shutting-down');
}

/** What gives a lease back at this moment, with what is left of its `holdAtLeast`. */
function releaseOf({ name, token, ttl, fencingToken, keepFor }: Lease): ReleaseRequest {
  return { name, token, ttl, lastFence: fencingToken, keepFor: Math.ceil(keepFor) };
}

/** A clock whose timers don't run in the context of the call that started them. */
function detached(clock: Clock, outside: <T>(work: () => T) => T): Clock {
  return {
    now: () => clock.now(),
    after: (delay, callback, kind) => outside(() => clock.after(delay, callback, kind)),
  };
}

/** What tests and simulations bring of their own. */
export interface LockerParts {
  readonly backend?: LockBackend;
  readonly clock?: Clock;
  readonly random?: () => number;
  /** In ms since the epoch: which tick of a schedule it is. */
  readonly wallClock?: () => number;
}
