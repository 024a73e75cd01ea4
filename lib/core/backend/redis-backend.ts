import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

import type { Clock } from '../clock.js';
import type { LockEmitter } from '../events.js';
import type { LockName } from '../lock-name.js';
import type { LockConnection } from '../options.js';
import { Connection, ConnectionSource, type Replied } from '../redis/connection.js';
import { RedisWakeUp } from '../redis/redis-wake-up.js';
import { Script } from '../redis/script.js';
import {
  acquireScript,
  cancelScript,
  extendScript,
  queryScript,
  releaseScript,
} from '../redis/scripts.generated.js';
import { ServerClock } from '../redis/server-clock.js';
import type {
  AcquireOutcome,
  AcquireRequest,
  CancelOutcome,
  CancelRequest,
  ExtendOutcome,
  HeldToken,
  HolderState,
  LockBackend,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  Unavailable,
} from './lock-backend.js';
import { RedisRunStore } from './redis-run-store.js';

type WaitKeys = readonly [owner: string, queue: string, waiters: string];

type AcquireReply =
  /** A grant's fencing token, which is the server's time as well. */
  | string
  | [nowMicros: string, 'granted', fence: string, othersWait: 0 | 1]
  | [nowMicros: string, 'busy', remaining: number, sequence: number]
  | [nowMicros: string, 'late'];

const ACQUIRE = new Script<
  WaitKeys,
  readonly [
    token: string,
    ttl: number,
    notAfter: number,
    holder: string,
    countReceivers: string,
    ...place: [] | [aliveFor: number, channel: string, sequence: number | ''],
  ],
  AcquireReply
>(acquireScript);
const EXTEND = new Script<
  readonly string[],
  readonly [ttl: number, tokens: string],
  [nowMicros: string, prolonged: string]
>(extendScript);
const RELEASE = new Script<
  WaitKeys,
  readonly [token: string, lastFence: number, keepFor: number, countReceivers: string],
  0 | 1
>(releaseScript);
const CANCEL = new Script<
  WaitKeys,
  readonly [token: string, lastFence: number, countReceivers: string],
  1
>(cancelScript);
const QUERY = new Script<
  WaitKeys,
  readonly [],
  [nowMicros: string, record: string, ...sequences: string[]]
>(queryScript);

/**
 * Locks on one Redis: standalone, behind Sentinel, or a Cluster (everything of a name shares a slot). One script, one
 * round trip, for each call.
 */
export class RedisBackend implements LockBackend {
  readonly wakeUp: RedisWakeUp;
  readonly runs: RedisRunStore;
  readonly #source: ConnectionSource;
  readonly #clock: Clock;
  readonly #connection: Connection;
  readonly #serverClock = new ServerClock();
  readonly #keyPrefix: string;
  readonly #countReceivers: string;
  readonly #holder: string;
  #synchronizing: Promise<Unavailable | undefined> | undefined;

  constructor(options: RedisBackendOptions, clock: Clock, events: LockEmitter) {
    const { commandTimeout } = options;
    this.#clock = clock;
    this.#source = new ConnectionSource(options.connection, commandTimeout);
    this.#keyPrefix = this.#source.keyPrefix;
    this.#countReceivers = this.#source.countsReceivers ? '1' : '0';
    const channel = `${this.#keyPrefix}${options.prefix}:wake:${randomBytes(9).toString('base64url')}`;
    this.#holder = JSON.stringify({
      host: hostname(),
      pid: process.pid,
      application: options.application,
      channel,
    });
    this.#connection = new Connection(this.#source, commandTimeout, clock, events, () =>
      this.#serverClock.forget(),
    );
    this.runs = new RedisRunStore(this.#connection, this.#keyPrefix);
    this.wakeUp = new RedisWakeUp(this.#source, channel, clock, commandTimeout, async () =>
      options.wakeUp === 'publish' ? this.#connection.mayPublish(channel) : false,
    );
  }

  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.#connection.connect();
  }

  tryAcquire(request: AcquireRequest): Promise<AcquireOutcome> {
    if (request.notAfter <= this.#clock.now()) return Promise.resolve({ kind: 'late' });
    return this.#serverClock.known ? this.#tryAcquire(request) : this.#tryWhenClockIsKnown(request);
  }

  async #tryWhenClockIsKnown(request: AcquireRequest): Promise<AcquireOutcome> {
    const unavailable = await this.#synchronized();
    return unavailable ?? this.#tryAcquire(request);
  }

  #tryAcquire({ name, token, ttl, place, notAfter }: AcquireRequest): Promise<AcquireOutcome> {
    const serverNotAfter = Math.floor(this.#serverClock.notAfter(notAfter));
    const holder = this.#holder;
    const countReceivers = this.#countReceivers;
    const channel = this.wakeUp.listening ? this.wakeUp.channel : '';
    return this.#connection
      .run(
        ACQUIRE,
        this.#waitKeysOf(name),
        place === undefined
          ? [token, ttl, serverNotAfter, holder, countReceivers]
          : [
              token,
              ttl,
              serverNotAfter,
              holder,
              countReceivers,
              place.aliveFor,
              channel,
              place.sequence ?? '',
            ],
        notAfter,
      )
      .then(this.#readAcquire);
  }

  readonly #readAcquire = (outcome: Replied<AcquireReply> | Unavailable): AcquireOutcome => {
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt, receivedAt } = outcome;
    if (typeof reply === 'string') {
      const fencingToken = Number(reply);
      this.#serverClock.observe(fencingToken / 1_000, sentAt, receivedAt);
      return { kind: 'granted', fencingToken, sentAt, othersWait: false };
    }
    this.#serverClock.observe(Number(reply[0]) / 1_000, sentAt, receivedAt);
    switch (reply[1]) {
      case 'granted':
        return {
          kind: 'granted',
          fencingToken: Number(reply[2]),
          sentAt,
          othersWait: reply[3] === 1,
        };
      case 'busy':
        return {
          kind: 'busy',
          // A key without expiry isn't ours: it was set by hand.
          remaining: reply[2] < 0 ? undefined : reply[2],
          sequence: reply[3] === 0 ? undefined : reply[3],
        };
      case 'late':
        return { kind: 'late' };
    }
  };

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const groups = this.#groupsOf(leases);
    const [first] = groups;
    if (first !== undefined && groups.length === 1) return this.#extendTogether(first);
    const outcomes = new Map<HeldToken, ExtendOutcome>();
    await Promise.all(
      groups.map(async (group) => {
        const ofGroup = await this.#extendTogether(group);
        group.forEach((lease, index) => outcomes.set(lease, ofGroup[index] as ExtendOutcome));
      }),
    );
    return leases.map((lease) => outcomes.get(lease) as ExtendOutcome);
  }

  /** Which leases go in one command: those of one ttl, with tokens of one length, which nearly always are all. */
  #groupsOf(leases: readonly HeldToken[]): readonly (readonly HeldToken[])[] {
    // In a Cluster the keys of one script must share a slot, and those of two names seldom do.
    if (this.#source.isCluster) return leases.map((lease) => [lease]);
    const groups: HeldToken[][] = [];
    for (const lease of leases) {
      const group = groups.find(
        ([one]) => one?.ttl === lease.ttl && one.token.length === lease.token.length,
      );
      if (group === undefined) groups.push([lease]);
      else group.push(lease);
    }
    return groups;
  }

  async #extendTogether(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const keys: string[] = [];
    let tokens = '';
    for (const { name, token } of leases) {
      keys.push(this.#prefixed(name.owner));
      tokens += `${token} `;
    }
    const outcome = await this.#connection.run(EXTEND, keys, [leases[0]?.ttl ?? 0, tokens]);
    if (outcome.kind === 'unavailable') {
      // What is wrong with one (an ACL that doesn't know its prefix) isn't wrong with all.
      const mayBeOne = outcome.reason === 'refused' && leases.length > 1;
      if (!mayBeOne) return leases.map(() => outcome);
      return (await Promise.all(leases.map((lease) => this.#extendTogether([lease])))).flat();
    }
    const { reply, sentAt, receivedAt } = outcome;
    this.#serverClock.observe(Number(reply[0]) / 1_000, sentAt, receivedAt);
    const extended: ExtendOutcome = { kind: 'extended', sentAt };
    return leases.map((_, index) => (reply[1][index] === '1' ? extended : TAKEN));
  }

  release({ name, token, lastFence, keepFor }: ReleaseRequest): Promise<ReleaseOutcome> {
    const args = [token, lastFence, keepFor, this.#countReceivers] as const;
    return this.#connection.run(RELEASE, this.#waitKeysOf(name), args).then(readRelease);
  }

  async cancel({ name, token, lastFence = 0 }: CancelRequest): Promise<CancelOutcome> {
    const outcome = await this.#connection.run(CANCEL, this.#waitKeysOf(name), [
      token,
      lastFence,
      this.#countReceivers,
    ]);
    return outcome.kind === 'unavailable' ? outcome : { kind: 'cancelled' };
  }

  async query(name: LockName): Promise<QueryOutcome> {
    const outcome = await this.#connection.run(QUERY, this.#waitKeysOf(name), []);
    if (outcome.kind === 'unavailable') return outcome;
    const [nowMicros, record, ...sequences] = outcome.reply;
    const holder = holderOf(record, Number(nowMicros) / 1_000);
    return {
      kind: 'found',
      state: {
        key: name.key,
        held: holder === undefined ? [] : [holder],
        pending: sequences.map((sequence) => ({ sequence: Number(sequence) })),
      },
    };
  }

  async close(): Promise<void> {
    this.wakeUp.close();
    this.#connection.close();
  }

  /** Makes sure that the server's clock is known: without it, no deadline can be told to the server. */
  #synchronized(): Promise<Unavailable | undefined> {
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
}

const TAKEN = { kind: 'taken' } as const;
const RELEASED = { kind: 'released' } as const;

function readRelease(outcome: Replied<0 | 1> | Unavailable): ReleaseOutcome {
  if (outcome.kind === 'unavailable') return outcome;
  return outcome.reply === 1 ? RELEASED : TAKEN;
}

/** Reads an owner record (see `_record.lua`); `undefined` where the key is free, reserved, or holds what isn't ours. */
function holderOf(record: string, now: number): HolderState | undefined {
  const match = /^([hk]) (\d+) (\d+) \S+ (\{.*\})$/.exec(record);
  if (match === null) return undefined;
  const [, state, fence, until, holder] = match;
  const remaining = Number(until) - now;
  if (remaining <= 0) return undefined;
  const { host, pid, application } = JSON.parse(holder as string) as Pick<
    HolderState,
    'host' | 'pid' | 'application'
  >;
  return {
    fencingToken: Number(fence),
    // A fencing token is the server's time of the grant in µs, unless that clock was set back since the grant before.
    since: new Date(Number(fence) / 1_000),
    remaining,
    host,
    pid,
    application,
    kept: state === 'k',
  };
}
