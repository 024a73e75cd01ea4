import type { Clock } from '../clock.js';
import { LockUnavailableError } from '../errors.js';
import { LockEmitter } from '../events.js';
import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import type { QuorumConnection } from '../options.js';
import { givenAddress } from '../redis/server-address.js';
import type { ServerSurvey } from '../survey.js';
import { AcquireVote, FENCE_LEAD, type NodePlace } from './acquire-vote.js';
import { agreedHolders, agreedState } from './agreed-state.js';
import {
  type Answers,
  decideRelease,
  inquire,
  inquireNames,
  majorityOf,
  noQuorum,
} from './inquiry.js';
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
  ForceOutcome,
  ForceRequest,
  HeldToken,
  HolderOutcome,
  InitializeOutcome,
  LockBackend,
  MarkBlockedOutcome,
  NamesOutcome,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  SurveyOutcome,
  Unavailable,
  UnmarkBlockedOutcome,
} from './lock-backend.js';
import { type NodeBackend, QuorumNode } from './quorum-node.js';
import { QuorumRunStore } from './quorum-run-store.js';
import { type NodeWakeUp, QuorumWakeUp } from './quorum-wake-up.js';
import { RedisBackend, type RedisBackendOptions } from './redis-backend.js';

/** How long to go on undoing what isn't known to end sooner, in ms. */
const UNDO_FOR = 60_000;

/**
 * Locks on several independent Redis servers, none of which knows of the others: held where a majority grants. So the locks
 * outlive any minority of them, and no replication that could lose a grant is needed.
 *
 * Each command goes to all nodes at once and is decided by the first that suffice; each node has its own short timeout, and
 * one that stays silent is cut off and fails at once until it's back, so that it's waited for once. What could not be
 * done at a node is done behind the caller's back.
 *
 * Queues are kept by each node, in one order: a waiter tells all of them the same place, by what it knows of their clocks.
 * Who gets too few nodes gives them back and stands in line again, so that the first in line has a majority soon, wherever
 * votes were split.
 *
 * Not here: limits, since majorities don't preserve counts; notes of who waits for whom, so that circles are found within a
 * process only.
 *
 * @see https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/ (the Redlock algorithm)
 */
export class QuorumBackend implements LockBackend {
  readonly wakeUp: QuorumWakeUp;
  readonly runs: QuorumRunStore;
  readonly joinsKeys = true;
  readonly countsHolders = false;
  readonly losesInPart = true;
  readonly #nodes: readonly QuorumNode[];
  readonly #majority: number;
  readonly #down = new Set<QuorumNode>();
  #told = false;

  constructor(
    private readonly options: QuorumBackendOptions,
    private readonly clock: Clock,
    private readonly random: () => number,
    private readonly events: LockEmitter,
    openNode: OpenNode = (nodeOptions, ofNode) =>
      new RedisBackend(nodeOptions, clock, ofNode, random),
  ) {
    const { connection, nodeTimeout } = options;
    this.#majority = majorityOf(connection.length);
    this.#nodes = connection.map((each) => {
      const ofNode = new LockEmitter();
      const nodeOptions = { ...options, connection: each, commandTimeout: nodeTimeout };
      const backend = openNode(nodeOptions, ofNode);
      const node = new QuorumNode(givenAddress(each), backend, nodeTimeout, clock, random);
      ofNode.on('unavailable', () => this.#wentDown(node));
      ofNode.on('available', () => this.#cameBack(node));
      ofNode.on('guarded', (event) =>
        events.emit('guarded', () => ({ ...event, node: node.address })),
      );
      return node;
    });
    // None is a Cluster.
    const wakeUps = this.#nodes.map(({ backend }) => backend.wakeUp as NodeWakeUp);
    this.wakeUp = new QuorumWakeUp(wakeUps, this.#majority, clock, random);
    this.runs = new QuorumRunStore(this.#nodes, options.commandTimeout, clock, random);
  }

  /** Waits until a majority is connected. */
  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return inquire(
      this.#nodes,
      ({ backend }) => backend.connect(this.options.commandTimeout),
      (answers, missing) => {
        const connected = answers.filter((answer) => answer?.kind === 'connected').length;
        if (connected >= this.#majority) return { kind: 'connected' };
        return missing === 0 ? noQuorum(this.#nodes, answers, false) : undefined;
      },
    );
  }

  tryAcquire(request: AcquireRequest): Promise<AcquireOutcome> {
    const now = this.clock.now();
    if (request.notAfter <= now) return Promise.resolve({ kind: 'late' });
    const clocks = this.#clocks(now);
    return clocks.length >= this.#majority
      ? this.#vote(request, now, clocks)
      : this.#voteWhenClocksAreKnown(request);
  }

  async #voteWhenClocksAreKnown(request: AcquireRequest): Promise<AcquireOutcome> {
    await this.#synchronized();
    const now = this.clock.now();
    return this.#vote(request, now, this.#clocks(now));
  }

  #vote(request: AcquireRequest, now: number, clocks: readonly number[]): Promise<AcquireOutcome> {
    const { name, token, ttl, access = 'exclusive', label, waitsSince } = request;
    const ofNode = {
      name,
      token,
      ttl,
      access,
      label,
      waitsSince,
      notAfter: Math.min(request.notAfter, now + this.options.nodeTimeout),
      endsAt: request.notAfter,
      fenceFloor: fenceFloorOf(clocks),
      place: this.#placeOf(request, now, clocks),
    };
    return new AcquireVote(this.#nodes, ofNode, this.clock, this.random).run();
  }

  /** The same place for all nodes: by the clock in the middle, which no few that are wrong can move. */
  #placeOf(
    { place, waitsSince }: AcquireRequest,
    now: number,
    clocks: readonly number[],
  ): NodePlace | undefined {
    if (place === undefined) return undefined;
    if (place.sequence !== undefined) return { ...place, sequence: place.sequence };
    const middle = clocks.toSorted((a, b) => a - b)[clocks.length >> 1] ?? Date.now();
    const sequence = Math.floor((middle - now + (waitsSince ?? now)) * 1_000);
    return { ...place, sequence };
  }

  /** What the nodes' clocks show, in ms, as far as that is known. */
  #clocks(now: number): number[] {
    const clocks: number[] = [];
    for (const { backend } of this.#nodes) {
      const time = backend.serverTimeAt(now);
      if (time !== undefined) clocks.push(time);
    }
    return clocks;
  }

  /** Until the clocks of a majority are known, or none can be asked any more. */
  #synchronized(): Promise<unknown> {
    return inquire(
      this.#nodes,
      ({ backend }) => (backend.serverTimeAt(0) === undefined ? backend.synchronized() : KNOWN),
      (answers, missing) => {
        const failed = answers.filter((answer) => answer !== undefined).length;
        const known = this.#nodes.length - missing - failed;
        return known >= this.#majority || missing === 0 ? true : undefined;
      },
    );
  }

  tryAcquireAll(request: AcquireAllRequest): Promise<AcquireAllOutcome> {
    return this.clock.now() >= request.notAfter
      ? Promise.resolve({ kind: 'late' })
      : this.#acquireAll(request);
  }

  async #acquireAll(request: AcquireAllRequest): Promise<AcquireAllOutcome> {
    if (this.#clocks(0).length < this.#majority) await this.#synchronized();
    const now = this.clock.now();
    const notAfter = Math.min(request.notAfter, now + this.options.nodeTimeout);
    const { wanted, ttl, fencingToken } = request;
    const ofNode = { ...request, notAfter, fenceFloor: fenceFloorOf(this.#clocks(now)) };
    const granted = await inquire(
      this.#nodes,
      ({ backend }) => backend.tryAcquireAll(ofNode),
      (answers, missing) => this.#decideAll(answers, missing, request),
      (node, answer, decision) => {
        // A grant that's late belongs to the leases. Those that were held before aren't given up for want of a token.
        if (decision.kind === 'granted' || fencingToken !== undefined) return;
        const inDoubt = answer.kind === 'unavailable' && answer.mayHaveRun;
        if (answer.kind !== 'granted' && !inDoubt) return;
        for (const one of wanted) node.undo({ ...one, ttl }, inDoubt ? notAfter : undefined);
      },
    );
    if (granted.kind !== 'granted' || granted.agreed) return granted;
    // The second phase; see AcquireVote.
    const raised = await this.#acquireAll({ ...request, fencingToken: granted.fencingToken });
    if (raised.kind === 'granted') return { ...raised, sentAt: granted.sentAt };
    const cause = raised.kind === 'unavailable' ? raised.cause : undefined;
    return { kind: 'unavailable', reason: 'quorum', cause, mayHaveRun: true };
  }

  #decideAll(
    answers: Answers<AcquireAllOutcome>,
    missing: number,
    { fencingToken }: AcquireAllRequest,
  ): (AcquireAllOutcome & { readonly agreed?: boolean }) | undefined {
    const granted = answers.filter((answer) => answer?.kind === 'granted');
    if (granted.length >= this.#majority) {
      const fences = granted.map((one) => one.fencingToken);
      const sentAt = Math.min(...granted.map((one) => one.sentAt));
      const highest = Math.max(...fences);
      const agreed =
        fencingToken !== undefined ||
        fences.filter((one) => one === highest).length >= this.#majority;
      return { kind: 'granted', fencingToken: highest, sentAt, othersWait: false, agreed };
    }
    if (granted.length + missing >= this.#majority) return undefined;
    const busy = answers.filter((answer) => answer?.kind === 'busy');
    const late = answers.filter((answer) => answer?.kind === 'late');
    const [first] = busy.toSorted((a, b) => a.index - b.index);
    // Of what is held already, one that a majority no longer has is lost.
    const least = fencingToken === undefined ? 1 : this.#nodes.length - this.#majority + 1;
    const answered = granted.length + busy.length;
    if (first !== undefined && busy.length >= least && answered >= this.#majority) return first;
    if (missing > 0) return undefined;
    if (late.length > 0 && answered + late.length >= this.#majority) return { kind: 'late' };
    return noQuorum(this.#nodes, answers, true);
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    return inquire(
      this.#nodes,
      ({ backend }) => backend.extend(leases),
      (answers, missing) => this.#decideExtend(leases.length, answers, missing),
    );
  }

  #decideExtend(
    count: number,
    answers: Answers<ExtendOutcome[]>,
    missing: number,
  ): ExtendOutcome[] | undefined {
    const outcomes: ExtendOutcome[] = [];
    for (let index = 0; index < count; index += 1) {
      let [extended, taken, sentAt] = [0, 0, Number.POSITIVE_INFINITY];
      for (const ofNode of answers) {
        const outcome = ofNode?.[index];
        if (outcome?.kind === 'taken') taken += 1;
        if (outcome?.kind !== 'extended') continue;
        extended += 1;
        sentAt = Math.min(sentAt, outcome.sentAt);
      }
      if (extended >= this.#majority) outcomes.push({ kind: 'extended', sentAt });
      // No majority is left that could have it.
      else if (taken > this.#nodes.length - this.#majority) outcomes.push({ kind: 'taken' });
      else if (missing > 0) return undefined;
      else {
        const each = answers.map((ofNode) => ofNode?.[index]);
        outcomes.push(noQuorum(this.#nodes, each, true));
      }
    }
    return outcomes;
  }

  release(request: ReleaseRequest): Promise<ReleaseOutcome> {
    const sentAt = this.clock.now();
    const keptUntil = sentAt + request.keepFor;
    // No grant with this token that is on its way is given later.
    const refusedAfter = sentAt + this.options.nodeTimeout;
    return inquire(
      this.#nodes,
      ({ backend }) => backend.release(request),
      decideRelease(this.#nodes),
      (node, answer, decision) => {
        // Without a majority, who asked tries again.
        if (decision.kind === 'unavailable' || answer.kind === 'released') return;
        // It isn't its holder who asks, and what it has there is not to be touched.
        if (decision.kind === 'taken' && answer.kind === 'taken') return;
        if (decision.kind === 'released' && answer.kind === 'unavailable' && request.keepFor > 0) {
          const left = () => Math.max(0, Math.ceil(keptUntil - this.clock.now()));
          node.release(() => ({ ...request, keepFor: left() }), refusedAfter);
        } else {
          // It may stand in a queue there, or its grant may come yet.
          node.undo(request, refusedAfter);
        }
      },
    );
  }

  /** A node that doesn't answer keeps it for one alone, which is more than is asked for and does no harm. */
  downgrade(request: DowngradeRequest): Promise<DowngradeOutcome> {
    return inquire(
      this.#nodes,
      ({ backend }) => backend.downgrade(request),
      decideRelease(this.#nodes),
    );
  }

  cancel(request: CancelRequest): Promise<CancelOutcome> {
    const { ttl = UNDO_FOR } = request;
    return inquire(
      this.#nodes,
      ({ backend }) => backend.cancel(request),
      (answers, missing): CancelOutcome | undefined => {
        const done = answers.filter((answer) => answer?.kind === 'cancelled').length;
        if (done >= this.#majority) return { kind: 'cancelled' };
        return missing === 0 ? noQuorum(this.#nodes, answers, true) : undefined;
      },
      (node, answer, decision) => {
        // Without a majority, who asked tries again.
        if (decision.kind === 'cancelled' && answer.kind === 'unavailable') {
          node.undo({ ...request, ttl });
        }
      },
    );
  }

  // Who waits for whom isn't noted: a circle would have to be seen by a majority at one moment.
  async markBlocked(): Promise<MarkBlockedOutcome> {
    return { kind: 'taken' };
  }

  async unmarkBlocked(): Promise<UnmarkBlockedOutcome> {
    return { kind: 'unmarked' };
  }

  async holderOf(): Promise<HolderOutcome> {
    return { kind: 'none' };
  }

  /** A grant that is still on its way to a node, within `nodeTimeout` of its try, is not taken back there. */
  forceRelease(request: ForceRequest): Promise<ForceOutcome> {
    const notAfter = Math.min(request.notAfter, this.clock.now() + this.options.nodeTimeout);
    return inquire(
      this.#nodes,
      ({ backend }) => backend.forceRelease({ ...request, notAfter }),
      (answers, missing): ForceOutcome | undefined => {
        if (missing > 0) return undefined;
        const forced = answers.filter((answer) => answer?.kind === 'forced');
        const [first] = forced;
        if (first !== undefined && forced.length >= this.#majority) {
          // Those that didn't answer may hold it too, and then it had a majority.
          return { kind: 'forced', held: agreedHolders(forced, this.#nodes.length), by: first.by };
        }
        const isLate = answers.some((answer) => answer?.kind === 'late');
        return isLate ? { kind: 'late' } : noQuorum(this.#nodes, answers, true);
      },
    );
  }

  query(name: LockName): Promise<QueryOutcome> {
    return inquire(
      this.#nodes,
      ({ backend }) => backend.query(name),
      (answers, missing): QueryOutcome | undefined => {
        if (missing > 0) return undefined;
        const found = answers.filter((answer) => answer?.kind === 'found');
        if (found.length < this.#majority) return noQuorum(this.#nodes, answers, false);
        return agreedState(name.key, found, this.#nodes.length);
      },
    );
  }

  names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome> {
    const ask = ({ backend }: QuorumNode) => backend.names(prefix, pattern);
    return inquireNames(this.#nodes, ask, this.#majority);
  }

  /** Of every node, also where they're too few to decide anything: that's what's to be found out. */
  async survey(): Promise<SurveyOutcome> {
    const outcomes = await Promise.all(this.#nodes.map(({ backend }) => backend.survey()));
    const unavailable = outcomes.filter((outcome) => outcome.kind === 'unavailable');
    if (unavailable.length === this.#nodes.length) return noQuorum(this.#nodes, unavailable, false);
    const servers = outcomes.map((outcome, index): readonly ServerSurvey[] => {
      if (outcome.kind === 'surveyed') return outcome.servers;
      const { address } = this.#nodes[index] as QuorumNode;
      const { message = outcome.reason } = (outcome.cause ?? {}) as Partial<Error>;
      return [{ kind: 'unreachable', address, message }];
    });
    return { kind: 'surveyed', layout: 'quorum', servers: servers.flat() };
  }

  /**
   * At all nodes, since each that guards itself would wait alone; and at none before all were asked for locks: one that has lost its
   * data knows of none, and must not be opened because it was asked first.
   */
  async initializeGuard(prefix: string): Promise<InitializeOutcome> {
    if (this.options.guard === undefined) return { kind: 'unguarded' };
    const ask = ({ backend }: QuorumNode) => backend.traces(prefix);
    const traces = await inquireNames(this.#nodes, ask, this.#nodes.length);
    if (traces.kind === 'unavailable') return traces;
    if (traces.names.length > 0) return { kind: 'in-use', names: traces.names };
    return inquire(
      this.#nodes,
      ({ backend }) => backend.initializeGuard(prefix),
      (answers, missing): InitializeOutcome | undefined => {
        if (missing > 0) return undefined;
        const of = (kind: InitializeOutcome['kind']) =>
          answers.find((answer) => answer?.kind === kind);
        if (of('unavailable') !== undefined) return noQuorum(this.#nodes, answers, true);
        return of('in-use') ?? of('initialized') ?? answers[0];
      },
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#nodes.map((node) => node.close()));
    this.wakeUp.close();
  }

  #wentDown(node: QuorumNode): void {
    this.#down.add(node);
    if (this.#told || this.#nodes.length - this.#down.size >= this.#majority) return;
    this.#told = true;
    const nodes = this.#nodes.map((each) => ({
      node: each.address,
      answer: this.#down.has(each) ? ('unreachable' as const) : ('done' as const),
    }));
    const error = new LockUnavailableError(undefined, 'quorum', undefined, { nodes });
    this.events.emit('unavailable', () => ({ error }));
  }

  #cameBack(node: QuorumNode): void {
    this.#down.delete(node);
    if (!this.#told || this.#nodes.length - this.#down.size < this.#majority) return;
    this.#told = false;
    this.events.emit('available', () => ({}));
  }
}

export interface QuorumBackendOptions extends Omit<RedisBackendOptions, 'connection'> {
  readonly connection: QuorumConnection;
  /** How long a node may take, in ms. */
  readonly nodeTimeout: number;
}

/** How a node is reached; `events`: of this node alone. */
export type OpenNode = (options: RedisBackendOptions, events: LockEmitter) => NodeBackend;

const KNOWN = Promise.resolve(undefined);

/** In µs. None where no clock is known. */
function fenceFloorOf(clocks: readonly number[]): number | undefined {
  if (clocks.length === 0) return undefined;
  return Math.floor((Math.max(...clocks) + FENCE_LEAD) * 1_000);
}
