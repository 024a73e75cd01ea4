import { AsyncLocalStorage } from 'node:async_hooks';

import { type Access, capacityOf, checkReentry } from './access.js';
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
import { diagnose } from './diagnosis.js';
import { DeadlockWatch } from './deadlock-watch.js';
import {
  LockBusyError,
  LockConfigError,
  LockError,
  LockSafetyError,
  LockTimeoutError,
  LockUnavailableError,
  type LostReason,
} from './errors.js';
import { LockEmitter, type LockEventName, type LockListener } from './events.js';
import { ForcedReleases } from './forced-releases.js';
import { Inspection, withRuns } from './inspection.js';
import { JointAcquire } from './joint-acquire.js';
import { JointLock } from './joint-lock.js';
import { EVERY_KEY, KeyPattern } from './key-pattern.js';
import { Lease, type LeaseGrant } from './lease.js';
import { HeldLock, type Lock, type LockKeeper, type LockReleased } from './lock.js';
import { type LockKeys, LockName } from './lock-name.js';
import { LockRequest } from './lock-request.js';
import {
  type ForceReleaseOptions,
  type LockerOptions,
  type LockOptions,
  type OnBusy,
  promotionLag,
  type QueryOptions,
  type ResolvedLockerOptions,
  resolveForceReleaseOptions,
  resolveLockerOptions,
  resolveLockOptions,
  resolveQueryOptions,
  quorumLimitError,
} from './options.js';
import { Reentry, type ReentryRequest } from './reentry.js';
import { Renewal } from './renewal.js';
import { RunOnce } from './run-once.js';
import type { RunOnceOptions } from './run-options.js';
import type { RunInfo, RunOutcome, RunRecord } from './run-record.js';
import type { Diagnosis } from './safety.js';
import { SingleTries } from './single-tries.js';
import { TokenSource } from './token-source.js';
import { WaitGraph } from './wait-graph.js';
import { unavailableError, WaitQueue, type WaitQueueContext } from './wait-queue.js';
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

/** Options of {@link Locker.initializeGuard}. */
export interface InitializeGuardOptions extends Pick<LockOptions, 'prefix'> {
  /** The caller knows that no process holds a lock on these servers, or believes that it does. */
  noLockIsHeld: true;
}

/** What {@link Locker.initializeGuard} did: made the guard's record, or found one. */
export type GuardInitialized = 'initialized' | 'present';

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
  readonly #tries: SingleTries;
  readonly #joint: JointAcquire;
  readonly #runOnce: RunOnce;
  readonly #inspection: Inspection;
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
  readonly #forced: ForcedReleases;
  /** How many releases are under way. */
  #releasing = 0;
  #onSettled: (() => void) | undefined;

  /**
   * @throws LockConfigError that names the option, its value and the remedy.
   */
  constructor(options: LockerOptions, parts: LockerParts = {}) {
    this.#options = resolveLockerOptions(options);
    this.#clock = detached(parts.clock ?? systemClock, this.#outside);
    const random = parts.random ?? Math.random;
    const { commandTimeout } = this.#options;
    this.#backend = parts.backend ?? openBackend(this.#options, this.#clock, random, this.#events);
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
          if (message.owner === undefined) {
            for (const queue of this.#queues.values()) queue.wake();
            // For the first time as well: it's opened with the first lease, which may have been taken away since.
            this.#renewal.lookAtAll();
          } else {
            this.#queues.get(message.owner)?.wake();
          }
          break;
      }
    });
    this.#keeper = {
      release: (lock) => this.#release(lock),
      extend: (lease) => this.#extend(lease),
      downgrade: (lease) => this.#downgrade(lease),
      newReentry: (lease) => this.#newReentry(lease),
    };
    this.#tries = new SingleTries({
      backend: this.#backend,
      clock: this.#clock,
      cleanUp: this.#cleanUp,
      commandTimeout,
      newToken: () => this.#tokens.next(),
      newLock: (grant) => this.#newLock(grant),
      tellAcquired: (lock, since) => this.#tellAcquired(lock, since),
      refuses: (request) => this.#refuses(request),
      settled: () => this.#onSettled?.(),
    });
    this.#joint = new JointAcquire({
      backend: this.#backend,
      clock: this.#clock,
      commandTimeout,
      tries: this.#tries,
      isContended: ({ owner }) => this.#queues.get(owner)?.contended === true,
      refuses: (request) => this.#refuses(request),
      busy: (key, remaining, onBusy) => this.#busy(key, remaining, onBusy),
      outer: (name, within, all) => this.#outer(name, within, all),
      enterAgain: (name, within, request, onBusy, all) =>
        this.#enterAgain(name, within, request, onBusy, all),
      takeAnew: (name, request, onBusy) => this.#takeAnew(name, request, onBusy),
    });
    this.#forced = new ForcedReleases(this.#clock, commandTimeout);
    this.#inspection = new Inspection(
      this.#backend,
      ({ owner }) => this.#queues.get(owner)?.waitsHere,
    );
    this.#runOnce = new RunOnce({
      backend: this.#backend,
      clock: this.#clock,
      wallClock: parts.wallClock ?? (() => Date.now()),
      random,
      defaults: this.#options.defaults,
      commandTimeout,
      cleanUp: this.#cleanUp,
      application: this.#options.application,
      acquire: (key, lockOptions) => this.#take(key, lockOptions, waitOrThrow) as Promise<HeldLock>,
      settled: () => this.#onSettled?.(),
    });
  }

  /**
   * Waits for the first connection. Whether it's there; calls fail with `LockUnavailableError` until it is.
   * @throws LockUnavailableError with `requireConnection: true` or `safety: 'strict'`, if Redis can't be reached.
   * LockSafetyError with `safety: 'strict'`, if the servers and options are less safe than that, or it can't be found out.
   */
  async connect(): Promise<boolean> {
    const { requireConnection, safety } = this.#options;
    const outcome = await this.#backend.connect();
    if (outcome.kind === 'connected') {
      if (safety === 'strict') {
        const diagnosis = await this.diagnose();
        if (diagnosis.level !== 'strict') throw new LockSafetyError(diagnosis);
      }
      return true;
    }
    if (requireConnection || safety === 'strict') throw unavailableError(undefined, outcome);
    return false;
  }

  /**
   * Asks the servers that keep the locks how they're set up, and says which promise holds under which fault, and what to
   * change: see {@link Diagnosis}. What may not be asked is `'unknown'`, never guessed. For a start, a health check, a look:
   * about 20 short commands to each server, within a few `commandTimeout`; nothing is changed there.
   *
   * @throws LockUnavailableError where no server can be asked.
   *
   * @example
   * const { level, findings } = await locks.diagnose();
   * for (const { message, remedy } of findings) console.log(message, remedy);
   */
  async diagnose(): Promise<Diagnosis> {
    const outcome = await this.#backend.survey();
    if (outcome.kind === 'unavailable') {
      throw new LockUnavailableError(undefined, outcome.reason, outcome.cause, outcome.facts);
    }
    const { commandTimeout, wakeUp, defaults, replicas = false, guard: given } = this.#options;
    const { ttl } = defaults;
    const guard = given !== undefined && {
      longestTtl: given.longestTtl,
      lag: promotionLag(given, outcome.layout),
    };
    return diagnose(outcome, { guard, replicas, wakeUp, ttl, commandTimeout });
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
    const since = this.#events.has('refused') ? this.#clock.now() : 0;
    const lock = await this.#take(key, options, asGiven);
    if (lock === undefined) return undefined;
    if (!lock.isHeld) {
      // Granted, and gone before the work could begin: the event loop was blocked, or the locker closed. What is left of
      // several keys is given back without waiting for it: the call's time may be over.
      void lock.release();
      const reason = this.#state === 'closed' ? 'shutting-down' : 'no-answer';
      const error = new LockUnavailableError(lock.key, reason, lock.lostError());
      this.#tellRefused(key, options, since, error);
      throw error;
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
    return this.#inspection.stateOf(LockName.of(prefix, key));
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
   * for (const { key, runs } of await locks.query('nightly-*', { runs: true })) console.log(key, runs?.[0]?.state);
   */
  async query(pattern?: string, options: QueryOptions = {}): Promise<LockState[]> {
    const { prefix, runs } = resolveQueryOptions(options, this.#options.defaults);
    const keys = pattern === undefined ? EVERY_KEY : KeyPattern.of(pattern);
    const states = await this.#inspection.query(prefix, keys);
    return runs ? withRuns(states, await this.#runOnce.query(prefix, keys)) : states;
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
   * fencing token is safe from that. A process that was cut off from what is told asks for all
   * its locks as soon as it hears again; one that never hears (`wakeUp: 'poll'`) learns it at its next renewal, or, with
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

  /**
   * Says that this is a new installation, on which no lock can be held, so that the option `guard` needn't keep its servers
   * from granting at first: for the first deploy, and for tests. Does nothing where there's a guard already, and refuses
   * where locks are found.
   *
   * Not to be called at each start of the application: after a server has lost its data, it looks like a new one, and the
   * locks that were held may still be believed to be. That is what the guard is for.
   *
   * @throws LockUnavailableError, LockConfigError: without `guard`, with locks or records of jobs there, or not said explicitly.
   *
   * @example
   * await locks.initializeGuard({ noLockIsHeld: true });
   */
  async initializeGuard({
    noLockIsHeld,
    ...options
  }: InitializeGuardOptions): Promise<GuardInitialized> {
    const { prefix } = resolveLockOptions(options, this.#options.defaults);
    if (noLockIsHeld !== true) {
      throw new LockConfigError(
        'Expected initializeGuard({ noLockIsHeld: true }): say that no process holds a lock on these servers, or believes that it does, as on a new installation. Elsewhere let the guard wait.',
        'noLockIsHeld',
        noLockIsHeld,
      );
    }
    const outcome = await this.#backend.initializeGuard(prefix);
    switch (outcome.kind) {
      case 'unavailable':
        throw new LockUnavailableError(undefined, outcome.reason, outcome.cause, outcome.facts);
      case 'unguarded':
        throw new LockConfigError(
          'There is no guard to initialize: set the option `guard`.',
          'guard',
        );
      case 'in-use': {
        const keys = outcome.names.slice(0, 3).map(({ key }) => JSON.stringify(key));
        throw new LockConfigError(
          `This is no new installation: there are ${outcome.names.length} locks or jobs under the prefix '${prefix}', such as ${keys.join(', ')}. Let the guard wait: it grants after its longest lease.`,
        );
      }
      case 'initialized':
      case 'present':
        return outcome.kind;
    }
  }

  /** The lock under which the running call was started by `using`, if it's still held: the innermost, or that on `key`. */
  current(key?: string): Lock | undefined {
    for (const lock of heldByCall(this.#keeper)) {
      // Of several, each is held only while all are.
      const whole = lock.joint ?? lock;
      if (!whole.isHeld) continue;
      if (key === undefined) return whole;
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
    await this.#until(() => this.#renewal.size === 0 && this.#isIdle, this.#options.drainTimeout);
    this.#state = 'closed';
    this.#refuseQueued(() => true);
    for (const reentry of this.#reentries.keys()) reentry.refuse(() => true, refusalOf);
    for (const lease of this.#renewal.leases) lease.lose('shutdown');
    this.#renewal.stop();
    this.#deadlines.stop();
    // What is under way ends by its own command timeout; what it leaves is cleaned up while the connection is there.
    await this.#until(
      () => this.#queues.size === 0 && this.#isIdle,
      2 * this.#options.commandTimeout,
    );
    await this.#cleanUp.close();
    await this.#backend.close();
    this.#events.clear();
  }

  #refuseQueued(which: (request: LockRequest) => boolean): void {
    for (const queue of [...this.#queues.values()]) queue.refuse(which, refusalOf);
  }

  /** Whether no command for a lock is under way that isn't a queue's. */
  get #isIdle(): boolean {
    return this.#releasing === 0 && this.#tries.size === 0 && this.#runOnce.claims === 0;
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

  #onForced(forced: Forced): void {
    const lease = this.#renewal.leases.find(
      ({ token, name }) => token === forced.token && name.owner === forced.owner,
    );
    if (lease === undefined) this.#forced.remember(forced);
    else lease.lose('forced', forced.by);
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
      this.#tellRefused(key, options, since, error);
      throw error;
    });
  }

  #tellRefused(
    key: LockKeys,
    options: UsingOptions | undefined,
    since: number,
    error: unknown,
  ): void {
    const signal = options?.signal;
    // Whatever the reason is: it may well be the loss of another lock.
    const aborted = signal?.aborted === true && error === signal.reason;
    const known = !aborted && LockError.is(error) ? error : undefined;
    this.#events.emit('refused', () => ({
      key: known?.key ?? (typeof key === 'string' ? key : undefined),
      code: known?.code ?? 'ABORTED',
      waited: this.#clock.now() - since,
      error,
    }));
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
      if (!this.#backend.countsHolders && resolved.access.startsWith('limit:')) {
        throw quorumLimitError(capacityOf(resolved.access));
      }
      const onBusy = onBusyOf(resolved.onBusy);
      // Anything but an array is left to the check of a single key.
      if (Array.isArray(key)) {
        const names = LockName.ofAll(resolved.prefix, key);
        if (resolved.signal?.aborted) throw resolved.signal.reason;
        const holding = this.#holding();
        return this.#joint.take(names, { within, onBusy, options: resolved, since, holding });
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
    const [lock] = (await this.#tries.ask([name], request)) ?? [];
    const { signal } = request.options;
    if (lock !== undefined && signal?.aborted) {
      // Not awaited: the call's time may be over.
      void lock.giveBack();
      throw signal.reason;
    }
    // It may have become too late meanwhile.
    if (lock === undefined && this.#refuses(request)) {
      throw new LockUnavailableError(name.key, 'shutting-down');
    }
    return lock ?? this.#enter(name, request);
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
    const locks = await this.#tries.ask([name], request, (key, remaining) =>
      this.#busy(key, remaining, onBusy),
    );
    return locks?.[0];
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
    const by = this.#forced.byWhom(lease);
    // When whoever makes it has told of it.
    if (by !== undefined) this.#outside(() => queueMicrotask(() => lease.lose('forced', by)));
    return new HeldLock(lease, this.#keeper);
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
      void this.#cleanUp.release(() => releaseOf(lease));
    else if ((reason !== 'taken' && reason !== 'forced') || this.#backend.losesInPart)
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
    this.#releasing += 1;
    const releasing = this.#backend.release(request);
    this.#leaseEnded(lease);
    const outcome = await releasing;
    this.#releasing -= 1;
    this.#onSettled?.();
    const { key } = lease.name;
    const { fencingToken } = lease;
    switch (outcome.kind) {
      case 'released':
        this.#tellReleased(key, fencingToken, lease.grantedAt, request.keepFor);
        return 'released';
      case 'taken':
        if (this.#backend.losesInPart) this.#cleanUp.cancel(releaseOf(lease));
        this.#events.emit('lost', () => ({
          key,
          fencingToken,
          held: this.#clock.now() - lease.grantedAt,
          reason: 'taken',
          by: undefined,
        }));
        return 'lost';
      case 'unavailable':
        void this.#cleanUp.release(() => releaseOf(lease));
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

// What `onBusy` means to each of the ways in.
const asGiven = (given: OnBusy): OnBusy => given;
const waitOrThrow = (given: OnBusy): OnBusy => (given === 'wait' ? 'wait' : 'throw');
const skip = (): OnBusy => 'skip';

function refusalOf({ key }: ReentryRequest): LockUnavailableError {
  return new LockUnavailableError(key, 'shutting-down');
}

/** What gives a lease back at this moment, with what is left of its `holdAtLeast`. */
function releaseOf({ name, token, ttl, access, fencingToken, keepFor }: Lease): ReleaseRequest {
  return { name, token, ttl, access, lastFence: fencingToken, keepFor: Math.ceil(keepFor) };
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
