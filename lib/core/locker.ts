import { AsyncLocalStorage } from 'node:async_hooks';

import { type Access, limitsDiffer } from './access.js';
import { Agenda } from './agenda.js';
import { openBackend } from './backend/open-backend.js';
import type {
  HolderState,
  LockBackend,
  LockState,
  ReleaseRequest,
} from './backend/lock-backend.js';
import { heldByCall, heldByCallOn, locksHeldByCall, runHolding } from './call-chain.js';
import { CleanUp } from './clean-up.js';
import { type Clock, systemClock, type Timer } from './clock.js';
import { DeadlockWatch } from './deadlock-watch.js';
import {
  type ForcedBy,
  LockBusyError,
  LockConfigError,
  LockDeadlockError,
  LockError,
  LockTimeoutError,
  LockUnavailableError,
  type LostReason,
} from './errors.js';
import { LockEmitter, type LockEventName, type LockListener } from './events.js';
import { EVERY_KEY, KeyPattern } from './key-pattern.js';
import { Lease, type LeaseGrant, validUntil } from './lease.js';
import { JointLock } from './joint-lock.js';
import { HeldLock, type Lock, type LockKeeper, type LockReleased } from './lock.js';
import { type LockKeys, LockName } from './lock-name.js';
import { LockRequest } from './lock-request.js';
import {
  type ForceReleaseOptions,
  type LockerOptions,
  type LockOptions,
  type OnBusy,
  type ResolvedLockerOptions,
  resolveForceReleaseOptions,
  type ResolvedLockOptions,
  resolveLockerOptions,
  resolveLockOptions,
} from './options.js';
import { Reentry, type ReentryRequest } from './reentry.js';
import { Renewal } from './renewal.js';
import { RunOnce } from './run-once.js';
import type { RunOnceOptions } from './run-options.js';
import type { RunInfo, RunOutcome, RunRecord } from './run-record.js';
import { TokenSource } from './token-source.js';
import { WaitGraph } from './wait-graph.js';
import { limitError, unavailableError, WaitQueue, type WaitQueueContext } from './wait-queue.js';
import type { Deadlines } from './waiting-line.js';
import type { Forced } from './wake-up.js';

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

/** What {@link Locker.forceRelease} found, and took from its holders. */
export type ForceReleased =
  | { readonly kind: 'released'; readonly held: readonly HolderState[] }
  /** Nobody held the key, and nothing was done. */
  | { readonly kind: 'not-held' };

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
  /** What this process holds alone, by the name's owner key. */
  readonly #leases = new Map<string, Lease>();
  /** What of it is shared with others. */
  readonly #sharers = new Map<string, Set<Lease>>();
  readonly #watch: DeadlockWatch | undefined;
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
  /** Whether we listen to what is told to holders. */
  #attends = false;
  /**
   * Leases that were released by force and that we don't know, by token and owner key, up to when to remember them: of those whose
   * grant is still on its way, the message came first.
   */
  readonly #forced = new Map<string, { readonly by: ForcedBy; readonly until: number }>();
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
    if (this.#options.detectDeadlocks) {
      this.#watch = new DeadlockWatch(this.#backend, this.#clock, commandTimeout);
    }
    const stands = new Map<string, WaitQueue>();
    this.#context = {
      backend: this.#backend,
      clock: this.#clock,
      random,
      events: this.#events,
      cleanUp: this.#cleanUp,
      deadlines: this.#deadlines,
      waits: this.#options.detectDeadlocks
        ? new WaitGraph((name, access) => this.#blocking(name, access))
        : undefined,
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
        case 'forced':
          this.#onForced(message);
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
      downgrade: (lease) => this.#downgrade(lease),
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
  using<T>(key: LockKeys, work: (lock: Lock) => T | PromiseLike<T>): Promise<T>;
  using<T>(
    key: LockKeys,
    options: UsingOptions & { onBusy: 'skip' },
    work: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T | undefined>;
  using<T>(
    key: LockKeys,
    options: UsingOptions,
    work: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T>;
  async using<T>(
    key: LockKeys,
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
      throw new LockUnavailableError(lock.key, reason, lock.lostError());
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
  acquire(key: LockKeys, options?: AcquireOptions): Promise<Lock> {
    // Only a caller that skips comes back without one.
    return this.#take(key, options, waitOrThrow) as Promise<Lock>;
  }

  /**
   * Takes a lock if it's free at this moment and nobody waits for it; else gives `null`.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   *
   * @example
   * const lock = await locks.tryAcquire('stock:42');
   * if (lock !== null) await lock.release();
   */
  async tryAcquire(key: LockKeys, options?: TryAcquireOptions): Promise<Lock | null> {
    return (await this.#take(key, options, skip)) ?? null;
  }

  /**
   * Who holds a key, and who waits for it.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   *
   * @example
   * const { held, pending } = await locks.inspect('stock:42');
   */
  async inspect(key: string, options?: Pick<LockOptions, 'prefix'>): Promise<LockState> {
    const { prefix } = resolveLockOptions(options, this.#options.defaults);
    return this.#stateOf(LockName.of(prefix, key));
  }

  /**
   * The locks that are held or waited for, sorted by key: all, or those whose key matches a glob of `*` (any text) and
   * `?` (one character); a backslash takes the next character literally. Each is told as it was when it was looked at,
   * not all as of one moment.
   *
   * For a look from time to time: it walks through all keys of the Redis server (SCAN; in a Cluster, of every master),
   * whatever they belong to. Each command is bounded by `commandTimeout`, not the whole.
   *
   * @throws LockUnavailableError where one server can't be asked, LockKeyError, LockConfigError.
   *
   * @example
   * for (const { key, held, pending } of await locks.query('stock:*')) console.log(key, held, pending.length);
   */
  async query(pattern?: string, options?: Pick<LockOptions, 'prefix'>): Promise<LockState[]> {
    const { prefix } = resolveLockOptions(options, this.#options.defaults);
    const names = await this.#namesOf(
      prefix,
      pattern === undefined ? EVERY_KEY : KeyPattern.of(pattern),
    );
    const states: LockState[] = [];
    for (let start = 0; start < names.length; start += LOOKS_AT_ONCE) {
      const some = names.slice(start, start + LOOKS_AT_ONCE);
      states.push(...(await Promise.all(some.map((name) => this.#stateOf(name)))));
    }
    return states
      .filter(({ held, pending }) => held.length > 0 || pending.length > 0)
      .toSorted((a, b) => (a.key < b.key ? -1 : 1));
  }

  async #namesOf(prefix: string, pattern: KeyPattern): Promise<readonly LockName[]> {
    if (pattern.exact !== undefined) return [LockName.of(prefix, pattern.exact)];
    const outcome = await this.#backend.names(prefix, pattern);
    if (outcome.kind === 'unavailable') {
      throw new LockUnavailableError(undefined, outcome.reason, outcome.cause);
    }
    return outcome.names;
  }

  async #stateOf(name: LockName): Promise<LockState> {
    const outcome = await this.#backend.query(name);
    if (outcome.kind === 'unavailable') throw unavailableError(name.key, outcome);
    const { state } = outcome;
    const access = this.#queues.get(name.owner)?.waitsHere;
    if (access === undefined) return state;
    return { ...state, pending: [...state.pending, { sequence: undefined, access }] };
  }

  /**
   * Runs a function once for each tick of a schedule, on whichever of the replicas claims the tick first; the others are told
   * why it's skipped there. By the wall clock of each process, or by `at`; replicas that are slow, or whose clocks differ, run
   * no tick twice. The function is given the lock under which it runs, and which tick it is.
   *
   * Its own result and exception come through untouched, and are recorded: see {@link Locker.runs}.
   *
   * @throws LockUnavailableError, LockKeyError, LockConfigError: the function was not run; nor with LockDeadlockError, where the
   * caller waits (`retryCrashed`) and holds what the runner waits for. LockLostError: it ran to its end, but its lock was
   * lost before that. The call ends within a few command timeouts, with `retryCrashed` and `per` more; where it runs the
   * function, within a ttl after that has ended.
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
    if (this.#refuses({ holding: this.#holding() })) {
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

  /**
   * Takes a key from whoever holds it, and hands it on to the next who waits: for a holder that is stuck, or whose
   * process hangs, when its ttl, `maxHold` or a restart isn't an option. A key that is only kept (`holdAtLeast`) is freed
   * as well.
   *
   * The holder's process is told at once: its `signal` aborts, with a LockLostError of reason `forced`. Until it hears of
   * it, and for as long as its work ignores the signal, it works beside the next holder: only a resource that checks the
   * fencing token is safe from that. A process that can't be told learns it at its next renewal, or, with
   * `renew: false`, at its deadline.
   *
   * @throws LockUnavailableError: it may or may not have been done; name the holder by its `fencingToken`, and it can be tried
   * again without hitting the next. LockKeyError, LockConfigError.
   *
   * @example
   * await locks.forceRelease('import', { reason: 'stuck since Tuesday, OPS-17' });
   */
  async forceRelease(key: string, options: ForceReleaseOptions = {}): Promise<ForceReleased> {
    const given = resolveForceReleaseOptions(options, this.#options.defaults);
    const { prefix, reason, fencingToken } = given;
    const name = LockName.of(prefix, key);
    const notAfter = this.#clock.now() + this.#options.commandTimeout;
    const outcome = await this.#backend.forceRelease({ name, reason, fencingToken, notAfter });
    if (outcome.kind === 'late') throw new LockUnavailableError(key, 'no-answer');
    if (outcome.kind === 'unavailable') throw unavailableError(key, outcome);
    const { held, by } = outcome;
    if (held.length === 0) return { kind: 'not-held' };
    this.#events.emit('forced', () => ({ key, held, by }));
    return { kind: 'released', held };
  }

  /** The lock under which the running call was started by `using`, if it's still held: the innermost, or that on `key`. */
  current(key?: string): Lock | undefined {
    for (const lock of heldByCall(this.#keeper)) {
      if (key === undefined) return lock.joint ?? lock;
      if (lock.key === key) return lock;
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

  #onForced({ token, owner, by }: Forced): void {
    // Keys that are taken together have one token.
    const lease = this.#renewal.leases.find(
      ({ token: its, name }) => its === token && name.owner === owner,
    );
    if (lease !== undefined) {
      lease.lose('forced', by);
      return;
    }
    const now = this.#clock.now();
    for (const [other, { until }] of this.#forced) if (until < now) this.#forced.delete(other);
    // Beyond that, a grant is too old to be one.
    this.#forced.set(`${token} ${owner}`, { by, until: now + this.#options.commandTimeout });
  }

  /** The lock, or `undefined` where the key is busy and the caller skips. */
  #take(
    key: LockKeys,
    options: UsingOptions | undefined,
    onBusyOf: (given: OnBusy) => OnBusy,
  ): Promise<HeldLock | JointLock | undefined> {
    const taken = this.#taking(key, options, onBusyOf);
    if (!this.#events.has('refused')) return taken;
    const since = this.#clock.now();
    return taken.catch((error: unknown) => {
      const known = LockError.is(error) ? error : undefined;
      this.#events.emit('refused', () => ({
        key: known?.key ?? (typeof key === 'string' ? key : undefined),
        code: known?.code ?? 'ABORTED',
        waited: this.#clock.now() - since,
        error,
      }));
      throw error;
    });
  }

  #taking(
    key: LockKeys,
    options: UsingOptions | undefined,
    onBusyOf: (given: OnBusy) => OnBusy,
  ): Promise<HeldLock | JointLock | undefined> {
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
      // Anything but an array is left to the check of a single key.
      if (Array.isArray(key)) {
        const names = LockName.ofAll(resolved.prefix, key);
        if (resolved.signal?.aborted) throw resolved.signal.reason;
        return this.#takeAll(names, within, onBusy, resolved, since);
      }
      const name = LockName.of(resolved.prefix, key as string);
      if (resolved.signal?.aborted) throw resolved.signal.reason;
      const request = new LockRequest(name.key, resolved, since, this.#holding());
      const outer = this.#outer(name, within);
      if (outer !== undefined) {
        checkReentry(name.key, outer.lease.access, resolved.access);
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
    all?: readonly LockName[],
  ): Promise<HeldLock | undefined> {
    for (
      let outer = this.#outer(name, within, all);
      outer !== undefined;
      outer = this.#outer(name, within, all)
    ) {
      const outcome =
        onBusy === 'wait' ? await outer.reentry.enter(request) : outer.reentry.tryEnter();
      if (outcome === 'busy') return this.#busy(request.key, outer.remaining, onBusy);
      if (outcome === 'entered') {
        try {
          // It may have been downgraded while this call waited.
          checkReentry(request.key, outer.lease.access, request.options.access);
          if (outer.isHeld) return new HeldLock(outer.lease, this.#keeper, outer);
        } catch (error) {
          outer.reentry.leave();
          throw error;
        }
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
    if (onBusy !== 'wait') return this.#tryOnce(name, request, onBusy);
    // Those who may be inside together needn't wait for each other's answers. Behind others who wait, they queue.
    const alone = request.options.access === 'exclusive' || this.#queues.has(name.owner);
    return alone ? this.#enter(name, request) : this.#tryThenWait(name, request);
  }

  #enter(name: LockName, request: LockRequest): Promise<HeldLock> {
    const queue = this.#queueOf(name);
    if (this.#watch === undefined || request.blocks.length === 0) return queue.enter(request);
    const end = this.#watch.watch(name, request, (error) => {
      queue.refuse(
        (one) => one === request,
        () => error,
      );
    });
    return queue.enter(request).finally(end);
  }

  async #tryThenWait(name: LockName, request: LockRequest): Promise<HeldLock> {
    const [lock] = (await this.#ask([name], request)) ?? [];
    const { signal } = request.options;
    if (lock !== undefined && signal?.aborted) {
      await lock.giveBack();
      throw signal.reason;
    }
    // It may have become too late meanwhile.
    if (lock === undefined && this.#refuses(request)) {
      throw new LockUnavailableError(name.key, 'shutting-down');
    }
    return lock ?? this.#enter(name, request);
  }

  /** Several keys: those that are held by the call already, then the others, all at once or one after the other. */
  async #takeAll(
    names: readonly LockName[],
    within: Lock | undefined,
    onBusy: OnBusy,
    options: ResolvedLockOptions,
    since: number,
  ): Promise<JointLock | undefined> {
    const holding = this.#holding();
    const parts: HeldLock[] = [];
    const requestFor = ({ key }: LockName) =>
      new LockRequest(key, options, since, holding, [...parts]);
    try {
      const others: LockName[] = [];
      for (const name of names) {
        const outer = this.#outer(name, within, names);
        if (outer === undefined) {
          others.push(name);
          continue;
        }
        checkReentry(name.key, outer.lease.access, options.access);
        const lock = await this.#enterAgain(name, within, requestFor(name), onBusy, names);
        if (lock === undefined) return await giveBack(parts);
        parts.push(lock);
      }
      const taken = await this.#takeOthers(others, requestFor, onBusy, parts);
      if (!taken) return await giveBack(parts);
      return new JointLock(parts);
    } catch (error) {
      await giveBack(parts);
      throw error;
    }
  }

  /** Adds the locks to `parts` as they're taken, so that none is forgotten. Whether all were. */
  async #takeOthers(
    names: readonly LockName[],
    requestFor: (name: LockName) => LockRequest,
    onBusy: OnBusy,
    parts: HeldLock[],
  ): Promise<boolean> {
    const [first] = names;
    if (first === undefined) return true;
    if (names.length > 1 && this.#backend.joinsKeys) {
      const request = requestFor(first);
      if (this.#refuses(request)) throw new LockUnavailableError(first.key, 'shutting-down');
      const contended = names.find(({ owner }) => this.#queues.get(owner)?.contended);
      if (contended === undefined) {
        const busy = onBusy === 'wait' ? undefined : this.#busyTo(onBusy);
        const locks = await this.#ask(names, request, busy);
        if (locks !== undefined) {
          parts.push(...locks);
          request.signal?.throwIfAborted();
          return true;
        }
        if (onBusy !== 'wait') return false;
      } else if (onBusy !== 'wait') {
        this.#busy(contended.key, undefined, onBusy);
        return false;
      }
    }
    // In one order everywhere, so that two who want the same keys don't wait for each other.
    const taken: HeldLock[] = [];
    for (const name of names) {
      const lock = await this.#takeAnew(name, requestFor(name), onBusy);
      if (lock === undefined) return false;
      parts.push(lock);
      taken.push(lock);
    }
    if (taken.length > 1) await this.#alignFences(taken);
    requestFor(first).signal?.throwIfAborted();
    return true;
  }

  /** Gives locks that were taken one after the other one fencing token, the largest of theirs. */
  async #alignFences(locks: readonly HeldLock[]): Promise<void> {
    const fencingToken = Math.max(...locks.map((lock) => lock.fencingToken));
    const notAfter = this.#clock.now() + this.#options.commandTimeout;
    const groups = this.#backend.joinsKeys ? [locks] : locks.map((lock) => [lock]);
    await Promise.all(
      groups.map(async (group) => {
        const { ttl, access, name, label } = (group[0] as HeldLock).lease;
        const wanted = group.map(({ lease }) => lease);
        const asked = { wanted, ttl, access, notAfter, fencingToken, label };
        const outcome = await this.#backend.tryAcquireAll(asked);
        switch (outcome.kind) {
          case 'granted':
            for (const lock of group) {
              lock.lease.prolong(outcome.sentAt);
              lock.raiseFence(fencingToken);
            }
            break;
          case 'unavailable':
            throw unavailableError(name.key, outcome);
          case 'late':
            throw new LockUnavailableError(name.key, 'no-answer');
          case 'busy':
          case 'conflict':
            // Lost already, while the others were waited for.
            group[outcome.index]?.lease.lose('taken');
            throw new LockUnavailableError(
              name.key,
              'no-answer',
              group[outcome.index]?.lostError(),
            );
        }
      }),
    );
  }

  #holding(): readonly HeldLock[] {
    return locksHeldByCall(this.#keeper);
  }

  /** The lock that this call may enter again: the one it names, or the one it was started under. `all`: what it wants. */
  #outer(
    name: LockName,
    within: Lock | undefined,
    all: readonly LockName[] = [name],
  ): HeldLock | undefined {
    if (within === undefined) return heldByCallOn(this.#keeper, name);
    const given =
      within instanceof JointLock ? within.parts : within instanceof HeldLock ? [within] : [];
    const ours = given.filter(({ keeper }) => keeper === this.#keeper);
    const on = ({ owner }: LockName) => ours.find(({ lease }) => lease.name.owner === owner);
    if (!all.some((one) => on(one) !== undefined)) {
      throw new LockConfigError(
        `Expected option \`within\` to be a lock that this service gave for the same key and prefix, got ${
          given.length > 0 ? `one on '${within.key}'` : 'something else'
        }.`,
        'within',
        within,
      );
    }
    const lock = on(name);
    lock?.assertHeld();
    return lock ?? heldByCallOn(this.#keeper, name);
  }

  #busy(key: string, remaining: number | undefined, onBusy: OnBusy): undefined {
    this.#events.emit('busy', () => ({ key, remaining }));
    if (onBusy === 'throw') throw new LockBusyError(key, remaining);
    this.#events.emit('skipped', () => ({ key, remaining }));
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
    return (await this.#ask([name], request, this.#busyTo(onBusy)))?.[0];
  }

  #busyTo(onBusy: OnBusy): BusyListener {
    return (key, remaining) => this.#busy(key, remaining, onBusy);
  }

  /** Asks once for all of these keys, without waiting. `undefined` where one is busy. */
  async #ask(
    names: readonly LockName[],
    request: LockRequest,
    onBusy?: BusyListener,
  ): Promise<HeldLock[] | undefined> {
    const { options } = request;
    const name = names[0] as LockName;
    const { ttl, access, label } = options;
    const notAfter = this.#clock.now() + this.#options.commandTimeout;
    // Under way until there's a lease: between the two, closing would find nothing to wait for.
    this.#underWay += 1;
    try {
      // Twice, because a reply that says "late" has set our idea of the server's clock right.
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const token = this.#tokens.next();
        const undo = (refusedAfter?: number) => {
          for (const one of names) this.#cleanUp.cancel({ name: one, token, ttl }, refusedAfter);
        };
        const outcome =
          names.length === 1
            ? await this.#backend.tryAcquire({
                name,
                token,
                ttl,
                access,
                notAfter,
                label,
                place: undefined,
              })
            : await this.#backend.tryAcquireAll({
                wanted: names.map((one) => ({ name: one, token })),
                ...{ ttl, access, notAfter, fencingToken: undefined, label },
              });
        // Of several, which one is meant.
        const { key } = 'index' in outcome ? (names[outcome.index] as LockName) : name;
        switch (outcome.kind) {
          case 'granted': {
            const { fencingToken, sentAt, othersWait } = outcome;
            if (this.#refuses(request)) {
              // It came while we began to close: work that begins now would be cut off.
              undo();
              throw new LockUnavailableError(key, 'shutting-down');
            }
            if (this.#clock.now() < validUntil(sentAt, ttl)) {
              const othersSince = othersWait ? sentAt : Number.POSITIVE_INFINITY;
              const grant = { token, ttl, fencingToken, sentAt, othersSince, hold: options };
              const locks = names.map((one) => this.#newLock({ ...grant, name: one }));
              for (const lock of locks) this.#tellAcquired(lock, request.since);
              return locks;
            }
            undo();
            break;
          }
          case 'busy':
            return onBusy?.(key, outcome.remaining);
          case 'conflict':
            throw limitError(key, access, outcome.access);
          case 'late':
            break;
          case 'unavailable':
            if (outcome.mayHaveRun) undo(notAfter);
            throw unavailableError(key, outcome);
        }
      }
      throw new LockUnavailableError(name.key, 'no-answer');
    } finally {
      this.#underWay -= 1;
      this.#onSettled?.();
    }
  }

  /** Whether it's too late for a new lock. */
  #refuses({ holding }: Pick<LockRequest, 'holding'>): boolean {
    return this.#state === 'closed' || (this.#state === 'draining' && holding.length === 0);
  }

  #newLock(grant: LeaseGrant): HeldLock {
    const lease = new Lease(grant, this.#clock, this.#onLost);
    // Those that are shared are never passed on.
    if (lease.access === 'exclusive') this.#leases.set(lease.name.owner, lease);
    else this.#addSharer(lease);
    this.#renewal.watch(lease);
    if (!this.#attends) this.#attend();
    if (this.#forced.size > 0) this.#loseIfForced(lease);
    return new HeldLock(lease, this.#keeper);
  }

  #loseIfForced(lease: Lease): void {
    const forced = this.#forced.get(`${lease.token} ${lease.name.owner}`);
    if (forced === undefined) return;
    // When whoever makes it has told of it.
    this.#outside(() => queueMicrotask(() => lease.lose('forced', forced.by)));
  }

  /** There's something to be told of, from now on. */
  #attend(): void {
    this.#attends = true;
    if (this.#options.wakeUp === 'publish') {
      this.#outside(() => this.#backend.wakeUp.attend());
    }
  }

  #addSharer(lease: Lease): void {
    const { owner } = lease.name;
    const sharers = this.#sharers.get(owner);
    if (sharers === undefined) this.#sharers.set(owner, new Set([lease]));
    else sharers.add(lease);
  }

  /** The leases of this process that all must end before one who waits can have the key. */
  #blocking({ owner }: LockName, access: Access): Iterable<Lease> {
    const lease = this.#leases.get(owner);
    if (lease !== undefined) return [lease];
    return access === 'exclusive' ? (this.#sharers.get(owner) ?? []) : [];
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
    else if (reason !== 'taken' && reason !== 'forced')
      this.#cleanUp.cancel({ ...releaseOf(lease), lastFence: lease.fencingToken });
    this.#leaseEnded(lease);
    this.#events.emit('lost', () => ({
      key: lease.name.key,
      fencingToken: lease.fencingToken,
      held: this.#clock.now() - lease.grantedAt,
      reason,
      by: lease.lostBy,
    }));
    this.#onSettled?.();
  };

  /** Whether it's what we hold of its key: after a loss of data, there may be another before this one has ended. */
  #isCurrent(lease: Lease): boolean {
    return this.#leases.get(lease.name.owner) === lease;
  }

  #leaseEnded(lease: Lease): void {
    const sharers = this.#sharers.get(lease.name.owner);
    if (sharers?.delete(lease) && sharers.size === 0) this.#sharers.delete(lease.name.owner);
    if (!this.#isCurrent(lease)) return;
    const { owner } = lease.name;
    this.#leases.delete(owner);
    this.#queues.get(owner)?.leaseEnded();
  }

  async #downgrade(lease: Lease): Promise<LockUnavailableError | undefined> {
    // From here on it's believed to be shared, which is less: whatever becomes of the command, nobody is misled.
    lease.access = 'shared';
    const outcome = this.#backend.downgrade(lease);
    this.#leaseEnded(lease);
    if (lease.isHeld) this.#addSharer(lease);
    const done = await outcome;
    if (done.kind === 'taken') lease.lose('taken');
    return done.kind === 'unavailable' ? unavailableError(lease.name.key, done) : undefined;
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
        this.#events.emit('lost', () => ({
          key,
          fencingToken,
          held: this.#clock.now() - lease.grantedAt,
          reason: 'taken',
          by: undefined,
        }));
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
      lease.access !== 'exclusive',
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

/** How many locks a query looks at together: enough to keep the server busy, and not so many that the last are late. */
const LOOKS_AT_ONCE = 100;

// What `onBusy` means to each of the ways in.
const asGiven = (given: OnBusy): OnBusy => given;
const waitOrThrow = (given: OnBusy): OnBusy => (given === 'wait' ? 'wait' : 'throw');
const skip = (): OnBusy => 'skip';

function refusalOf({ key }: ReentryRequest): LockUnavailableError {
  return new LockUnavailableError(key, 'shutting-down');
}

/** Tells that a key is busy; throws where the caller is to be refused. */
type BusyListener = (key: string, remaining: number | undefined) => undefined;

/** Gives back what was taken of several keys, where not all could be. */
async function giveBack(parts: readonly HeldLock[]): Promise<undefined> {
  await Promise.all(parts.map((part) => part.giveBack()));
}

/** What gives a lease back at this moment, with what is left of its `holdAtLeast`. */
function releaseOf({ name, token, ttl, access, fencingToken, keepFor }: Lease): ReleaseRequest {
  return { name, token, ttl, access, lastFence: fencingToken, keepFor: Math.ceil(keepFor) };
}

/** Who holds a key alone may enter it again in any way; who shares it, in the same way only. */
function checkReentry(key: string, held: Access, asked: Access): void {
  if (held === 'exclusive' || asked === held) return;
  if (limitsDiffer(held, asked)) throw limitError(key, asked, held);
  throw LockDeadlockError.ofUpgrade(key);
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
