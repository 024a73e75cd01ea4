import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

import type { Clock } from '../clock.js';
import type { LockEmitter } from '../events.js';
import type { LockName } from '../lock-name.js';
import type { LockConnection } from '../options.js';
import { Connection, ConnectionSource } from '../redis/connection.js';
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
  ExtendOutcome,
  HeldToken,
  HolderState,
  LockBackend,
  Place,
  QueryOutcome,
  ReleaseOutcome,
  ReleaseRequest,
  Unavailable,
} from './lock-backend.js';

/** A reserved key waits so long for the waiter that was woken, in ms: a dead one delays the next by this much. */
const CLAIM_WINDOW = 1_000;
/**
 * The last fencing token of a key outlives its lease by so long, in ms: as far as the clocks of successive masters may
 * differ, or one clock be set back, without a token being given twice.
 */
const FENCE_RETENTION = 10_000;

type WaitKeys = readonly [owner: string, queue: string, waiters: string];
type NameKeys = readonly [...WaitKeys, fence: string];

const ACQUIRE = new Script<
  NameKeys,
  readonly [
    token: string,
    ttl: number,
    notAfter: number,
    rememberFence: number,
    holder: string,
    claimWindow: number,
    countReceivers: string,
    ...place: [] | [aliveFor: number, channel: string, sequence: number | ''],
  ],
  | [nowMicros: number, 'granted', fence: number]
  | [nowMicros: number, 'busy', remaining: number, sequence: number]
  | [nowMicros: number, 'late']
>(acquireScript);
const EXTEND = new Script<
  readonly string[],
  readonly (string | number)[],
  [nowMicros: number, ...(0 | 1)[]]
>(extendScript);
const RELEASE = new Script<
  WaitKeys,
  readonly [token: string, keepFor: number, claimWindow: number, countReceivers: string],
  0 | 1
>(releaseScript);
const CANCEL = new Script<
  WaitKeys,
  readonly [token: string, claimWindow: number, countReceivers: string],
  1
>(cancelScript);
const QUERY = new Script<
  WaitKeys,
  readonly [],
  [nowMicros: number, owner: string, remaining: number, ...sequences: string[]]
>(queryScript);

/**
 * Locks on one Redis: standalone, behind Sentinel, or a Cluster (everything of a name shares a slot). One script, one
 * round trip, for each call.
 */
export class RedisBackend implements LockBackend {
  readonly wakeUp: RedisWakeUp;
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
    this.#holder = JSON.stringify({
      host: hostname(),
      pid: process.pid,
      application: options.application,
    });
    const channel = `${this.#keyPrefix}${options.prefix}:wake:${randomBytes(9).toString('base64url')}`;
    this.#connection = new Connection(this.#source, commandTimeout, clock, events, () =>
      this.#serverClock.forget(),
    );
    this.wakeUp = new RedisWakeUp(this.#source, channel, clock, commandTimeout, () =>
      this.#connection.mayPublish(channel),
    );
  }

  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.#connection.connect();
  }

  async tryAcquire({ name, token, ttl, notAfter, place }: AcquireRequest): Promise<AcquireOutcome> {
    if (notAfter <= this.#clock.now()) return { kind: 'late' };
    if (!this.#serverClock.known) {
      const unavailable = await this.#synchronized();
      if (unavailable !== undefined) return unavailable;
    }
    const outcome = await this.#connection.run(
      ACQUIRE,
      [...this.#waitKeysOf(name), this.#prefixed(name.fence)],
      [
        token,
        ttl,
        Math.floor(this.#serverClock.notAfter(notAfter)),
        ttl + FENCE_RETENTION,
        this.#holder,
        CLAIM_WINDOW,
        this.#countReceivers,
        ...(place === undefined ? ([] as const) : this.#placeArguments(place)),
      ],
      notAfter,
    );
    if (outcome.kind === 'unavailable') return outcome;
    const { reply, sentAt, receivedAt } = outcome;
    this.#serverClock.observe(reply[0] / 1_000, sentAt, receivedAt);
    switch (reply[1]) {
      case 'granted':
        return { kind: 'granted', fencingToken: reply[2], sentAt };
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
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    // In a Cluster the keys of one script must share a slot, and those of two names seldom do.
    if (this.#source.isCluster && leases.length > 1) return this.#extendEach(leases);
    const keys = leases.flatMap(({ name }) => [
      this.#prefixed(name.owner),
      this.#prefixed(name.fence),
    ]);
    const args = leases.flatMap(({ token, ttl }) => [token, ttl, ttl + FENCE_RETENTION]);
    const outcome = await this.#connection.run(EXTEND, keys, args);
    if (outcome.kind === 'unavailable') {
      // What is wrong with one (an ACL that doesn't know its prefix) isn't wrong with all.
      const mayBeOne = outcome.reason === 'refused' && leases.length > 1;
      return mayBeOne ? this.#extendEach(leases) : leases.map(() => outcome);
    }
    const { reply, sentAt, receivedAt } = outcome;
    this.#serverClock.observe(reply[0] / 1_000, sentAt, receivedAt);
    return leases.map((_, index) =>
      reply[index + 1] === 1 ? { kind: 'extended', sentAt } : { kind: 'taken' },
    );
  }

  async #extendEach(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    return (await Promise.all(leases.map((lease) => this.extend([lease])))).flat();
  }

  async release({ name, token, keepFor }: ReleaseRequest): Promise<ReleaseOutcome> {
    const outcome = await this.#connection.run(RELEASE, this.#waitKeysOf(name), [
      token,
      keepFor,
      CLAIM_WINDOW,
      this.#countReceivers,
    ]);
    if (outcome.kind === 'unavailable') return outcome;
    return outcome.reply === 1 ? { kind: 'released' } : { kind: 'taken' };
  }

  async cancel({ name, token }: Pick<HeldToken, 'name' | 'token'>): Promise<CancelOutcome> {
    const outcome = await this.#connection.run(CANCEL, this.#waitKeysOf(name), [
      token,
      CLAIM_WINDOW,
      this.#countReceivers,
    ]);
    return outcome.kind === 'unavailable' ? outcome : { kind: 'cancelled' };
  }

  async query(name: LockName): Promise<QueryOutcome> {
    const outcome = await this.#connection.run(QUERY, this.#waitKeysOf(name), []);
    if (outcome.kind === 'unavailable') return outcome;
    const [, record, remaining, ...sequences] = outcome.reply;
    const holder = holderOf(record, remaining);
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

  #placeArguments({
    aliveFor,
    sequence,
  }: Place): [aliveFor: number, channel: string, sequence: number | ''] {
    return [aliveFor, this.wakeUp.listening ? this.wakeUp.channel : '', sequence ?? ''];
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
  readonly application: string | undefined;
}

/** Reads an owner record; `undefined` where the key is free, reserved, or holds what isn't ours. */
function holderOf(record: string, remaining: number): HolderState | undefined {
  const match = /^(\S+) (\d+) (\{.*\})$/.exec(record);
  if (match === null) return undefined;
  const [, token, fence, holder] = match;
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
    kept: token === '=',
  };
}
