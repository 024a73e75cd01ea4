/**
 * A backend that a test answers by hand: each call stays open until the test says what came of it. So every order of
 * replies, wake-ups and deadlines can be played, also those that a network shows once a year.
 */
import type {
  AcquireAllOutcome,
  AcquireAllRequest,
  AcquireOutcome,
  AcquireRequest,
  CancelOutcome,
  DowngradeOutcome,
  DowngradeRequest,
  ExtendOutcome,
  ForceOutcome,
  ForceRequest,
  HeldToken,
  HolderOutcome,
  LockBackend,
  MarkBlockedOutcome,
  NamesOutcome,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  Unavailable,
  UnmarkBlockedOutcome,
} from '../../lib/core/backend/lock-backend.js';
import { MemoryRunStore } from '../../lib/core/backend/memory-run-store.js';
import type { KeyPattern } from '../../lib/core/key-pattern.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { Survey } from '../../lib/core/survey.js';
import type { WakeListener, WakeUp } from '../../lib/core/wake-up.js';
import { settled } from '../support/fake-clock.js';

export class FakeBackend implements LockBackend {
  readonly runs = new MemoryRunStore(new Map());
  /** The methods that were called, in the order in which their commands would leave. */
  readonly log: string[] = [];
  readonly wakeUp = new FakeWakeUp();
  readonly tryAcquires = new Calls<AcquireRequest, AcquireOutcome>('tryAcquire', this.log);
  readonly extends = new Calls<readonly HeldToken[], ExtendOutcome[]>('extend', this.log);
  readonly releases = new Calls<ReleaseRequest, ReleaseOutcome>('release', this.log);
  readonly cancels = new Calls<Pick<HeldToken, 'name' | 'token'>, CancelOutcome>(
    'cancel',
    this.log,
  );
  readonly forces = new Calls<ForceRequest, ForceOutcome>('forceRelease', this.log);
  readonly joins = new Calls<AcquireAllRequest, AcquireAllOutcome>('tryAcquireAll', this.log);
  readonly downgrades = new Calls<DowngradeRequest, DowngradeOutcome>('downgrade', this.log);
  readonly queries = new Calls<LockName, QueryOutcome>('query', this.log);
  readonly surveys = new Calls<{ prefix: string; pattern: KeyPattern }, NamesOutcome>(
    'names',
    this.log,
  );
  closed = false;

  async connect(): Promise<{ kind: 'connected' }> {
    return { kind: 'connected' };
  }

  tryAcquire(request: AcquireRequest): Promise<AcquireOutcome> {
    return this.tryAcquires.call(request);
  }

  readonly countsHolders = true;
  losesInPart = false;
  joinsKeys = true;

  tryAcquireAll(request: AcquireAllRequest): Promise<AcquireAllOutcome> {
    return this.joins.call(request);
  }

  downgrade(request: DowngradeRequest): Promise<DowngradeOutcome> {
    return this.downgrades.call(request);
  }

  async markBlocked(): Promise<MarkBlockedOutcome> {
    return { kind: 'taken' };
  }

  async unmarkBlocked(): Promise<UnmarkBlockedOutcome> {
    return { kind: 'unmarked' };
  }

  async holderOf(): Promise<HolderOutcome> {
    return { kind: 'none' };
  }

  extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    // A copy: what was asked for must not change with the leases.
    return this.extends.call(leases.map(({ name, token, ttl }) => ({ name, token, ttl })));
  }

  release(request: ReleaseRequest): Promise<ReleaseOutcome> {
    return this.releases.call(request);
  }

  cancel(held: Pick<HeldToken, 'name' | 'token'>): Promise<CancelOutcome> {
    return this.cancels.call(held);
  }

  forceRelease(request: ForceRequest): Promise<ForceOutcome> {
    return this.forces.call(request);
  }

  query(name: LockName): Promise<QueryOutcome> {
    return this.queries.call(name);
  }

  names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome> {
    return this.surveys.call({ prefix, pattern });
  }

  async survey(): Promise<Survey> {
    return { kind: 'surveyed', layout: 'memory', servers: [] };
  }

  async initializeGuard(): Promise<{ kind: 'unguarded' }> {
    return { kind: 'unguarded' };
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

/** The calls of one method, in order. */
export class Calls<A, R> {
  /** All that were made. */
  readonly made: A[] = [];
  /** Answers calls by itself, where set. */
  auto: ((argument: A) => R) | undefined;
  readonly #open: { readonly argument: A; readonly resolve: (reply: R) => void }[] = [];

  constructor(
    private readonly method: string,
    private readonly log: string[],
  ) {}

  get openCount(): number {
    return this.#open.length;
  }

  call(argument: A): Promise<R> {
    this.made.push(argument);
    this.log.push(this.method);
    if (this.auto !== undefined) return Promise.resolve(this.auto(argument));
    return new Promise((resolve) => this.#open.push({ argument, resolve }));
  }

  /** Answers the first open call, and lets what follows from it happen. Gives what was asked. */
  async answer(reply: R): Promise<A> {
    const call = this.#open.shift();
    if (call === undefined) throw new Error(`No call of ${this.method} is open.`);
    call.resolve(reply);
    await settled();
    return call.argument;
  }
}

export class FakeWakeUp implements WakeUp {
  listening = true;
  /** How often somebody asked it to listen. */
  subscribed = 0;
  /** How often who has asked no longer needs it. */
  unsubscribed = 0;
  /** How often somebody doubted that it hears. */
  checked = 0;
  /** How often somebody holds something. */
  attended = 0;
  onSubscribe: () => Promise<void> | void = () => {};
  tell: WakeListener = () => {};

  check(): void {
    this.checked += 1;
  }

  attend(): void {
    this.attended += 1;
  }

  listensTo(): boolean {
    return this.listening;
  }

  unsubscribe(): void {
    this.unsubscribed += 1;
  }

  async subscribe(): Promise<void> {
    this.subscribed += 1;
    await this.onSubscribe();
    this.listening = true;
  }

  onWake(listener: WakeListener): void {
    this.tell = listener;
  }

  /** Tells the waiter with this token, or everybody, to look. */
  wake(token: string | undefined): void {
    this.tell(token === undefined ? { kind: 'listening' } : { kind: 'woken', token, within: 0 });
  }
}

/** The server did not answer, so the command may have run. */
export const noAnswer: Unavailable = {
  kind: 'unavailable',
  reason: 'no-answer',
  cause: new Error('Command timed out'),
  mayHaveRun: true,
};

/** There is no server: the command was not sent. */
export const unreachable: Unavailable = {
  kind: 'unavailable',
  reason: 'unreachable',
  cause: new Error('connect ECONNREFUSED'),
  mayHaveRun: false,
};
