import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

import type { Access } from '../access.js';
import type { Clock } from '../clock.js';
import type { ForcedBy } from '../errors.js';
import type { LockEmitter } from '../events.js';
import { EVERY_KEY, type KeyPattern } from '../key-pattern.js';
import { LockName } from '../lock-name.js';
import {
  type LockConnection,
  promotionLag,
  type ResolvedGuard,
  type ResolvedReplicas,
} from '../options.js';
import type { ClusterNodes } from '../redis/cluster-nodes.js';
import { ClusterWakeUp } from '../redis/cluster-wake-up.js';
import { ConfirmedCluster } from '../redis/confirmed-cluster.js';
import { ConfirmedConnection } from '../redis/confirmed-connection.js';
import { Connection, ConnectionSource, type Replied } from '../redis/connection.js';
import { scanNames, SIGNS_OF_LOCKS } from '../redis/name-scan.js';
import { RedisWakeUp } from '../redis/redis-wake-up.js';
import { Script } from '../redis/script.js';
import type { ScriptRunner } from '../redis/script-runner.js';
import {
  acquireAllScript,
  acquireScript,
  blockedScript,
  cancelScript,
  downgradeScript,
  extendScript,
  forceReleaseScript,
  leaveScript,
  markBlockedScript,
  prolongScript,
  queryScript,
  releaseScript,
  setFenceScript,
  shareScript,
  standBackScript,
  unmarkBlockedScript,
} from '../redis/scripts.generated.js';
import { ServerClock } from '../redis/server-clock.js';
import { surveyServer } from '../redis/server-survey.js';
import { ServerGuard } from '../redis/server-guard.js';
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
  HolderState,
  InitializeOutcome,
  LockBackend,
  MarkBlockedOutcome,
  MarkBlockedRequest,
  NamesOutcome,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  SurveyOutcome,
  Unavailable,
  UnmarkBlockedOutcome,
  UnmarkBlockedRequest,
} from './lock-backend.js';
import { RedisRunStore } from './redis-run-store.js';
import { RedisRunAcceptor } from './run-acceptor.js';

type WaitKeys = readonly [owner: string, queue: string, waiters: string];

/** How many digits a time in µs has, until 2286. */
const MICROS = 16;
/** The last moment that a `Date` can tell, in ms. */
const LATEST_DATE = 8.64e15;

type AcquireReply =
  /** Granted: '<fencing token>', which is the server's time as well, or '<now us> <fencing token>'. */
  | string
  | [nowMicros: string, 'granted', fence: string, othersWait: 0 | 1]
  | [nowMicros: string, 'busy', remaining: number, sequence: number]
  | [nowMicros: string, 'late']
  | [nowMicros: string, 'conflict', access: Access];

type ExtendReply = [nowMicros: string, prolonged: string];

type AcquireArgs = [
  token: string,
  ttl: number,
  notAfter: number,
  holder: string,
  countReceivers: string,
  /** `fenceFloor` (empty: none), then `aliveFor`, `channel` and `sequence`; each may be left out with what follows. */
  ...floorAndPlace: (string | number)[],
];

const ACQUIRE = new Script<WaitKeys, AcquireArgs, AcquireReply>(acquireScript);
type ShareArgs = [
  ...[token: string, ttl: number, notAfter: number, holder: string, countReceivers: string],
  ...[access: Access, sequence: number | ''],
  /** `fenceFloor`, then `aliveFor` and `channel`; as above. */
  ...floorAndPlace: (string | number)[],
];

const SHARE = new Script<WaitKeys, ShareArgs, AcquireReply>(shareScript);
const ACQUIRE_ALL = new Script<
  readonly string[],
  readonly [
    ttl: number,
    notAfter: number,
    holder: string,
    access: Access,
    fence: number,
    ...tokensAndFloor: (string | number)[],
  ],
  | [nowMicros: string, 'granted', fence: string]
  | [nowMicros: string, 'busy', index: number, remaining: number]
  | [nowMicros: string, 'late']
  | [nowMicros: string, 'conflict', index: number, access: Access]
>(acquireAllScript);
type SetFenceArgs = readonly [token: string, ttl: number, notAfter: number, fence: number];

const SET_FENCE = new Script<
  readonly [owner: string],
  SetFenceArgs,
  /** Its time: done. */
  string | [nowMicros: string, 'busy' | 'late']
>(setFenceScript);
const EXTEND = new Script<readonly string[], readonly [ttl: number, tokens: string], ExtendReply>(
  extendScript,
);
const PROLONG = new Script<
  readonly string[],
  readonly [ttl: number, ...tokens: string[]],
  ExtendReply
>(prolongScript);
const RELEASE = new Script<
  WaitKeys,
  readonly [token: string, lastFence: number, keepFor: number, countReceivers: string],
  0 | 1
>(releaseScript);
const LEAVE = new Script<
  WaitKeys,
  readonly [token: string, keepFor: number, countReceivers: string],
  0 | 1
>(leaveScript);
const DOWNGRADE = new Script<
  WaitKeys,
  readonly [token: string, fence: number, countReceivers: string],
  0 | 1
>(downgradeScript);
const MARK_BLOCKED = new Script<
  readonly [owner: string, blocked: string],
  readonly [token: string, mark: string, since: number | '', waitsFor: string, lasts: number],
  string | 0
>(markBlockedScript);
const UNMARK_BLOCKED = new Script<readonly [blocked: string], readonly [mark: string], 1>(
  unmarkBlockedScript,
);
const BLOCKED = new Script<
  readonly [owner: string, blocked: string],
  readonly [],
  [token?: string, mark?: string, since?: string, waitsFor?: string]
>(blockedScript);
const CANCEL = new Script<
  WaitKeys,
  readonly [token: string, lastFence: number, countReceivers: string],
  1
>(cancelScript);
const STAND_BACK = new Script<
  WaitKeys,
  readonly [
    token: string,
    access: Access,
    countReceivers: string,
    aliveFor: number,
    channel: string,
    sequence: number,
    notAfter: number,
  ],
  1
>(standBackScript);
const FORCE_RELEASE = new Script<
  WaitKeys,
  readonly [by: string, countReceivers: string, fence: number, notAfter: number],
  [nowMicros: string, record: string, sharers: string[], tokens: string[]]
>(forceReleaseScript);
const QUERY = new Script<
  WaitKeys,
  readonly [],
  [nowMicros: string, record: string, sharers: string[], waiters: string[], tokens: string[]]
>(queryScript);

/**
 * Locks on one Redis: standalone, behind Sentinel, or a Cluster (everything of a name shares a slot). One script, one
 * round trip, for each call.
 */
export class RedisBackend implements LockBackend {
  readonly wakeUp: RedisWakeUp | ClusterWakeUp;
  readonly runs: RedisRunStore;
  /** Where it's one of several independent nodes: their runs. */
  readonly acceptor: RedisRunAcceptor;
  readonly countsHolders = true;
  readonly losesInPart = false;
  readonly #source: ConnectionSource;
  readonly #clock: Clock;
  readonly #connection: Connection;
  /** Where what grants and prolongs is sent, where replicas are to confirm it. */
  readonly #confirmed: ConfirmedConnection | ConfirmedCluster | undefined;
  /** Where what grants is sent, where the server has a guard. */
  readonly #guard: ServerGuard | undefined;
  /** Where what grants is sent. */
  readonly #grants: ScriptRunner;
  /** Where what prolongs is sent. */
  readonly #renewals: ScriptRunner;
  readonly #serverClock = new ServerClock();
  readonly #keyPrefix: string;
  readonly #countReceivers: string;
  readonly #holderFacts: HolderFacts;
  /** The same as JSON, which is what nearly every holder says. */
  readonly #holder: string;
  #synchronizing: Promise<Unavailable | undefined> | undefined;

  constructor(
    options: RedisBackendOptions,
    clock: Clock,
    events: LockEmitter,
    random: () => number = Math.random,
  ) {
    const { commandTimeout, replicas } = options;
    this.#clock = clock;
    this.#source = new ConnectionSource(options.connection, commandTimeout);
    this.#keyPrefix = this.#source.keyPrefix;
    this.#countReceivers = this.#source.countsReceivers ? '1' : '0';
    const channel = `${this.#keyPrefix}${options.prefix}:wake:${randomBytes(9).toString('base64url')}`;
    const { application } = options;
    const forget = () => this.#serverClock.forget();
    this.#connection = new Connection(this.#source, commandTimeout, clock, events, forget, random);
    if (replicas !== undefined) {
      this.#confirmed = this.#source.isCluster
        ? new ConfirmedCluster(this.#connection, replicas, commandTimeout, clock, forget)
        : new ConfirmedConnection(this.#source, replicas, commandTimeout, clock, forget);
    }
    this.#renewals = this.#confirmed ?? this.#connection;
    if (options.guard !== undefined) this.#guard = this.#newGuard(options.guard, events);
    this.#grants = this.#guard ?? this.#renewals;
    this.runs = new RedisRunStore(this.#connection, this.#renewals, this.#keyPrefix);
    this.acceptor = new RedisRunAcceptor(this.#connection, this.#renewals, this.#keyPrefix);
    const mayPublish = async () =>
      options.wakeUp === 'publish' ? this.#connection.mayPublish(channel) : false;
    this.wakeUp = this.#source.isCluster
      ? new ClusterWakeUp(
          this.#connection,
          this.#keyPrefix,
          channel,
          clock,
          commandTimeout,
          mayPublish,
          random,
        )
      : new RedisWakeUp(this.#source, channel, clock, commandTimeout, mayPublish);
    const { holderChannel } = this.wakeUp;
    this.#holderFacts = {
      host: hostname(),
      pid: process.pid,
      application,
      channel: holderChannel,
    };
    this.#holder = JSON.stringify(this.#holderFacts);
  }

  async connect(timeout?: number): Promise<{ kind: 'connected' } | Unavailable> {
    const outcomes = await Promise.all([
      this.#connection.connect(timeout),
      this.#confirmed?.connect(),
    ]);
    return outcomes.find((outcome) => outcome?.kind === 'unavailable') ?? { kind: 'connected' };
  }

  /** The server's time at a local time, most likely; `undefined` where nothing is known of its clock. */
  serverTimeAt(localTime: number): number | undefined {
    return this.#serverClock.known ? this.#serverClock.estimate(localTime) : undefined;
  }

  tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    if (request.notAfter <= this.#clock.now()) return Promise.resolve({ kind: 'late' });
    if (!this.#isClockKnown) return this.#tryWhenClockIsKnown(request);
    const { nodes } = this.#connection;
    if (nodes !== undefined && request.waitsSince !== undefined) {
      return this.#tryWhenNodeIsKnown(request, nodes);
    }
    return this.#tryAcquire(request);
  }

  /** Since when it waits is said in the time of the node, which must be known for it. */
  async #tryWhenNodeIsKnown(
    request: AcquireRequest & FencedRequest,
    nodes: ClusterNodes,
  ): Promise<AcquireOutcome> {
    const { owner } = request.name;
    if (nodes.clockOf(this.#prefixed(owner)) === undefined) {
      // Where it can't be found out, it begins to wait now.
      await this.#connection.send(() => nodes.askClockOf(this.#prefixed(owner)), request.notAfter);
    }
    return this.#tryAcquire(request);
  }

  async #tryWhenClockIsKnown(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    const unavailable = await this.synchronized();
    return unavailable ?? this.#tryAcquire(request);
  }

  #tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    const { name, token, ttl, place, notAfter, access, label, fenceFloor } = request;
    if (access !== undefined && access !== 'exclusive') return this.#tryShare(request, access);
    const serverNotAfter = Math.floor(this.#serverClock.notAfter(notAfter));
    const holder = this.#holderWith(label);
    const countReceivers = this.#countReceivers;
    const args: AcquireArgs = [token, ttl, serverNotAfter, holder, countReceivers];
    if (place !== undefined) {
      const { aliveFor, sequence = '' } = place;
      args.push(fenceFloor ?? '', aliveFor, this.wakeUp.channelFor(name), sequence);
    } else if (fenceFloor !== undefined) {
      args.push(fenceFloor);
    }
    return this.#grants
      .run(ACQUIRE, this.#waitKeysOf(name), args, notAfter)
      .then(this.#readAcquire);
  }

  #tryShare(
    {
      name,
      token,
      ttl,
      place,
      notAfter,
      waitsSince,
      label,
      fenceFloor,
    }: AcquireRequest & FencedRequest,
    access: Access,
  ): Promise<AcquireOutcome> {
    const { nodes } = this.#connection;
    const clock =
      nodes === undefined ? this.#serverClock : nodes.clockOf(this.#prefixed(name.owner));
    const arrival =
      waitsSince === undefined || clock === undefined
        ? ''
        : Math.floor(clock.notBefore(waitsSince) * 1_000);
    const args: ShareArgs = [
      token,
      ttl,
      Math.floor(this.#serverClock.notAfter(notAfter)),
      this.#holderWith(label),
      this.#countReceivers,
      access,
      place?.sequence ?? arrival,
    ];
    if (place !== undefined) {
      args.push(fenceFloor ?? '', place.aliveFor, this.wakeUp.channelFor(name));
    } else if (fenceFloor !== undefined) {
      args.push(fenceFloor);
    }
    return this.#grants.run(SHARE, this.#waitKeysOf(name), args, notAfter).then(this.#readAcquire);
  }

  readonly #readAcquire = (
    outcome: Replied<AcquireReply> | Unavailable,
  ): AcquireOutcome | Promise<AcquireOutcome> => {
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt, confirmed } = outcome;
    if (typeof reply === 'string') {
      const time = Number(reply.slice(0, MICROS));
      const fencingToken = reply.length === MICROS ? time : Number(reply.slice(MICROS + 1));
      this.#observe(time, outcome);
      return ifConfirmed({ kind: 'granted', fencingToken, sentAt, othersWait: false }, confirmed);
    }
    this.#observe(Number(reply[0]), outcome);
    switch (reply[1]) {
      case 'granted':
        return ifConfirmed(
          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: reply[3] === 1 },
          confirmed,
        );
      case 'busy':
        return {
          kind: 'busy',
          // A key without expiry isn't ours: it was set by hand.
          remaining: reply[2] < 0 ? undefined : reply[2],
          sequence: reply[3] === 0 ? undefined : reply[3],
        };
      case 'late':
        return { kind: 'late' };
      case 'conflict':
        return { kind: 'conflict', access: reply[2] };
    }
  };

  get joinsKeys(): boolean {
    return !this.#source.isCluster;
  }

  async tryAcquireAll({
    wanted,
    ttl,
    access,
    notAfter,
    fencingToken = 0,
    label,
    fenceFloor,
  }: AcquireAllRequest & FencedRequest): Promise<AcquireAllOutcome> {
    if (notAfter <= this.#clock.now()) return { kind: 'late' };
    if (!this.#isClockKnown) {
      const unavailable = await this.synchronized();
      if (unavailable !== undefined) return unavailable;
    }
    const serverNotAfter = Math.floor(this.#serverClock.notAfter(notAfter));
    const [first] = wanted;
    if (first !== undefined && wanted.length === 1 && fencingToken > 0 && access === 'exclusive') {
      const args = [first.token, ttl, serverNotAfter, fencingToken] as const;
      return this.#setFence(first.name, args, notAfter);
    }
    const keys = wanted.flatMap(({ name }) => this.#waitKeysOf(name));
    const tokens: (string | number)[] = wanted.map(({ token }) => token);
    if (fenceFloor !== undefined) tokens.push(fenceFloor);
    const outcome = await this.#grants.run(
      ACQUIRE_ALL,
      keys,
      [ttl, serverNotAfter, this.#holderWith(label), access, fencingToken, ...tokens],
      notAfter,
    );
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt, confirmed } = outcome;
    this.#observe(Number(reply[0]), outcome);
    switch (reply[1]) {
      case 'granted':
        return ifConfirmed(
          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: false },
          confirmed,
        );
      case 'busy':
        return {
          kind: 'busy',
          index: reply[2] - 1,
          remaining: reply[3] < 0 ? undefined : reply[3],
        };
      case 'late':
        return { kind: 'late' };
      case 'conflict':
        return { kind: 'conflict', index: reply[2] - 1, access: reply[3] };
    }
  }

  /** A lease that holds its key needs no look at the queue. */
  async #setFence(
    name: LockName,
    args: SetFenceArgs,
    notAfter: number,
  ): Promise<AcquireAllOutcome> {
    const keys = [this.#prefixed(name.owner)] as const;
    const outcome = await this.#renewals.run(SET_FENCE, keys, args, notAfter);
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt, confirmed } = outcome;
    const [time, refusal] = typeof reply === 'string' ? [reply] : reply;
    this.#observe(Number(time), outcome);
    if (refusal === 'late') return { kind: 'late' };
    if (refusal === 'busy') return { kind: 'busy', index: 0, remaining: undefined };
    const [, , , fencingToken] = args;
    return ifConfirmed({ kind: 'granted', fencingToken, sentAt, othersWait: false }, confirmed);
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const groups = this.#groupsOf(leases);
    const [first] = groups;
    if (first !== undefined && groups.length === 1) return this.#extendTogether(first);
    const outcomes = new Map<HeldToken, ExtendOutcome>();
    await this.#connection.together(() =>
      Promise.all(
        groups.map(async (group) => {
          const ofGroup = await this.#extendTogether(group);
          group.forEach((lease, index) => outcomes.set(lease, ofGroup[index] as ExtendOutcome));
        }),
      ),
    );
    return leases.map((lease) => outcomes.get(lease) as ExtendOutcome);
  }

  /** Which leases go in one command: those of one ttl and kind, with tokens of one length, which nearly always are all. */
  #groupsOf(leases: readonly HeldToken[]): readonly (readonly HeldToken[])[] {
    // In a Cluster the keys of one script must share a slot, and those of two names seldom do: each in a command of its own.
    if (this.#source.isCluster) return leases.map((lease) => [lease]);
    const groups: HeldToken[][] = [];
    for (const lease of leases) {
      const group = groups.find(
        ([one]) =>
          one?.ttl === lease.ttl &&
          one.token.length === lease.token.length &&
          isShared(one) === isShared(lease),
      );
      if (group === undefined) groups.push([lease]);
      else group.push(lease);
    }
    return groups;
  }

  async #extendTogether(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const outcome = await (leases.some(isShared)
      ? this.#prolong(leases)
      : this.#extendExclusive(leases));
    if (outcome.kind === 'unavailable') {
      // What is wrong with one (an ACL that doesn't know its prefix) isn't wrong with all.
      const mayBeOne = outcome.reason === 'refused' && leases.length > 1;
      if (!mayBeOne) return leases.map(() => outcome);
      return (await Promise.all(leases.map((lease) => this.#extendTogether([lease])))).flat();
    }
    const { reply, sentAt, confirmed } = outcome;
    this.#observe(Number(reply[0]), outcome);
    // A failover to a replica that knows only the older end would free the key before the holder's new deadline.
    const extended = await ifConfirmed<ExtendOutcome>({ kind: 'extended', sentAt }, confirmed);
    return leases.map((_, index) => (reply[1][index] === '1' ? extended : TAKEN));
  }

  #extendExclusive(leases: readonly HeldToken[]): Promise<Replied<ExtendReply> | Unavailable> {
    const keys: string[] = [];
    let tokens = '';
    for (const { name, token } of leases) {
      keys.push(this.#prefixed(name.owner));
      tokens += `${token} `;
    }
    return this.#renewals.run(EXTEND, keys, [leases[0]?.ttl ?? 0, tokens]);
  }

  #prolong(leases: readonly HeldToken[]): Promise<Replied<ExtendReply> | Unavailable> {
    const keys = leases.flatMap(({ name }) => this.#waitKeysOf(name));
    const tokens = leases.map(({ token }) => token);
    return this.#renewals.run(PROLONG, keys, [leases[0]?.ttl ?? 0, ...tokens]);
  }

  release(request: ReleaseRequest): Promise<ReleaseOutcome> {
    const { name, token, lastFence, keepFor } = request;
    if (isShared(request)) {
      const args = [token, keepFor, this.#countReceivers] as const;
      return this.#connection.run(LEAVE, this.#waitKeysOf(name), args).then(readRelease);
    }
    const args = [token, lastFence, keepFor, this.#countReceivers] as const;
    return this.#connection.run(RELEASE, this.#waitKeysOf(name), args).then(readRelease);
  }

  downgrade({ name, token, fencingToken }: DowngradeRequest): Promise<DowngradeOutcome> {
    const args = [token, fencingToken, this.#countReceivers] as const;
    return this.#connection.run(DOWNGRADE, this.#waitKeysOf(name), args).then(readRelease);
  }

  async markBlocked(request: MarkBlockedRequest): Promise<MarkBlockedOutcome> {
    const { name, token, mark, waitsFor, since = '', lasts } = request;
    const keys = [this.#prefixed(name.owner), this.#prefixed(name.blocked)] as const;
    const args = [token, mark, since, waitsFor.owner, lasts] as const;
    const outcome = await this.#connection.run(MARK_BLOCKED, keys, args);
    if (outcome.kind === 'unavailable') return outcome;
    return outcome.reply === 0 ? TAKEN : { kind: 'marked', since: Number(outcome.reply) };
  }

  async unmarkBlocked({ name, mark }: UnmarkBlockedRequest): Promise<UnmarkBlockedOutcome> {
    const keys = [this.#prefixed(name.blocked)] as const;
    const outcome = await this.#connection.run(UNMARK_BLOCKED, keys, [mark]);
    return outcome.kind === 'unavailable' ? outcome : { kind: 'unmarked' };
  }

  async holderOf(name: LockName): Promise<HolderOutcome> {
    const keys = [this.#prefixed(name.owner), this.#prefixed(name.blocked)] as const;
    const outcome = await this.#connection.run(BLOCKED, keys, []);
    if (outcome.kind === 'unavailable') return outcome;
    const [token, mark, since, waitsFor] = outcome.reply;
    if (token === undefined) return { kind: 'none' };
    if (mark === undefined || since === undefined || waitsFor === undefined) {
      return { kind: 'held', token, blocked: undefined };
    }
    const blocked = { mark, since: Number(since), waitsFor: LockName.ofAnyOwner(waitsFor) };
    return { kind: 'held', token, blocked };
  }

  async cancel({ name, token, lastFence = 0 }: CancelRequest): Promise<CancelOutcome> {
    const outcome = await this.#connection.run(CANCEL, this.#waitKeysOf(name), [
      token,
      lastFence,
      this.#countReceivers,
    ]);
    return outcome.kind === 'unavailable' ? outcome : { kind: 'cancelled' };
  }

  /**
   * Undoes a grant that came to nothing, since too few other nodes gave theirs, and queues the token again at its place. The
   * key is handed on, perhaps to this very token.
   */
  async standBack(request: StandBackRequest): Promise<CancelOutcome> {
    const { name, token, access, place, notAfter } = request;
    const { aliveFor, sequence } = place;
    const channel = this.wakeUp.channelFor(name);
    const serverNotAfter = Math.floor(this.#serverClock.notAfter(notAfter));
    const outcome = await this.#connection.run(
      STAND_BACK,
      this.#waitKeysOf(name),
      [token, access, this.#countReceivers, aliveFor, channel, sequence, serverNotAfter],
      notAfter,
    );
    return outcome.kind === 'unavailable' ? outcome : { kind: 'cancelled' };
  }

  async forceRelease(request: ForceRequest): Promise<ForceOutcome> {
    const { name, reason, fencingToken = 0, notAfter } = request;
    if (notAfter <= this.#clock.now()) return { kind: 'late' };
    if (!this.#isClockKnown) {
      const unavailable = await this.synchronized();
      if (unavailable !== undefined) return unavailable;
    }
    const serverNotAfter = Math.floor(this.#serverClock.notAfter(notAfter));
    const { host, pid, application } = this.#holderFacts;
    const by: ForcedBy = { host, pid, application, reason };
    const told = JSON.stringify({ ...by, owner: this.#prefixed(name.owner) });
    const args = [told, this.#countReceivers, fencingToken, serverNotAfter] as const;
    const keys = this.#waitKeysOf(name);
    const outcome = await this.#connection.run(FORCE_RELEASE, keys, args, notAfter);
    if (outcome.kind === 'unavailable') return outcome;
    const [nowMicros, record, sharers, tokens] = outcome.reply;
    this.#observe(Number(nowMicros), outcome);
    if (record === 'late') return { kind: 'late' };
    const leases = leasesOf(record, sharers, tokens, Number(nowMicros) / 1_000);
    return {
      kind: 'forced',
      held: leases.map(({ holder }) => holder),
      by,
      leases: leases.map(({ token }) => token),
    };
  }

  async query(name: LockName): Promise<QueryOutcome> {
    const outcome = await this.#connection.run(QUERY, this.#waitKeysOf(name), []);
    if (outcome.kind === 'unavailable') return outcome;
    const [nowMicros, record, sharers, waiters, tokens] = outcome.reply;
    const leases = leasesOf(record, sharers, tokens, Number(nowMicros) / 1_000);
    return {
      kind: 'found',
      leases: leases.map(({ token }) => token),
      state: {
        key: name.key,
        held: leases.map(({ holder }) => holder),
        pending: pairsOf(waiters).map(([sequence, access]) => ({
          sequence: Number(sequence),
          access: access as Access,
        })),
      },
    };
  }

  names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome> {
    return scanNames(this.#connection, this.#keyPrefix, prefix, pattern, SIGNS_OF_LOCKS);
  }

  async survey(): Promise<SurveyOutcome> {
    const connected = await this.#connection.connect();
    if (connected.kind === 'unavailable') return connected;
    const { masters } = this.#connection;
    const { channel } = this.wakeUp;
    const servers = await Promise.all(
      masters.map((node) => surveyServer(this.#connection, node, channel)),
    );
    return { kind: 'surveyed', layout: this.#source.layout, servers };
  }

  async close(): Promise<void> {
    this.wakeUp.close();
    this.#confirmed?.close();
    this.#connection.close();
    this.#source.close();
  }

  /** In a Cluster, each node has a clock of its own, and the connection tells deadlines in its time. */
  get #isClockKnown(): boolean {
    return this.#serverClock.known || this.#connection.nodes !== undefined;
  }

  #observe(micros: number, { sentAt, receivedAt, clock }: Replied<unknown>): void {
    (clock ?? this.#serverClock).observe(micros / 1_000, sentAt, receivedAt);
  }

  #newGuard(guard: ResolvedGuard, events: LockEmitter): ServerGuard {
    const { longestTtl, proxied } = guard;
    const { isCluster, layout } = this.#source;
    // A script that is confirmed may be written later than it's asked for, over another connection.
    const isDirect = !proxied && this.#confirmed === undefined;
    const settings = {
      longestTtl,
      lag: promotionLag(guard, layout),
      keyPrefix: this.#keyPrefix,
      isCluster,
      link: isDirect ? () => this.#connection.link : () => undefined,
    };
    return new ServerGuard(this.#renewals, settings, this.#clock, events);
  }

  async initializeGuard(prefix: string): Promise<InitializeOutcome> {
    if (this.#guard === undefined) return { kind: 'unguarded' };
    const traces = await this.traces(prefix);
    if (traces.kind === 'unavailable') return traces;
    if (traces.names.length > 0) return { kind: 'in-use', names: traces.names };
    const outcome = await this.#guard.initialize(prefix);
    if (outcome.kind === 'unavailable') return outcome;
    return { kind: outcome.made > 0 ? 'initialized' : 'present' };
  }

  /** The locks and jobs of which anything is known under a prefix. */
  async traces(prefix: string): Promise<NamesOutcome> {
    const locks = await this.names(prefix, EVERY_KEY);
    if (locks.kind === 'unavailable') return locks;
    // The locks of their runs are under prefixes of their own.
    const names = [...locks.names];
    for (const store of [this.runs, this.acceptor]) {
      const jobs = await store.names(`${prefix}:run`, EVERY_KEY);
      if (jobs.kind === 'unavailable') return jobs;
      names.push(...jobs.names);
    }
    return { kind: 'names', names };
  }

  /** Makes sure that the server's clock is known: without it, no deadline can be told to the server. */
  synchronized(): Promise<Unavailable | undefined> {
    this.#synchronizing ??= this.#synchronize().finally(() => (this.#synchronizing = undefined));
    return this.#synchronizing;
  }

  async #synchronize(): Promise<Unavailable | undefined> {
    const outcome = await this.#connection.time();
    // Nothing was taken yet, whatever became of the question.
    if (outcome.kind === 'unavailable') return { ...outcome, mayHaveRun: false };
    const [seconds, microseconds] = outcome.reply;
    this.#serverClock.observe(
      seconds * 1_000 + microseconds / 1_000,
      outcome.sentAt,
      outcome.receivedAt,
    );
    return undefined;
  }

  #holderWith(label: string | undefined): string {
    return label === undefined ? this.#holder : JSON.stringify({ ...this.#holderFacts, label });
  }

  #waitKeysOf(name: LockName): WaitKeys {
    return [this.#prefixed(name.owner), this.#prefixed(name.queue), this.#prefixed(name.waiters)];
  }

  #prefixed(key: string): string {
    return this.#keyPrefix + key;
  }
}

export interface RedisBackendOptions {
  readonly connection: Exclude<LockConnection, 'memory'>;
  readonly commandTimeout: number;
  readonly prefix: string;
  readonly wakeUp: 'publish' | 'poll';
  readonly application: string | undefined;
  readonly replicas?: ResolvedReplicas | undefined;
  readonly guard?: ResolvedGuard | undefined;
}

/** What is known of a holder, beside its lease, as it's kept with it. */
interface HolderFacts extends Partial<Pick<HolderState, 'application' | 'label'>> {
  readonly host: string;
  readonly pid: number;
  /** On which its process listens. */
  readonly channel: string;
}

/** What was granted or prolonged, or why it can't be relied on. */
function ifConfirmed<T extends { readonly kind: string }>(
  outcome: T,
  confirmed: Promise<Unavailable | undefined> | undefined,
): T | Promise<T | Unavailable> {
  return confirmed === undefined ? outcome : confirmed.then((failure) => failure ?? outcome);
}

export interface StandBackRequest extends Pick<HeldToken, 'name' | 'token'> {
  readonly access: Access;
  readonly place: { readonly aliveFor: number; readonly sequence: number };
  /** Monotonic local time up to which the answer is waited for, and after which nobody waits at the place any more. */
  readonly notAfter: number;
}

const TAKEN = { kind: 'taken' } as const;
const RELEASED = { kind: 'released' } as const;

function readRelease(outcome: Replied<0 | 1> | Unavailable): ReleaseOutcome {
  if (outcome.kind === 'unavailable') return outcome;
  return outcome.reply === 1 ? RELEASED : TAKEN;
}

function isShared({ access }: HeldToken): boolean {
  return access !== undefined && access !== 'exclusive';
}

/**
 * Who holds a key, by its owner record (see `_record.lua`) and its sharers (see `_sharers.lua`): nobody where it's free,
 * reserved, or holds what isn't ours. `tokens`: of the sharers, where they're known.
 */
function leasesOf(
  record: string,
  sharers: readonly string[],
  tokens: readonly string[],
  now: number,
): { readonly holder: HolderState; readonly token: string }[] {
  const match = /^([hks]) (\d+) (\d+) (\S+) (.*)$/s.exec(record);
  if (match === null) return [];
  const [, state, fence, until, token, info] = match as unknown as [
    ...[all: string, state: string, fence: string, until: string, token: string, info: string],
  ];
  if (state !== 's') {
    const holder = readHolder(`${state} ${fence} ${info}`, Number(until) - now, 'exclusive');
    return holder === undefined ? [] : [{ holder, token }];
  }
  return pairsOf(sharers)
    .flatMap(([ends, its], index) => {
      const holder = readHolder(its, Number(ends) - now, token as Access);
      return holder === undefined ? [] : [{ holder, token: tokens[index] ?? '' }];
    })
    .toSorted((a, b) => a.holder.fencingToken - b.holder.fencingToken);
}

/** Reads '<h|k> <fence> <holder>', as the scripts do, to which it's held whatever is said of the holder. */
function readHolder(info: string, remaining: number, access: Access): HolderState | undefined {
  const match = /^([hk]) (\d+) (.*)$/s.exec(info);
  if (match === null || remaining <= 0) return undefined;
  const [, state, fence, facts] = match as unknown as [
    ...[all: string, state: string, fence: string, facts: string],
  ];
  return {
    fencingToken: Number(fence),
    // A fencing token is the server's time of the grant in µs, unless that clock was set back since the grant before.
    since: new Date(Math.min(Number(fence) / 1_000, LATEST_DATE)),
    remaining,
    ...readFacts(facts),
    kept: state === 'k',
    access,
  };
}

/** What is said of a holder; where another program wrote that, or somebody by hand, it may be anything. */
function readFacts(json: string): Pick<HolderState, 'host' | 'pid' | 'application' | 'label'> {
  try {
    const { host, pid, application, label } = JSON.parse(json) as Partial<
      Record<keyof HolderFacts, unknown>
    >;
    if (typeof host === 'string' && typeof pid === 'number') {
      return { host, pid, application: textOf(application), label: textOf(label) };
    }
  } catch {
    // Not JSON, or null.
  }
  return UNKNOWN_HOLDER;
}

const UNKNOWN_HOLDER = { host: 'unknown', pid: 0, application: undefined, label: undefined };

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function pairsOf(list: readonly string[]): [string, string][] {
  return Array.from({ length: list.length / 2 }, (_, i) => [
    list[2 * i] as string,
    list[2 * i + 1] as string,
  ]);
}
