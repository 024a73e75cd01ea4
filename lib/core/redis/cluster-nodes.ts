import type { Cluster, Redis } from 'ioredis';

import { Backoff } from '../backoff.js';
import type { Clock } from '../clock.js';
import { hashSlotOf } from './hash-slot.js';
import { nodeAddress, RedisNode } from './redis-node.js';
import type { ServerClock } from './server-clock.js';

/** A pause, in ms, before a node is asked again that can't answer yet: it grows from the first to the last. */
const FIRST_PAUSE = 5;
const LONGEST_PAUSE = 100;

/**
 * The nodes of a Cluster, and the way of a command to the one that keeps its slot. ioredis would find it as well, but
 * wouldn't say which node it was in the end: and a deadline has to be told in the time of the server that reads it.
 *
 *     sent to the slot's master ── a reply, or an error that is the command's own ──▶ done
 *       ├─ MOVED, ASK: sent to the node that was named
 *       ├─ TRYAGAIN (some of its keys have moved), LOADING, CLUSTERDOWN, READONLY ...: sent again, a little later
 *       └─ the node is gone: the Cluster is asked once who keeps the slot now, which may be nobody yet: unreachable
 *
 * In none of these has the command run. Whoever sends it bounds the time; it's never sent again once that is up.
 */
export class ClusterNodes {
  readonly #nodes = new WeakMap<Redis, RedisNode>();
  /** Where each was found last. */
  readonly #found = new Map<string, RedisNode>();
  #refreshing: Promise<void> | undefined;

  constructor(
    private readonly cluster: Cluster,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {}

  get masters(): readonly Redis[] {
    return this.cluster.nodes('master');
  }

  /** The master of a slot, as far as it's known. */
  masterOf(slot: number): RedisNode | undefined {
    const address = this.cluster.slots[slot]?.[0];
    return address === undefined ? undefined : this.at(address);
  }

  /** Calls back whenever it was found out anew who keeps which slot. */
  onRefresh(listener: () => void): void {
    this.cluster.on('refresh', listener);
  }

  /** Has the Cluster asked who keeps which slot. Never rejects. */
  refresh(): Promise<void> {
    this.#refreshing ??= new Promise<void>((resolve) => {
      this.cluster.refreshSlotsCache(() => resolve());
    }).finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  /** Sends a command on its way; what it rejects with is what the last node said, or {@link UnreachableNode}. */
  run<R>(slot: number, errand: Errand, sendTo: SendTo<R>): Promise<R> {
    const node = this.masterOf(slot);
    // At once where that's possible: what is sent first, runs first.
    if (node === undefined || !isReady(node)) {
      return this.#pursue(slot, errand, sendTo, undefined, undefined);
    }
    return sendTo(node, false).catch((error: unknown) =>
      this.#pursue(slot, errand, sendTo, node, error),
    );
  }

  async #pursue<R>(
    slot: number,
    errand: Errand,
    sendTo: SendTo<R>,
    first: RedisNode | undefined,
    firstError: unknown,
  ): Promise<R> {
    let [last, error] = [first, firstError];
    let asksAgain = true;
    const backoff = new Backoff(FIRST_PAUSE, LONGEST_PAUSE, this.random);
    for (;;) {
      const refusal = error === undefined ? undefined : refusalOf(error);
      if (error !== undefined && refusal === undefined) {
        // Cut off, perhaps: whoever comes next should know who keeps the slot.
        if (last === undefined || !isReady(last)) void this.refresh();
        throw error;
      }
      if (refusal !== undefined) errand.refused(error);
      let next: RedisNode | undefined;
      const asking = refusal?.kind === 'ask';
      if (refusal?.kind === 'moved' || refusal?.kind === 'ask') {
        next = this.#redirectedTo(refusal.address, last);
        if (refusal.kind === 'moved') {
          if (next !== undefined) this.#learn(slot, next);
          void this.refresh();
          // Two nodes that each name the other, while they agree on it.
          if (next === last) await this.#pause(backoff);
        }
      } else if (refusal !== undefined) {
        await this.#pause(backoff);
        if (refusal.kind === 'down') await this.refresh();
      }
      next = await ready(next ?? this.masterOf(slot));
      if (next === undefined && asksAgain) {
        asksAgain = false;
        await this.refresh();
        next = await ready(this.masterOf(slot));
      }
      if (next === undefined) throw new UnreachableNode();
      if (errand.isOver) throw error ?? new UnreachableNode();
      last = next;
      try {
        return await sendTo(next, asking);
      } catch (thrown) {
        error = thrown;
      }
    }
  }

  /** The clock of the node that keeps a key, where it's known. */
  clockOf(key: string): ServerClock | undefined {
    const clock = this.masterOf(hashSlotOf(key))?.clock;
    return clock?.known ? clock : undefined;
  }

  async askClockOf(key: string): Promise<void> {
    const node = await ready(this.masterOf(hashSlotOf(key)));
    if (node !== undefined) await this.askClock(node);
  }

  /** Asks a node what its clock shows. */
  askClock(node: RedisNode): Promise<void> {
    node.asking ??= this.#observeClock(node).finally(() => (node.asking = undefined));
    return node.asking;
  }

  async #observeClock({ client, clock }: RedisNode): Promise<void> {
    const sentAt = this.clock.now();
    const [seconds, microseconds] = await client.time();
    clock.observe(Number(seconds) * 1_000 + Number(microseconds) / 1_000, sentAt, this.clock.now());
  }

  /** The node at an address, where it's known. */
  at(address: string): RedisNode | undefined {
    const known = this.#found.get(address);
    if (known !== undefined && isReady(known)) return known;
    const [host, port] = hostAndPort(address);
    const client = this.cluster
      .nodes()
      .find(({ options }) => options.port === port && options.host === host);
    if (client === undefined) {
      this.#found.delete(address);
      return undefined;
    }
    const node = this.#nodeOf(client);
    this.#found.set(address, node);
    return node;
  }

  /**
   * A node may be named that no refresh has shown yet: it has no slot before its first has moved. ioredis then adds it to
   * its pool, as we do by the same means, which aren't documented; without them it's found once it has one.
   */
  #redirectedTo(address: string, from: RedisNode | undefined): RedisNode | undefined {
    // Without a host, the one that was asked is meant.
    const named = address.startsWith(':') ? `${from?.client.options.host}${address}` : address;
    const inside = this.cluster as unknown as {
      natMapper?(address: string): object;
      connectionPool?: { findOrCreate?(node: object): Redis };
    };
    const mapped = inside.natMapper?.(named);
    if (mapped === undefined) return this.at(named);
    const client = inside.connectionPool?.findOrCreate?.(mapped);
    return client && this.#nodeOf(client);
  }

  #learn(slot: number, { client }: RedisNode): void {
    // An array of its own: slots that are neighbours share theirs, and this is known of one.
    this.cluster.slots[slot] = [nodeAddress(client.options)];
  }

  #nodeOf(client: Redis): RedisNode {
    const known = this.#nodes.get(client);
    if (known !== undefined) return known;
    const node = new RedisNode(client);
    client.on('ready', () => {
      // Another server may be there now.
      node.clock.forget();
      node.isDropped = false;
    });
    this.#nodes.set(client, node);
    return node;
  }

  #pause(backoff: Backoff): Promise<void> {
    return new Promise((resolve) => {
      this.clock.after(backoff.next(), resolve, 'background');
    });
  }
}

/** A command on its way. */
export interface Errand {
  /** Nobody waits for it any more. */
  readonly isOver: boolean;
  /** The last node has refused it: it has surely not run. */
  refused(error: unknown): void;
}

/** Sends a command to a node; where `asking`, behind ASKING. */
export type SendTo<R> = (node: RedisNode, asking: boolean) => Promise<R>;

/** No node that keeps the slot can be reached: nothing was sent. */
export class UnreachableNode extends Error {
  override readonly name = 'UnreachableNode';

  constructor() {
    super('No node of the Cluster that keeps this slot can be reached.');
  }
}

/** Why a node didn't run a command: it isn't the right one, or not now. */
type Refusal =
  | { readonly kind: 'moved' | 'ask'; readonly address: string }
  | { readonly kind: 'tryAgain' | 'down' };

const REFUSAL = /^(MOVED|ASK) \d+ (\S+)|^(TRYAGAIN|CLUSTERDOWN|LOADING|MASTERDOWN|READONLY)/;

function refusalOf(error: unknown): Refusal | undefined {
  const match = REFUSAL.exec((error as Partial<Error> | undefined)?.message ?? '');
  if (match === null) return undefined;
  const [, kind, address, other] = match;
  if (address !== undefined) return { kind: kind === 'ASK' ? 'ask' : 'moved', address };
  return { kind: other === 'TRYAGAIN' ? 'tryAgain' : 'down' };
}

function hostAndPort(address: string): [host: string, port: number] {
  const colon = address.lastIndexOf(':');
  return [address.slice(0, colon), Number(address.slice(colon + 1))];
}

function isReady({ client }: RedisNode): boolean {
  return client.status === 'ready';
}

/** The node once it's ready, or nothing where it can't be reached. */
async function ready(node: RedisNode | undefined): Promise<RedisNode | undefined> {
  if (node === undefined || isReady(node)) return node;
  await reached(node.client);
  return isReady(node) ? node : undefined;
}

/** Resolves when it's known whether a node can be reached. */
export function reached(node: Redis): Promise<unknown> {
  if (node.status === 'wait') return node.connect().catch(() => {});
  if (node.status === 'ready' || node.status === 'end') return Promise.resolve();
  return new Promise<void>((resolve) => {
    const done = () => {
      node.off('ready', done);
      node.off('end', done);
      resolve();
    };
    node.once('ready', done);
    node.once('end', done);
  });
}
