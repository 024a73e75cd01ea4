import {
  type BeforeApplicationShutdown,
  Injectable,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { type Observable, ReplaySubject } from 'rxjs';

import type { LockState } from '../core/backend/lock-backend.js';
import type { LockEvent, LockEventName, LockListener } from '../core/events.js';
import type { Lock } from '../core/lock.js';
import type { LockKeys } from '../core/lock-name.js';
import {
  type AcquireOptions,
  type ForceReleased,
  type GuardInitialized,
  type InitializeGuardOptions,
  Locker,
  type TryAcquireOptions,
  type UsingOptions,
} from '../core/locker.js';
import type {
  ForceReleaseOptions,
  LockerOptions,
  LockOptions,
  QueryOptions,
} from '../core/options.js';
import type { RunOnceOptions } from '../core/run-options.js';
import type { RunInfo, RunOutcome, RunRecord } from '../core/run-record.js';
import type { Diagnosis } from '../core/safety.js';
import { lockEventStream } from './lock-event-stream.js';
import { LockLog } from './lock-log.js';

/**
 * Distributed locks, as a provider: what `RedisLockModule` makes one of for each instance. It's a `Locker` that lives
 * and ends with the application:
 *
 *     boot ──connect──▶ serving ──beforeApplicationShutdown──▶ draining ──onApplicationShutdown──▶ closed
 *
 * It begins to drain before Nest closes its servers: requests that wait for a lock end at once instead of holding the
 * shutdown up, and those that hold one have `drainTimeout` to finish.
 *
 * @example
 * constructor(private readonly locks: RedisLockService) {}
 *
 * await this.locks.using('stock:42', async (lock) => {
 *   await this.stock.save({ fence: lock.fencingToken });
 * });
 */
@Injectable()
export class RedisLockService implements BeforeApplicationShutdown, OnApplicationShutdown {
  /**
   * All events of this instance's locks, each as `{ type, ...facts }`. Cold: each subscriber listens for itself until it
   * unsubscribes. Completes when the application has closed its locks.
   *
   * An error that a subscriber throws never reaches a lock. It's reported as rxjs reports any: by
   * `config.onUnhandledError`, and without one as an uncaught exception.
   *
   * @example
   * locks.events$.pipe(filter(({ type }) => type === 'lost')).subscribe((event) => alert(event));
   */
  readonly events$: Observable<LockEvent>;
  readonly #locker: Locker;
  /** Tells also those who subscribe later. */
  readonly #closed = new ReplaySubject<void>(1);

  /** Made by the module. Without Nest, use `Locker`. */
  constructor(locker: Locker) {
    this.#locker = locker;
    this.events$ = lockEventStream(locker, this.#closed);
  }

  /**
   * Makes the service of one module instance and connects it.
   * @internal
   */
  static async open(options: LockerOptions, name?: string): Promise<RedisLockService> {
    const locker = new Locker(options);
    const log = new LockLog(locker, name);
    let connected: boolean;
    try {
      connected = await locker.connect();
    } catch (error) {
      // The application doesn't come up, so nobody would ever close what was opened.
      await locker.close();
      throw error;
    }
    if (!connected) log.unreachableAtBoot();
    else if (options.safety !== 'off') await log.tellSafety(locker);
    return new RedisLockService(locker);
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
  using<T>(
    key: LockKeys,
    optionsOrWork: UsingOptions | ((lock: Lock) => T | PromiseLike<T>),
    work?: (lock: Lock) => T | PromiseLike<T>,
  ): Promise<T | undefined> {
    // The locker tells the forms apart, and refuses what is neither.
    return this.#locker.using(key, optionsOrWork as UsingOptions, work as (lock: Lock) => T);
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
    return this.#locker.acquire(key, options);
  }

  /**
   * Takes a lock if it's free at this moment and nobody waits for it; else gives `null`.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   *
   * @example
   * const lock = await locks.tryAcquire('stock:42');
   * if (lock !== null) await lock.release();
   */
  tryAcquire(key: LockKeys, options?: TryAcquireOptions): Promise<Lock | null> {
    return this.#locker.tryAcquire(key, options);
  }

  /**
   * Who holds a key, and who waits for it.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   *
   * @example
   * const { held, pending } = await locks.inspect('stock:42');
   */
  inspect(key: string, options?: Pick<LockOptions, 'prefix'>): Promise<LockState> {
    return this.#locker.inspect(key, options);
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
  query(pattern?: string, options?: QueryOptions): Promise<LockState[]> {
    return this.#locker.query(pattern, options);
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
   * @throws LockUnavailableError: it may or may not have been done. LockKeyError, LockConfigError.
   *
   * @example
   * await locks.forceRelease('import', { reason: 'stuck since Tuesday, OPS-17' });
   */
  forceRelease(key: string, options?: ForceReleaseOptions): Promise<ForceReleased> {
    return this.#locker.forceRelease(key, options);
  }

  /**
   * Runs a function once for each tick of a schedule, on whichever of the replicas claims the tick first; the others are told
   * why it's skipped there. By the wall clock of each process, or by `at`; replicas that are slow, or whose clocks differ, run
   * no tick twice. The function is given the lock under which it runs, and which tick it is.
   *
   * Its own result and exception come through untouched, and are recorded: see {@link RedisLockService.runs}.
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
  runOnce<T>(
    job: string,
    options: RunOnceOptions,
    work: (lock: Lock, run: RunInfo) => T | PromiseLike<T>,
  ): Promise<RunOutcome<T>> {
    return this.#locker.runOnce(job, options, work);
  }

  /**
   * What is recorded of a job's runs, newest first. One that crashed is recorded as such when this, or the next tick, finds
   * that its lock has ended.
   * @throws LockUnavailableError, LockKeyError, LockConfigError.
   */
  runs(job: string, options?: Pick<LockOptions, 'prefix'>): Promise<RunRecord[]> {
    return this.#locker.runs(job, options);
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
   * if (level !== 'strict') console.warn(findings);
   */
  diagnose(): Promise<Diagnosis> {
    return this.#locker.diagnose();
  }

  /**
   * Says that this is a new installation, on which no lock can be held, so that the option `guard` needn't keep its servers
   * from granting at first: for the first deploy, and for tests. Does nothing where there's a guard already, and refuses
   * where locks are found.
   *
   * Not to be called at each start of the application: after a server has lost its data, it looks like a new one, and the
   * locks that were held may still be believed to be. That is what the guard is for.
   *
   * @throws LockUnavailableError, LockConfigError: without `guard`, with locks there, or not said explicitly.
   *
   * @example
   * await locks.initializeGuard({ noLockIsHeld: true });
   */
  initializeGuard(options: InitializeGuardOptions): Promise<GuardInitialized> {
    return this.#locker.initializeGuard(options);
  }

  /**
   * The lock under which the running call was started, by `using`, `@DistributedLock` or the interceptor, if it's
   * still held: the innermost, or that on `key`. Only locks of this instance.
   */
  current(key?: string): Lock | undefined {
    return this.#locker.current(key);
  }

  /**
   * Listens to an event; returns the function that stops it. A listener that throws affects nothing.
   *
   * @example
   * locks.on('lost', ({ key, reason }) => metrics.lockLost(key, reason));
   */
  on<N extends LockEventName>(name: N, listener: LockListener<N>): () => void {
    return this.#locker.on(name, listener);
  }

  /**
   * Begins to drain here, while requests that hold a lock still run, and doesn't wait: Nest closes the HTTP server only
   * after this hook, and waits for them there. Hence `drainTimeout` bounds them as well.
   * @internal
   */
  beforeApplicationShutdown(): void {
    void this.#locker.close();
  }

  /** @internal */
  async onApplicationShutdown(): Promise<void> {
    await this.#locker.close();
    this.#closed.next();
  }
}
