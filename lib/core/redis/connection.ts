import { type Cluster, Redis, type RedisOptions } from 'ioredis';

import { Agenda, type AgendaEntry } from '../agenda.js';
import type { Unavailable } from '../backend/unavailable.js';
import type { Clock, Timer } from '../clock.js';
import { LockUnavailableError } from '../errors.js';
import type { LockEmitter } from '../events.js';
import type { LockConnection } from '../options.js';
import { ClusterNodes, type Errand, reached, UnreachableNode } from './cluster-nodes.js';
import { FailoverWatch } from './failover-watch.js';
import { hashSlotOf } from './hash-slot.js';
import { RedisNode } from './redis-node.js';
import { hasNotRun, isDemoted } from './refusal.js';
import { isUnknownScript, type Script } from './script.js';
import type { Replied, ScriptRunner } from './script-runner.js';

export type { Replied };

export type RedisClient = Redis | Cluster;

const LONGEST_RECONNECT_DELAY = 1_000;
/** As ioredis words it. */
const TIMED_OUT = 'Command timed out';
/** How many keys one SCAN looks at: the server does nothing else meanwhile. */
const SCAN_STEP = 1_000;
/** A timer that is so many ms late came to a blocked event loop. */
const BLOCKED = 50;
/** How often a server that loads its data is asked whether it's done, in ms. */
const LOADING_RETRY = 500;
/** A timer may be so many ms early, by the clock that we read. */
const TIMER_PRECISION = 5;

/**
 * Settings of every connection that is ours. ioredis' defaults are made for data that may be written twice or late;
 * a lock that is taken twice or late is a lock that nobody owns.
 */
function safeOptions(commandTimeout: number, onDemoted: () => void): SafeOptions {
  return {
    // A command that can't be sent now fails now, instead of running when its caller has long given up.
    enableOfflineQueue: false,
    // One that was cut off isn't sent again behind our back: it may have run.
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout,
    connectTimeout: Math.max(commandTimeout, 2_000),
    // Never gives up: the process lives longer than the outage.
    retryStrategy: (times) =>
      Math.min(25 * 2 ** Math.min(times, 10), LONGEST_RECONNECT_DELAY) * (0.5 + Math.random() / 2),
    reconnectOnError: (error) => {
      const demoted = isDemoted(error);
      if (demoted) onDemoted();
      return demoted;
    },
    autoResubscribe: false,
    enableAutoPipelining: false,
    enableReadyCheck: true,
    maxLoadingRetryTime: LOADING_RETRY,
    lazyConnect: false,
    disconnectTimeout: 200,
    sentinelRetryStrategy: (times) =>
      Math.min(25 * 2 ** Math.min(times, 10), LONGEST_RECONNECT_DELAY),
    // A Sentinel that is frozen would be asked for ever, though others know the master.
    sentinelCommandTimeout: commandTimeout,
    role: 'master',
    // In its stead: `FailoverWatch`.
    failoverDetector: false,
    // The library writes the whole key itself, channels included.
    keyPrefix: '',
    stringNumbers: false,
    replyMapping: 'legacy',
    readOnly: false,
  };
}

/** `replyMapping` came with ioredis 6; 5 ignores it. */
type SafeOptions = RedisOptions & { replyMapping: 'legacy' };

/**
 * Where and how we connect: what is ours is opened here with safe settings, what is the caller's is only duplicated.
 * Opens as many connections as asked for, all alike. What one of them learns of the server, that it's no master any more,
 * holds for all: each is led to the new one.
 */
export class ConnectionSource {
  readonly #where: Exclude<LockConnection, 'memory'>;
  readonly #commandTimeout: number;
  readonly #opened = new Set<Redis>();
  #watch: FailoverWatch | undefined;

  constructor(where: Exclude<LockConnection, 'memory'>, commandTimeout: number) {
    this.#where = where;
    this.#commandTimeout = commandTimeout;
  }

  get isCluster(): boolean {
    return isCluster(this.#where);
  }

  /**
   * Whether PUBLISH tells how many subscribers there are: only where all of them are on the one server. Behind
   * Sentinel a subscriber may be on a replica for a while, after a failover.
   */
  get countsReceivers(): boolean {
    return !this.isCluster && !this.#options().sentinels;
  }

  get layout(): 'server' | 'sentinel' | 'cluster' {
    if (this.isCluster) return 'cluster';
    return this.#options().sentinels ? 'sentinel' : 'server';
  }

  /** What the caller's connection puts before every key; ours must as well, or an ACL may refuse us. */
  get keyPrefix(): string {
    return this.#options().keyPrefix ?? '';
  }

  open(): RedisClient {
    const client = this.#open();
    if (client.isCluster) return client;
    const opened = client as Redis;
    this.#opened.add(opened);
    opened.once('end', () => this.#opened.delete(opened));
    if (this.#options().sentinels) {
      this.#watch ??= new FailoverWatch(this.#options(), this.#commandTimeout);
      this.#watch.follow(opened);
    }
    return client;
  }

  /** Ends what serves all connections; each of them is ended by whoever had it opened. */
  close(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }

  #open(): RedisClient {
    const safe = safeOptions(this.#commandTimeout, () => this.#onDemoted());
    const where = this.#where;
    // The options first: where a URL's query names one of them as well, ioredis takes what it has read before.
    if (typeof where === 'string') return new Redis(safe as never, where as never);
    if (isCluster(where)) {
      return where.duplicate([], {
        // A node's connection is opened by the pool: one that opens itself is dropped again, and the whole client with it.
        redisOptions: { ...where.options.redisOptions, ...safe, lazyConnect: true },
        enableOfflineQueue: false,
        enableAutoPipelining: false,
        lazyConnect: false,
        keyPrefix: '',
        clusterRetryStrategy: safe.retryStrategy as (times: number) => number,
      });
    }
    if (isRedis(where)) return where.duplicate(safe);
    return new Redis({ ...where, ...safe });
  }

  #onDemoted(): void {
    for (const client of this.#opened) {
      if (client.status === 'ready') client.disconnect(true);
    }
  }

  #options(): RedisOptions {
    const where = this.#where;
    if (typeof where === 'string')
      return { keyPrefix: new URL(where).searchParams.get('keyPrefix') ?? '' };
    if (isCluster(where))
      return {
        ...where.options.redisOptions,
        ...(where.options.keyPrefix && { keyPrefix: where.options.keyPrefix }),
      };
    return isRedis(where) ? where.options : where;
  }
}

// By shape, since the application may bring another copy of ioredis than ours.
function isRedis(value: unknown): value is Redis {
  return typeof (value as Partial<Redis>).duplicate === 'function';
}

function isCluster(value: unknown): value is Cluster {
  return (
    typeof value === 'object' &&
    isRedis(value) &&
    (value as { isCluster?: unknown }).isCluster === true
  );
}

/**
 * The connection for commands.
 *
 *     connecting ──ready──▶ ready ──closed──▶ reconnecting ──ready──▶ ready …
 *          └──────closed──▶ reconnecting
 *
 * While connecting for the first time, a command waits for it, up to the command timeout. While reconnecting it fails
 * at once. Every outcome is a value: a reply, or why there's none and whether the command may have run.
 */
export class Connection implements ScriptRunner {
  readonly client: RedisClient;
  /** Those of a Cluster. */
  readonly nodes: ClusterNodes | undefined;
  /** The one server, or the Cluster as a whole. */
  readonly #node: RedisNode<RedisClient>;
  #state: 'connecting' | 'ready' | 'reconnecting' = 'connecting';
  #lastError: unknown;
  /** Whether an outage has been told of. */
  #told = false;
  readonly #isCluster: boolean;
  readonly #firstOutcome: Promise<void>;
  /** The commands under way, each with its deadline. */
  readonly #calls: Agenda<Call>;
  /** How many connections there were before this one. */
  #link = 0;
  /** What is sent now is to leave in as few writes as possible. */
  #together = false;

  constructor(
    source: ConnectionSource,
    private readonly commandTimeout: number,
    private readonly clock: Clock,
    events: LockEmitter,
    onReady: () => void,
    random: () => number = Math.random,
  ) {
    this.#isCluster = source.isCluster;
    this.#calls = new Agenda(clock, false, () => this.#timeOut());
    this.client = source.open();
    this.#node = new RedisNode(this.client);
    if (this.client.isCluster) this.nodes = new ClusterNodes(this.client as Cluster, clock, random);
    this.#firstOutcome = new Promise((resolve) => {
      const ready = () => {
        this.#state = 'ready';
        this.#lastError = undefined;
        if (this.#told) events.emit('available', () => ({}));
        this.#told = false;
        onReady();
        resolve();
      };
      this.client.on('ready', () => {
        if (!this.#isCluster) ready();
        else void this.#connectNodes().then(() => this.client.status === 'ready' && ready());
      });
      this.client.on('close', () => {
        this.#node.isDropped = false;
        this.#state = 'reconnecting';
        this.#link += 1;
        this.#lastError ??= new Error(
          'The server, or what is on the way to it, has closed the connection.',
        );
        if (!this.#told) {
          this.#told = true;
          const error = new LockUnavailableError(undefined, 'unreachable', this.#lastError);
          events.emit('unavailable', () => ({ error }));
        }
        resolve();
      });
    });
    // Without a listener ioredis prints every failed try to connect.
    this.client.on('error', (error: unknown) => (this.#lastError = error));
    this.client.on('connect', () => (this.#lastError = undefined));
  }

  /** Waits until it's known whether there's a server: ready, refused, or the time is up. */
  connect(timeout = this.commandTimeout): Promise<{ kind: 'connected' } | Unavailable> {
    return this.#connectBy(this.clock.now() + timeout);
  }

  /**
   * Tells one connection from the next. It ends with the process that answers it, so that replies and commands of one link
   * meet one server; unless it's a Cluster's client, which has many.
   */
  get link(): number | undefined {
    return this.#isCluster ? undefined : this.#link;
  }

  get isReady(): boolean {
    return this.#state === 'ready';
  }

  /**
   * Runs a script. `sentAt`: local time just before it was written. Everything that it takes (to connect, to send the
   * source to a server that doesn't know it) ends by the deadline, and within the command timeout. It's written before
   * the call returns, unless the connection isn't there yet: what is sent first, runs first.
   */
  run<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable> {
    if (this.nodes !== undefined) return this.#runAtNode(this.nodes, script, keys, args, deadline);
    return this.#send(
      () => script.runByDigest(this.client, keys, args),
      deadline,
      () => script.runBySource(this.client, keys, args),
    );
  }

  /** Sends any command, with the same bounds as a script. */
  send<R>(
    command: (client: RedisClient) => Promise<R>,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable> {
    return this.#send(() => command(this.client), deadline);
  }

  /** What is sent in there leaves in as few writes as possible: one for each server. */
  together<T>(work: () => T): T {
    this.#together = true;
    // With one server, it leaves at once.
    const { stream } = this.client as { stream?: Partial<Corkable> };
    stream?.cork?.();
    try {
      return work();
    } finally {
      stream?.uncork?.();
      this.#together = false;
    }
  }

  /** The server's clock, as seconds and microseconds. */
  time(): Promise<Replied<[number, number]> | Unavailable> {
    return this.#send(async () => {
      const [seconds, microseconds] = await this.client.time();
      return [Number(seconds), Number(microseconds)];
    });
  }

  /** The servers that keep keys: all masters of a Cluster, or the one there is. Known once it's connected. */
  get masters(): readonly Redis[] {
    return this.nodes?.masters ?? [this.client as Redis];
  }

  /** One step of a walk through the keys of one type on a node. */
  scan(
    node: Redis,
    cursor: string,
    match: string,
    type: 'string' | 'zset' | 'hash',
  ): Promise<Replied<[next: string, keys: string[]]> | Unavailable> {
    return this.#send(() => node.scan(cursor, 'MATCH', match, 'COUNT', SCAN_STEP, 'TYPE', type));
  }

  /** One command to one of the servers, for what is asked seldom. */
  ask(
    node: Redis,
    command: string,
    args: readonly string[],
  ): Promise<Replied<unknown> | Unavailable> {
    return this.#send(() => node.call(command, ...args));
  }

  /** Whether this user may publish on a channel. Where that can't be found out, it's assumed. */
  async mayPublish(channel: string): Promise<boolean> {
    const outcome = await this.#send(() => this.client.publish(channel, ''));
    return outcome.kind === 'reply' || !String(outcome.cause).includes('NOPERM');
  }

  close(): void {
    this.client.removeAllListeners('close');
    // Ends the commands under way as well, but for those that the client has forgotten.
    this.client.disconnect();
    const cause = new Error('The connection was closed.');
    for (const call of this.#calls.entries) {
      call.resolve({ kind: 'unavailable', reason: 'no-answer', cause, mayHaveRun: true });
    }
    this.#calls.stop();
  }

  /**
   * A Cluster's client connects to a node when the first command for it comes, and refuses those that come in the meantime:
   * so it's done before. One that can't be reached keeps the others waiting for a moment only.
   */
  async #connectNodes(): Promise<void> {
    let timer: Timer | undefined;
    const timeUp = new Promise<void>((resolve) => {
      timer = this.clock.after(this.commandTimeout / 2, resolve, 'background');
    });
    await Promise.race([Promise.allSettled(this.masters.map(reached)), timeUp]);
    timer?.cancel();
  }

  async #connectBy(deadline: number): Promise<{ kind: 'connected' } | Unavailable> {
    if (this.#state === 'connecting') {
      let timer: Timer | undefined;
      const timeUp = new Promise<void>((resolve) => {
        timer = this.clock.after(deadline - this.clock.now(), resolve);
      });
      await Promise.race([this.#firstOutcome, timeUp]);
      timer?.cancel();
    }
    return this.#state === 'ready' ? { kind: 'connected' } : this.#unreachable();
  }

  /** Sends a script to the node of a Cluster that keeps its keys; what it says of time, in the time of that node. */
  #runAtNode<K extends readonly string[], A extends readonly (string | number)[], R>(
    nodes: ClusterNodes,
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline: number | undefined,
  ): Promise<Replied<R> | Unavailable> {
    const together = this.#together;
    const sendTo = (node: RedisNode, asking: boolean, call: Call): Promise<R> => {
      if (script.isTimed && !node.clock.known) {
        return nodes.askClock(node).then(() => sendTo(node, asking, call));
      }
      const prepare = () => {
        if (this.#calls.size > 1) node.holdBack(together);
        if (asking) node.client.asking().catch(() => {});
      };
      const taught = node.taught(script);
      const itsArgs = script.timed(args, call.dueAt, node.clock);
      prepare();
      call.sent(node);
      return script.runByDigest(node.client, keys, itsArgs).catch((error: unknown) => {
        if (!isUnknownScript(error) || call.isOver) throw error;
        // Another command has taken the source there meanwhile: hundreds that were sent together needn't all.
        if (node.taught(script) > taught) return sendTo(node, asking, call);
        node.teach(script);
        prepare();
        return script.runBySource(node.client, keys, itsArgs);
      });
    };
    const slot = hashSlotOf(keys[0] as string);
    return this.#send((call) => {
      call.mayHaveRun = false;
      return nodes.run(slot, call, (node, asking) => sendTo(node, asking, call));
    }, deadline);
  }

  /** `bySource`: what to send instead to a server that doesn't know the script. */
  #send<R>(
    command: (call: Call) => Promise<R>,
    givenDeadline = Number.POSITIVE_INFINITY,
    bySource?: () => Promise<R>,
  ): Promise<Replied<R> | Unavailable> {
    const sentAt = this.clock.now();
    const deadline = Math.min(givenDeadline, sentAt + this.commandTimeout);
    if (this.#state !== 'ready') return this.#sendWhenReady(command, deadline, bySource);
    if (sentAt >= deadline) {
      const cause = this.#lastError;
      return Promise.resolve({
        kind: 'unavailable',
        reason: 'no-answer',
        cause,
        mayHaveRun: false,
      });
    }
    return new Promise((resolve) => {
      const call = new Call(deadline, sentAt, this.#node, resolve);
      this.#calls.add(call);
      const onReply = (reply: R) => {
        const receivedAt = this.clock.now();
        const { node } = call;
        node.heardAt = receivedAt;
        this.#calls.remove(call);
        const clock = this.#isCluster ? node.clock : undefined;
        resolve({ kind: 'reply', reply, sentAt, receivedAt, clock });
      };
      const onError = (error: unknown) => {
        this.#calls.remove(call);
        resolve(this.#failed(error, call));
      };
      // A command leaves at once when no other is under way, so that none alone has to wait.
      if (this.#calls.size > 1 && !this.#isCluster) this.#node.holdBack(false);
      command(call).then(
        onReply,
        bySource === undefined
          ? onError
          : (error: unknown) => {
              // Nobody waits for it any more once its time is up.
              if (!isUnknownScript(error) || call.heapIndex < 0) onError(error);
              else bySource().then(onReply, onError);
            },
      );
    });
  }

  async #sendWhenReady<R>(
    command: (call: Call) => Promise<R>,
    deadline: number,
    bySource: (() => Promise<R>) | undefined,
  ): Promise<Replied<R> | Unavailable> {
    const connected = await this.#connectBy(deadline);
    return connected.kind === 'unavailable' ? connected : this.#send(command, deadline, bySource);
  }

  #timeOut(): void {
    const now = this.clock.now();
    for (let call = this.#calls.takeDue(now); call; call = this.#calls.takeDue(now)) {
      call.resolve(this.#failed(call.lastRefusal ?? new Error(TIMED_OUT), call));
    }
  }

  #failed(error: unknown, call: Call): Unavailable {
    const { node, sentAt, mayHaveRun } = call;
    // By shape: Node's own errors are no instances of the `Error` that a test runner's sandbox sees.
    const { name = '', message = '' } = (error ?? {}) as Partial<Error>;
    // What ioredis refuses to send with the offline queue off has surely not run.
    if (message.includes('enableOfflineQueue')) return this.#unreachable();
    if (error instanceof UnreachableNode) {
      return { kind: 'unavailable', reason: 'unreachable', cause: error, mayHaveRun: false };
    }
    if (name === 'ReplyError') {
      node.heardAt = this.clock.now();
      // Why the connection is given up, for those who ask before there's a new one.
      if (isDemoted(error)) this.#lastError = error;
      return {
        kind: 'unavailable',
        reason: 'refused',
        cause: error,
        mayHaveRun: mayHaveRun && !hasNotRun(error),
      };
    }
    // Nothing was heard for a whole command timeout: the link may be dead without either side knowing, and only a new
    // one shows.
    const took = this.clock.now() - sentAt;
    const silent = node.heardAt < sentAt && took >= this.commandTimeout - TIMER_PRECISION;
    // A timeout that comes late came to a blocked event loop, to which the reply may have come as well.
    const blocked = took > this.commandTimeout + BLOCKED;
    if (message === TIMED_OUT && silent && !blocked && mayHaveRun && this.#state === 'ready') {
      this.#drop(node);
    }
    return { kind: 'unavailable', reason: 'no-answer', cause: error, mayHaveRun };
  }

  /** Ends a link that may be dead. A new one is made by ioredis; to a Cluster's node, where it's needed again. */
  #drop(node: RedisNode<RedisClient>): void {
    // Once for all commands that were under way: each time leaves a listener at the socket.
    if (node.client.isCluster || node.isDropped) return;
    node.isDropped = true;
    (node.client as Redis).disconnect(!this.#isCluster);
    void this.nodes?.refresh();
  }

  #unreachable(): Unavailable {
    const cause = this.#lastError ?? (this.client.status === 'connect' ? notReady() : undefined);
    return { kind: 'unavailable', reason: 'unreachable', cause, mayHaveRun: false };
  }
}

/** Connected, but not let in yet. */
function notReady(): Error {
  return new Error('The server is there, but not ready: it loads its data, or is too busy to say.');
}

/** A command under way. */
class Call implements AgendaEntry, Errand {
  heapIndex = -1;
  /** In a Cluster: not until it has been sent, nor once it was refused, until it's sent again. */
  mayHaveRun = true;
  /** By the last node that it was sent to. */
  lastRefusal: unknown;

  constructor(
    readonly dueAt: number,
    readonly sentAt: number,
    /** The server that it was sent to last. */
    public node: RedisNode<RedisClient>,
    readonly resolve: (outcome: Unavailable) => void,
  ) {}

  get isOver(): boolean {
    return this.heapIndex < 0;
  }

  sent(node: RedisNode): void {
    this.node = node;
    this.mayHaveRun = true;
    this.lastRefusal = undefined;
  }

  refused(error: unknown): void {
    this.mayHaveRun = false;
    this.lastRefusal = error;
  }
}

interface Corkable {
  cork(): void;
  uncork(): void;
}
