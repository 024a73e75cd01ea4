/**
 * What stands in a simulated process where `RedisBackend` would, alone or as one node of a quorum: one command for each call
 * over a simulated connection, with the same idea of the server's clock, the same bounds, and the same account of what may
 * have run.
 */
import type {
  AcquireAllOutcome,
  AcquireAllRequest,
  AcquireOutcome,
  AcquireRequest,
  CancelOutcome,
  CancelRequest,
  DowngradeOutcome,
  DowngradeRequest,
  ExtendOutcome,
  FencedRequest,
  ForceOutcome,
  ForceRequest,
  HeldToken,
  HolderOutcome,
  MarkBlockedOutcome,
  MarkBlockedRequest,
  NamesOutcome,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  Unavailable,
  UnmarkBlockedOutcome,
  UnmarkBlockedRequest,
} from '../../lib/core/backend/lock-backend.js';
import { MemoryRunStore } from '../../lib/core/backend/memory-run-store.js';
import type { NodeBackend } from '../../lib/core/backend/quorum-node.js';
import type { StandBackRequest } from '../../lib/core/backend/redis-backend.js';
import { EVERY_KEY, type KeyPattern } from '../../lib/core/key-pattern.js';
import type { LockName } from '../../lib/core/lock-name.js';
import { ServerClock } from '../../lib/core/redis/server-clock.js';
import type { Survey } from '../../lib/core/survey.js';
import type { ProcessLoop } from './process-loop.js';
import type { Replied, SimulatedConnection } from './simulated-connection.js';
import type { ServedBackend } from './served-backend.js';
import type { ServerCommand } from './server-command.js';
import type { SimulatedWakeUp } from './simulated-wake-up.js';

export class SimulatedBackend implements NodeBackend {
  readonly countsHolders = true;
  readonly losesInPart = false;
  readonly runs = new MemoryRunStore(new Map());
  readonly #serverClock = new ServerClock();
  #observedAt = 0;
  #synchronizing: Promise<Unavailable | undefined> | undefined;

  constructor(
    private readonly loop: ProcessLoop,
    private readonly connection: SimulatedConnection,
    readonly wakeUp: SimulatedWakeUp,
    readonly joinsKeys: boolean,
  ) {}

  /** Runs of jobs aren't simulated. */
  get acceptor(): never {
    throw new Error('A run of a job, which is not simulated.');
  }

  /** Another server may answer next. */
  forgetClock(): void {
    this.#serverClock.forget();
  }

  serverTimeAt(localTime: number): number | undefined {
    return this.#serverClock.known ? this.#serverClock.estimate(localTime) : undefined;
  }

  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.connection.connect();
  }

  tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    if (request.notAfter <= this.loop.now()) return Promise.resolve({ kind: 'late' });
    return this.#serverClock.known ? this.#tryAcquire(request) : this.#tryWhenClockIsKnown(request);
  }

  async #tryWhenClockIsKnown(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    return (await this.synchronized()) ?? this.#tryAcquire(request);
  }

  async #tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    const { name, token, notAfter, waitsSince } = request;
    const sent: AcquireRequest & FencedRequest = {
      ...request,
      notAfter: this.#serverNotAfter(notAfter),
      ...(waitsSince !== undefined && {
        waitsSince: Math.floor(this.#serverClock.notBefore(waitsSince)),
      }),
    };
    const outcome = await this.#run(
      {
        ...{ what: 'acquire', names: [name], tokens: [token] },
        givenUpAt: this.#givenUpAt(notAfter),
        run: (backend) => backend.tryAcquire(sent),
      },
      notAfter,
    );
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt } = outcome;
    return reply.kind === 'granted' ? { ...reply, sentAt } : reply;
  }

  async tryAcquireAll(request: AcquireAllRequest & FencedRequest): Promise<AcquireAllOutcome> {
    const { wanted, notAfter } = request;
    if (notAfter <= this.loop.now()) return { kind: 'late' };
    if (!this.#serverClock.known) {
      const unavailable = await this.synchronized();
      if (unavailable !== undefined) return unavailable;
    }
    const sent: AcquireAllRequest & FencedRequest = {
      ...request,
      wanted: wanted.map(({ name, token }) => ({ name, token })),
      notAfter: this.#serverNotAfter(notAfter),
    };
    const outcome = await this.#run(
      {
        what: 'acquireAll',
        names: wanted.map(({ name }) => name),
        tokens: wanted.map(({ token }) => token),
        givenUpAt: this.#givenUpAt(notAfter),
        run: (backend) => backend.tryAcquireAll(sent),
      },
      notAfter,
    );
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt } = outcome;
    return reply.kind === 'granted' ? { ...reply, sentAt } : reply;
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    // As they are now: they may change before it's run.
    const sent = leases.map(({ name, token, ttl, access = 'exclusive' }) => ({
      ...{ name, token, ttl, access },
    }));
    const outcome = await this.#run({
      what: 'extend',
      names: sent.map(({ name }) => name),
      tokens: sent.map(({ token }) => token),
      run: (backend) => backend.extend(sent),
    });
    if (outcome.kind === 'unavailable') return sent.map(() => outcome);
    const { reply, sentAt } = outcome;
    return reply.map((one) => (one.kind === 'extended' ? { ...one, sentAt } : one));
  }

  release(request: ReleaseRequest): Promise<ReleaseOutcome> {
    const sent = { ...request };
    return this.#ask('release', sent, (backend) => backend.release(sent));
  }

  downgrade({ name, token, ttl, fencingToken }: DowngradeRequest): Promise<DowngradeOutcome> {
    const sent = { name, token, ttl, fencingToken };
    return this.#ask('downgrade', sent, (backend) => backend.downgrade(sent));
  }

  markBlocked(request: MarkBlockedRequest): Promise<MarkBlockedOutcome> {
    return this.#ask('markBlocked', request, (backend) => backend.markBlocked(request));
  }

  unmarkBlocked(request: UnmarkBlockedRequest): Promise<UnmarkBlockedOutcome> {
    return this.#ask('unmarkBlocked', request, (backend) => backend.unmarkBlocked(request));
  }

  holderOf(name: LockName): Promise<HolderOutcome> {
    return this.#ask('holderOf', { name }, (backend) => backend.holderOf(name));
  }

  cancel({ name, token, lastFence }: CancelRequest): Promise<CancelOutcome> {
    const sent = { name, token, ...(lastFence !== undefined && { lastFence }) };
    return this.#ask('cancel', sent, (backend) => backend.cancel(sent));
  }

  async standBack(request: StandBackRequest): Promise<CancelOutcome> {
    const { name, token, notAfter } = request;
    const sent = { ...request, notAfter: this.#serverNotAfter(notAfter) };
    const outcome = await this.#run(
      {
        ...{ what: 'standBack', names: [name], tokens: [token] },
        run: (backend) => backend.standBack(sent),
      },
      notAfter,
    );
    return outcome.kind === 'unavailable' ? outcome : outcome.reply;
  }

  async forceRelease(request: ForceRequest): Promise<ForceOutcome> {
    const { name, notAfter } = request;
    if (notAfter <= this.loop.now()) return { kind: 'late' };
    if (!this.#serverClock.known) {
      const unavailable = await this.synchronized();
      if (unavailable !== undefined) return unavailable;
    }
    const sent = { ...request, notAfter: this.#serverNotAfter(notAfter) };
    const outcome = await this.#run(
      {
        ...{ what: 'forceRelease', names: [name], tokens: [] },
        givenUpAt: this.#givenUpAt(notAfter),
        run: (backend) => backend.forceRelease(sent),
      },
      notAfter,
    );
    return outcome.kind === 'unavailable' ? outcome : outcome.reply;
  }

  query(name: LockName): Promise<QueryOutcome> {
    return this.#ask('query', { name }, (backend) => backend.query(name));
  }

  async names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome> {
    const outcome = await this.#run({
      ...{ what: 'names', names: [], tokens: [] },
      run: (backend) => backend.names(prefix, pattern),
    });
    return outcome.kind === 'unavailable' ? outcome : outcome.reply;
  }

  traces(prefix: string): Promise<NamesOutcome> {
    return this.names(prefix, EVERY_KEY);
  }

  async survey(): Promise<Survey> {
    return { kind: 'surveyed', layout: 'memory', servers: [] };
  }

  async initializeGuard(): Promise<{ kind: 'unguarded' }> {
    return { kind: 'unguarded' };
  }

  async close(): Promise<void> {
    this.wakeUp.close();
    this.connection.close();
  }

  async #ask<R>(
    what: string,
    { name, token }: { readonly name: LockName; readonly token?: string },
    run: (backend: ServedBackend) => Promise<R>,
  ): Promise<R | Unavailable> {
    const tokens = token === undefined ? [] : [token];
    const outcome = await this.#run({ what, names: [name], tokens, run });
    return outcome.kind === 'unavailable' ? outcome : outcome.reply;
  }

  async #run<R>(command: ServerCommand<R>, notAfter?: number): Promise<Replied<R> | Unavailable> {
    const outcome = await this.connection.run(command, this.wakeUp.listening, notAfter);
    if (outcome.kind === 'reply') this.#observe(outcome);
    return outcome;
  }

  #observe({ serverTime, sentAt, receivedAt }: Replied<unknown>): void {
    this.#observedAt = receivedAt;
    this.#serverClock.observe(serverTime, sentAt, receivedAt);
  }

  /** Makes sure that the server's clock is known. */
  synchronized(): Promise<Unavailable | undefined> {
    this.#synchronizing ??= this.#synchronize().finally(() => (this.#synchronizing = undefined));
    return this.#synchronizing;
  }

  async #synchronize(): Promise<Unavailable | undefined> {
    const command = { what: 'time', names: [], tokens: [], run: async () => undefined };
    const outcome = await this.#run<undefined>(command);
    return outcome.kind === 'unavailable' ? { ...outcome, mayHaveRun: false } : undefined;
  }

  #serverNotAfter(notAfter: number): number {
    return Math.floor(this.#serverClock.notAfter(notAfter));
  }

  /**
   * By true time, with what two clocks may run apart since they were compared. `ServerClock` takes them for a tenth of what a
   * lease is safe from, so that with worse ones it's off by more: by what `CleanUp` allows for, which undoes what it lets in.
   */
  #givenUpAt(notAfter: number): number {
    const apart = Math.abs(this.loop.rate - 1) + this.connection.driftOfServer;
    const beyond = apart > 0.001 ? 50 : 0;
    const unsure = 1 + beyond + apart * Math.max(0, notAfter - this.#observedAt);
    return this.loop.trueTimeOf(notAfter) + unsure;
  }
}
