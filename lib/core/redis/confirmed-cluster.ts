import type { Cluster, Redis } from 'ioredis';

import type { Unavailable } from '../backend/unavailable.js';
import type { Clock, Timer } from '../clock.js';
import type { ResolvedReplicas } from '../options.js';
import { type ClusterNodes, type Errand, UnreachableNode } from './cluster-nodes.js';
import { ConfirmedConnection } from './confirmed-connection.js';
import { type Connection, ConnectionSource } from './connection.js';
import { hashSlotOf } from './hash-slot.js';
import { nodeAddress, type RedisNode } from './redis-node.js';
import type { Script } from './script.js';
import type { Replied, ScriptRunner } from './script-runner.js';

/**
 * Confirmed scripts on a Cluster: a {@link ConfirmedConnection} of our own to each master that is needed. The Cluster's
 * client sends a WAIT to any node, and a script that is redirected to another than the WAIT behind it; so each node that
 * `ClusterNodes` finds for a script is sent both together.
 */
export class ConfirmedCluster implements ScriptRunner {
  readonly #nodes = new Map<string, ConfirmedConnection>();
  readonly #cluster: Cluster;

  constructor(
    private readonly connection: Connection,
    private readonly replicas: ResolvedReplicas,
    private readonly commandTimeout: number,
    private readonly clock: Clock,
    private readonly onReady: () => void,
  ) {
    this.#cluster = connection.client as Cluster;
    this.#cluster.on('-node', ({ options }: Pick<Redis, 'options'>) => {
      const address = nodeAddress(options);
      this.#nodes.get(address)?.close();
      this.#nodes.delete(address);
    });
  }

  /** The connection of the Cluster's client itself; those to the masters are opened when they're needed. */
  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.connection.connect();
  }

  async run<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable> {
    const dueAt = Math.min(
      deadline ?? Number.POSITIVE_INFINITY,
      this.clock.now() + this.commandTimeout,
    );
    const connected = await this.connection.connect();
    if (connected.kind === 'unavailable') return connected;
    const nodes = this.connection.nodes as ClusterNodes;
    // A timer may be a little early, by the clock: what was given up isn't sent after all.
    let isGivenUp = false;
    const isOver = () => isGivenUp || this.clock.now() >= dueAt;
    const errand: Errand = {
      get isOver() {
        return isOver();
      },
      refused: () => {},
    };
    let last: Unavailable | undefined;
    let mayHaveRun = false;
    const sendTo = async (node: RedisNode, asking: boolean): Promise<Replied<R> | Unavailable> => {
      if (script.isTimed && !node.clock.known) await this.#askClock(nodes, node, dueAt);
      if (isOver()) throw new UnreachableNode();
      const itsArgs = script.timed(args, dueAt, node.clock);
      const connection = this.#connectionTo(node);
      mayHaveRun = true;
      const outcome = await connection.runWith(script, keys, itsArgs, dueAt, asking);
      if (outcome.kind === 'reply') return { ...outcome, clock: node.clock };
      last = outcome;
      ({ mayHaveRun } = outcome);
      // What a node refuses, may be another's to do, and has not run.
      if (outcome.reason === 'refused') throw outcome.cause;
      if (outcome.reason === 'unreachable') void nodes.refresh();
      return outcome;
    };
    const sent = nodes
      .run(hashSlotOf(keys[0] as string), errand, sendTo)
      .catch((cause: unknown): Unavailable => {
        if (last?.cause === cause && last !== undefined) return last;
        return { kind: 'unavailable', reason: 'unreachable', cause, mayHaveRun: false };
      });
    // Until it's known that a node can't be reached, or where else the slot is, it may be longer.
    let timer: Timer | undefined;
    const timeUp = new Promise<Unavailable>((resolve) => {
      timer = this.clock.after(dueAt - this.clock.now(), () => {
        isGivenUp = true;
        const cause = last?.cause ?? new Error('No node of the Cluster has answered in time.');
        resolve({ kind: 'unavailable', reason: 'no-answer', cause, mayHaveRun });
      });
    });
    const outcome = await Promise.race([sent, timeUp]);
    timer?.cancel();
    return outcome;
  }

  close(): void {
    this.#cluster.removeAllListeners('-node');
    for (const node of this.#nodes.values()) node.close();
    this.#nodes.clear();
  }

  async #askClock(nodes: ClusterNodes, node: RedisNode, dueAt: number): Promise<void> {
    const asked = await this.connection.send(() => nodes.askClock(node), dueAt);
    if (asked.kind === 'unavailable') throw asked.cause;
  }

  #connectionTo({ client }: RedisNode): ConfirmedConnection {
    const address = nodeAddress(client.options);
    const known = this.#nodes.get(address);
    if (known !== undefined) return known;
    const source = new ConnectionSource(client, this.commandTimeout);
    const { replicas, commandTimeout, clock, onReady } = this;
    const connection = new ConfirmedConnection(source, replicas, commandTimeout, clock, onReady);
    this.#nodes.set(address, connection);
    return connection;
  }
}
