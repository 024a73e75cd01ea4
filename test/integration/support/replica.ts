/**
 * A replica of an application, in a process of its own, that takes locks on command.
 *
 * What counts as "the process survived" is Node's own rule: the replica has no handler for unhandled rejections or
 * uncaught exceptions, so one of either ends it, and `quit()`, which every test ends with, fails with what it printed.
 *
 * All times are `CLOCK_MONOTONIC` in ms (`process.hrtime`), one clock for all processes of the machine: when one
 * process lost a lock and when another got it can be compared exactly. `took` is measured in the replica, around the
 * call alone.
 */
import type { AcquireOptions, ForceReleased, TryAcquireOptions } from '../../../lib/core/locker.js';
import type { LockReleased } from '../../../lib/core/lock.js';
import type { LeaseState } from '../../../lib/core/lease.js';
import type { LockState } from '../../../lib/core/backend/lock-backend.js';
import type { LockerOptions } from '../../../lib/core/options.js';
import { spawnWorker, type TestWorker } from '../../support/worker.js';
import type { Belief } from './beliefs.js';
import type {
  Call,
  FromReplica,
  Loss,
  RecordedEvent,
  RemoteErrorFacts,
  Result,
  Spin,
} from './replica-protocol.js';

const CALL_TIMEOUT = 25_000;

/** The monotonic clock of this machine, in ms. */
export function monotonic(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

export class Replica {
  readonly #worker: TestWorker<FromReplica, Call>;
  #calls = 0;
  #ended = false;

  private constructor(worker: TestWorker<FromReplica, Call>) {
    this.#worker = worker;
  }

  static async start(): Promise<Replica> {
    const file = new URL('./replica-process.ts', import.meta.url);
    const worker = spawnWorker<FromReplica, Call>(file);
    await worker.next((message) => message.type === 'ready', 20_000);
    return new Replica(worker);
  }

  /** Several, started side by side. */
  static startMany(count: number): Promise<Replica[]> {
    return Promise.all(Array.from({ length: count }, () => Replica.start()));
  }

  get pid(): number {
    return this.#worker.pid;
  }

  /** A locker in that process. */
  async open(options: LockerOptions): Promise<RemoteLocker> {
    return new RemoteLocker(this, (await this.call<number>('open', options)).value);
  }

  /** Keeps the event loop busy for so long. */
  async block(ms: number): Promise<void> {
    await this.call('block', ms);
  }

  /** From now on `Date.now()` and `new Date()` of that process are off by so many ms. */
  async skewWallClock(ms: number): Promise<void> {
    await this.call('skewWallClock', ms);
  }

  /** What Node has warned of in that process (leaking listeners, for one), but for experimental features. */
  async warnings(): Promise<string[]> {
    return (await this.call<string[]>('warnings')).value;
  }

  /** When its holders believed that they held a lock. */
  async beliefs(): Promise<Belief[]> {
    return (await this.call<Belief[]>('beliefs')).value;
  }

  /** Whether nobody has ended it on purpose. */
  get alive(): boolean {
    return !this.#ended;
  }

  pause(): void {
    this.#worker.pause();
  }

  resume(): void {
    this.#worker.resume();
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    this.#ended = true;
    await this.#worker.kill();
  }

  /**
   * Closes its lockers and lets go of everything; the process must then end by itself, without a complaint.
   * @throws where it had ended before, doesn't end, or Node has warned of something.
   */
  async quit(): Promise<void> {
    const warnings = await this.warnings();
    this.#ended = true;
    await this.call('quit');
    const exit = await Promise.race([
      this.#worker.exited,
      new Promise<undefined>((resolve) => {
        setTimeout(() => resolve(undefined), 5_000).unref();
      }),
    ]);
    if (exit?.code !== 0 || warnings.length > 0) {
      const how = exit === undefined ? 'did not exit by itself' : JSON.stringify(exit);
      throw new Error(
        `The replica ${how}; warnings: ${warnings.join('; ')}\n${this.#worker.output}`,
      );
    }
  }

  async call<T>(method: string, ...args: unknown[]): Promise<Timed<T>> {
    this.#calls += 1;
    const id = this.#calls;
    this.#worker.send({ id, method, args });
    const { outcome } = await this.#worker.next(
      (message): message is Result => message.type === 'result' && message.id === id,
      CALL_TIMEOUT,
    );
    const { from, to } = outcome;
    if ('error' in outcome) throw new RemoteError(outcome.error, to - from, to);
    return { value: outcome.value as T, from, to, took: to - from };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.kill();
  }
}

export interface Timed<T> {
  readonly value: T;
  readonly from: number;
  readonly to: number;
  readonly took: number;
}

export class RemoteLocker {
  constructor(
    private readonly replica: Replica,
    private readonly id: number,
  ) {}

  async connect(): Promise<Timed<boolean>> {
    return this.replica.call('connect', this.id);
  }

  /** `abortRef`: a name by which {@link abort} can cancel the call. */
  async acquire(key: string, options?: AcquireOptions, abortRef?: string): Promise<RemoteLock> {
    const granted = await this.replica.call<Grant>('acquire', this.id, key, options, abortRef);
    return new RemoteLock(this.replica, granted);
  }

  async tryAcquire(key: string, options?: TryAcquireOptions): Promise<RemoteLock | null> {
    const granted = await this.replica.call<Grant | null>('tryAcquire', this.id, key, options);
    return granted.value === null ? null : new RemoteLock(this.replica, granted as Timed<Grant>);
  }

  abort(ref: string): Promise<Timed<void>> {
    return this.replica.call('abort', ref);
  }

  forceRelease(key: string, reason?: string): Promise<Timed<ForceReleased>> {
    return this.replica.call('forceRelease', this.id, key, reason);
  }

  inspect(key: string): Promise<Timed<LockState>> {
    return this.replica.call('inspect', this.id, key);
  }

  /** Runs `using` with work that keeps the event loop busy for `ms`, and asserts right after. */
  usingBlocked(key: string, options: AcquireOptions, ms: number): Promise<Timed<Spin>> {
    return this.replica.call('usingBlocked', this.id, key, options, ms);
  }

  /** What the locker has told so far. */
  async events(): Promise<RecordedEvent[]> {
    return (await this.replica.call<RecordedEvent[]>('events', this.id)).value;
  }

  async namesOfEvents(): Promise<string[]> {
    return (await this.events()).map(({ name }) => name);
  }

  close(): Promise<Timed<void>> {
    return this.replica.call('close', this.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.replica.alive) await this.close();
  }
}

interface Grant {
  readonly id: number;
  readonly fencingToken: number;
}

export class RemoteLock {
  readonly fencingToken: number;
  /** When the caller got it. */
  readonly grantedAt: number;
  /** How long the caller waited for it. */
  readonly took: number;
  readonly #replica: Replica;
  readonly #id: number;

  constructor(replica: Replica, { value, to, took }: Timed<Grant>) {
    this.#replica = replica;
    this.#id = value.id;
    this.fencingToken = value.fencingToken;
    this.grantedAt = to;
    this.took = took;
  }

  release(): Promise<Timed<LockReleased>> {
    return this.#replica.call('release', this.#id);
  }

  extend(): Promise<Timed<void>> {
    return this.#replica.call('extend', this.#id);
  }

  assertHeld(): Promise<Timed<void>> {
    return this.#replica.call('assertHeld', this.#id);
  }

  async state(): Promise<LeaseState> {
    return (await this.#replica.call<LeaseState>('state', this.#id)).value;
  }

  async remaining(): Promise<number> {
    return (await this.#replica.call<number>('remaining', this.#id)).value;
  }

  /** Waits until `signal` has aborted. */
  async loss(): Promise<Loss> {
    return (await this.#replica.call<Loss>('loss', this.#id)).value;
  }
}

/** An error of a call in the replica. */
export class RemoteError extends Error {
  override readonly name: string;
  readonly code: string | undefined;
  readonly reason: string | undefined;
  readonly heldKeys: readonly string[] | undefined;

  constructor(
    facts: RemoteErrorFacts,
    /** How long the call took to fail, in ms. */
    readonly took: number,
    /** When it failed. */
    readonly at: number,
  ) {
    super(facts.message);
    this.name = facts.name;
    this.code = facts.code;
    this.reason = facts.reason;
    this.heldKeys = facts.heldKeys;
  }
}

/** The error with which a call fails. */
export async function failureOf(call: Promise<unknown>): Promise<RemoteError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof RemoteError) return error;
    throw error;
  }
  throw new Error('The call was expected to fail, but it succeeded.');
}
