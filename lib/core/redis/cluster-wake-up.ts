import type { Redis } from 'ioredis';

import { Backoff } from '../backoff.js';
import type { Clock, Timer } from '../clock.js';
import type { LockName } from '../lock-name.js';
import type { WakeListener, WakeUp } from '../wake-up.js';
import { type Connection, ConnectionSource } from './connection.js';
import { hashSlotOf } from './hash-slot.js';
import { LinkCheck } from './link-check.js';
import { nodeAddress } from './redis-node.js';
import { readWakeMessage } from './wake-message.js';

/** For how long, in ms, a name that nobody waits for any more is heard on: a busy one is waited for again at once. */
const LINGER = 1_000;
/** A pause, in ms, before it's tried again to subscribe: it grows from the first to the last. */
const FIRST_PAUSE = 50;
const LONGEST_PAUSE = 1_000;

/**
 * Wake-ups on a Cluster, where what is published on an ordinary channel goes to every node.
 *
 * So a waiter is woken on a shard channel (Redis 7), `<owner key>:wake:<process>`, which stays at the node that keeps the
 * key. It's subscribed to while somebody of this process waits for the name, over one link to each master that is needed:
 *
 *     placing ──subscribed at the slot's master──▶ heard ──link lost, slot moved──▶ lost ──subscribed──▶ heard …
 *        └───────long in vain──▶ lost                └──nobody waits, for a while──▶ forgotten
 *
 * Beside it there's the process's ordinary channel, over a link to any master, for what is rare: a release by force, and
 * what nobody heard on a shard channel (see `_tell.lua`), so that nothing is lost while a slot moves or a replica takes
 * over. Where there are no shard channels (Redis 6, or an ACL that forbids them), everything goes there.
 *
 * The links are our own: ioredis' sharded subscribers tell nobody that they were lost and are back, and keep one
 * connection to every master.
 */
export class ClusterWakeUp implements WakeUp {
  readonly channel: string;
  readonly #names = new Map<string, NameSubscription>();
  /** To the masters that keep the names, by address. */
  readonly #links = new Map<string, Link>();
  /** That of the ordinary channel. */
  #common: Link | undefined;
  #hearsCommon = false;
  #attends = false;
  /** The server knows no shard channels, or doesn't let us use them. */
  #unsharded = false;
  /** The server won't let us publish: there's only polling. */
  #refused = false;
  #closed = false;
  #listener: WakeListener = () => {};
  readonly #settled = new Set<() => void>();

  constructor(
    private readonly connection: Connection,
    private readonly keyPrefix: string,
    channel: string,
    private readonly clock: Clock,
    private readonly timeout: number,
    private readonly mayPublish: () => Promise<boolean>,
    private readonly random: () => number,
  ) {
    this.channel = channel;
    connection.nodes?.onRefresh(() => this.#followSlots());
  }

  /** Whether it hears the ordinary channel. */
  get listening(): boolean {
    return this.#hearsCommon;
  }

  /** Where a holder is to be told that others wait: it hears that while somebody of its own process waits as well. */
  get holderChannel(): string {
    return `${this.channel}*`;
  }

  listensTo({ owner }: LockName): boolean {
    if (this.#unsharded) return this.#hearsCommon;
    const state = this.#names.get(owner)?.state;
    return state === 'heard' || (state === 'lost' && this.#hearsCommon);
  }

  /** Where a waiter for the name is to be told; empty: nowhere, it polls. With `*`: on the name's shard channel. */
  channelFor(name: LockName): string {
    if (!this.listensTo(name)) return '';
    return this.#unsharded ? this.channel : `${this.channel}*`;
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  attend(): void {
    if (this.#attends || this.#closed) return;
    this.#attends = true;
    void this.#hearCommon();
  }

  /** Without a name: the ordinary channel alone. */
  async subscribe(name?: LockName): Promise<void> {
    if (this.#closed || this.#refused) return;
    const isDone = () =>
      this.#closed ||
      this.#refused ||
      (name === undefined ? this.#hearsCommon : this.listensTo(name));
    this.attend();
    if (name !== undefined) this.#use(name);
    if (isDone()) return;
    await new Promise<void>((resolve) => {
      const end = () => {
        timer.cancel();
        this.#settled.delete(look);
        resolve();
      };
      const look = () => isDone() && end();
      const timer = this.clock.after(this.timeout, end);
      this.#settled.add(look);
    });
    // Long in vain: from now on the ordinary channel will do.
    const subscription = name && this.#names.get(name.owner);
    if (subscription?.state === 'placing') subscription.state = 'lost';
  }

  unsubscribe({ owner }: LockName): void {
    const subscription = this.#names.get(owner);
    if (subscription === undefined) return;
    subscription.users -= 1;
    if (subscription.users > 0) return;
    subscription.lingering = this.clock.after(
      LINGER,
      () => this.#forget(subscription),
      'background',
    );
  }

  check(name?: LockName): void {
    const link = name && this.#names.get(name.owner)?.link;
    for (const one of new Set([link, this.#common])) one?.check();
  }

  close(): void {
    this.#closed = true;
    this.#hearsCommon = false;
    for (const { lingering } of this.#names.values()) lingering?.cancel();
    this.#names.clear();
    for (const link of [...this.#links.values(), this.#common]) link?.close();
    this.#settle();
  }

  #use(name: LockName): void {
    const known = this.#names.get(name.owner);
    if (known !== undefined) {
      known.users += 1;
      known.lingering?.cancel();
      known.lingering = undefined;
      return;
    }
    const owner = this.keyPrefix + name.owner;
    const subscription: NameSubscription = {
      owner: name.owner,
      slot: hashSlotOf(owner),
      channel: owner + this.channel.slice(this.channel.lastIndexOf(':wake:')),
      users: 1,
      lingering: undefined,
      state: 'placing',
      link: undefined,
      isPlacing: false,
    };
    this.#names.set(name.owner, subscription);
    void this.#place(subscription);
  }

  #forget(subscription: NameSubscription): void {
    this.#names.delete(subscription.owner);
    subscription.link?.leave(subscription.channel);
  }

  #isWanted(subscription: NameSubscription): boolean {
    return (
      !this.#closed && !this.#unsharded && this.#names.get(subscription.owner) === subscription
    );
  }

  /** Subscribes where the slot is now, for as long as it's wanted. */
  async #place(subscription: NameSubscription): Promise<void> {
    if (subscription.isPlacing) return;
    subscription.isPlacing = true;
    const before = subscription.link;
    const backoff = this.#newBackoff();
    while (this.#isWanted(subscription)) {
      const link = await this.#linkTo(subscription.slot);
      if (!this.#isWanted(subscription)) break;
      const outcome = (await link?.hear(subscription.channel, 'ssubscribe')) ?? 'failed';
      if (outcome === 'heard') {
        const isNew = subscription.state === 'placing';
        subscription.link = link;
        subscription.state = 'heard';
        if (before !== link) before?.leave(subscription.channel);
        if (!this.#isWanted(subscription)) link?.leave(subscription.channel);
        this.#settle();
        // What was published while it was lost may be lost as well. The first time, whoever subscribes looks by itself.
        if (!isNew && before !== link) {
          this.#listener({ kind: 'listening', owner: subscription.owner });
        }
        break;
      }
      if (outcome === 'refused') {
        this.#unsharded = true;
        this.#settle();
        break;
      }
      await this.connection.nodes?.refresh();
      await this.#pause(backoff);
    }
    subscription.isPlacing = false;
  }

  /** A slot may be another master's now. */
  #followSlots(): void {
    for (const subscription of this.#names.values()) {
      const master = this.connection.nodes?.masterOf(subscription.slot)?.client;
      if (master !== undefined && subscription.link?.address !== nodeAddress(master.options)) {
        void this.#place(subscription);
      }
    }
    // A master that is none any more, and whom nobody needs.
    const used = new Set([...this.#names.values()].map(({ link }) => link));
    const masters = new Set(this.connection.masters.map(({ options }) => nodeAddress(options)));
    for (const link of this.#links.values()) {
      if (!used.has(link) && !masters.has(link.address)) link.close();
    }
  }

  async #linkTo(slot: number): Promise<Link | undefined> {
    await this.connection.connect();
    const node = this.connection.nodes?.masterOf(slot)?.client;
    if (node === undefined || this.#closed) return undefined;
    const address = nodeAddress(node.options);
    let link = this.#links.get(address);
    if (link === undefined) {
      const opened = this.#open(node, () => this.#onLost(opened));
      this.#links.set(address, opened);
      link = opened;
    }
    return (await link.ready) ? link : undefined;
  }

  #open(node: Redis, onLost: () => void): Link {
    return new Link(
      node,
      this.timeout,
      this.clock,
      (message) => {
        const told = readWakeMessage(message, this.keyPrefix);
        if (told !== undefined) this.#listener(told);
      },
      onLost,
      (link) => this.#onMoved(link),
    );
  }

  #onLost(link: Link): void {
    if (this.#links.get(link.address) === link) this.#links.delete(link.address);
    for (const subscription of this.#names.values()) {
      if (subscription.link !== link) continue;
      subscription.link = undefined;
      subscription.state = 'lost';
      void this.#place(subscription);
    }
  }

  /** The server has thrown out who listened for a slot that it doesn't keep any more; it doesn't say for which. */
  async #onMoved(link: Link): Promise<void> {
    await this.connection.nodes?.refresh();
    for (const subscription of this.#names.values()) {
      if (subscription.link === link) void this.#place(subscription);
    }
  }

  /** Hears the ordinary channel, from one master or another, from now on. */
  async #hearCommon(): Promise<void> {
    if (!(await this.mayPublish())) {
      this.#refused = true;
      this.#settle();
      return;
    }
    const backoff = this.#newBackoff();
    while (!this.#closed) {
      await this.connection.connect();
      const { masters } = this.connection;
      const node = masters[Math.floor(this.random() * masters.length)];
      if (node !== undefined && !this.#closed) {
        let lose = (): void => {};
        const lost = new Promise<void>((resolve) => (lose = resolve));
        const link = this.#open(node, lose);
        this.#common = link;
        const outcome = (await link.ready) ? await link.hear(this.channel, 'subscribe') : 'failed';
        if (outcome === 'refused') {
          link.close();
          return;
        }
        if (outcome === 'heard' && !this.#closed) {
          backoff.reset();
          this.#hearsCommon = true;
          this.#settle();
          // What was published here while nobody listened is lost, also what was told to holders: let everybody look.
          this.#listener({ kind: 'listening' });
          await lost;
          this.#hearsCommon = false;
        }
        link.close();
      }
      if (!this.#closed) await this.#pause(backoff);
    }
  }

  #settle(): void {
    for (const look of [...this.#settled]) look();
  }

  #newBackoff(): Backoff {
    return new Backoff(FIRST_PAUSE, LONGEST_PAUSE, this.random);
  }

  #pause(backoff: Backoff): Promise<void> {
    return new Promise((resolve) => {
      this.clock.after(backoff.next(), resolve, 'background');
    });
  }
}

/** A name that somebody of this process waits for, or did a moment ago. */
interface NameSubscription {
  readonly owner: string;
  readonly slot: number;
  readonly channel: string;
  users: number;
  /** Nobody waits any more; the time until it's forgotten. */
  lingering: Timer | undefined;
  state: 'placing' | 'heard' | 'lost';
  link: Link | undefined;
  isPlacing: boolean;
}

/** A connection to one node for subscribing. Once it's lost, it's lost: who needs it opens another, perhaps elsewhere. */
class Link {
  readonly address: string;
  /** Whether it came to be. */
  readonly ready: Promise<boolean>;
  readonly #redis: Redis;
  #isLost = false;
  readonly #check: LinkCheck;

  constructor(
    node: Redis,
    timeout: number,
    clock: Clock,
    onMessage: (message: string) => void,
    private readonly onLost: () => void,
    onMoved: (link: Link) => void,
  ) {
    this.address = nodeAddress(node.options);
    const redis = new ConnectionSource(node, timeout).open() as Redis;
    this.#redis = redis;
    this.#check = new LinkCheck(clock, timeout);
    this.ready = new Promise((resolve) => {
      redis.once('ready', () => resolve(true));
      redis.once('close', () => {
        resolve(false);
        this.close();
      });
    });
    redis.on('message', (_channel: string, message: string) => onMessage(message));
    redis.on('smessage', (_channel: string, message: string) => onMessage(message));
    // ioredis 6 says so; 5 takes what it's told unasked for an error.
    redis.on('moved', () => onMoved(this));
    redis.on('error', ({ message }: Error) => message.includes('sunsubscribe') && onMoved(this));
  }

  /** Refused: not by this node alone, or for this moment. */
  async hear(
    channel: string,
    command: 'subscribe' | 'ssubscribe',
  ): Promise<'heard' | 'refused' | 'failed'> {
    try {
      await this.#redis[command](channel);
      return this.#isLost ? 'failed' : 'heard';
    } catch (error) {
      const { message = '' } = error as Partial<Error>;
      if (/NOPERM|unknown command/i.test(message)) return 'refused';
      // Not answered in time: nobody knows what the server thinks, and only a new link does.
      if (!message.startsWith('MOVED')) this.close();
      return 'failed';
    }
  }

  leave(channel: string): void {
    // Where the slot has gone, the server has thrown us out already, and says so.
    if (!this.#isLost) this.#redis.sunsubscribe(channel).catch(() => {});
  }

  /** It may be dead without either side knowing. */
  check(): void {
    if (!this.#isLost) this.#check.ask(this.#redis, () => this.close());
  }

  close(): void {
    if (this.#isLost) return;
    this.#isLost = true;
    this.#redis.removeAllListeners();
    // An error without a listener would be printed.
    this.#redis.on('error', () => {});
    this.#redis.disconnect();
    this.onLost();
  }
}
