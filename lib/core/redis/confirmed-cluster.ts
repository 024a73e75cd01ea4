import type { Cluster } from 'ioredis';

import type { Unavailable } from '../backend/unavailable.js';
import type { Clock } from '../clock.js';
import type { ResolvedReplicas } from '../options.js';
import { ConfirmedConnection } from './confirmed-connection.js';
import { type Connection, ConnectionSource } from './connection.js';
import { hashSlotOf } from './hash-slot.js';
import type { Script } from './script.js';
import type { Replied, ScriptRunner } from './script-runner.js';
import type { ServerClock } from './server-clock.js';

/** How often a command is sent on, when slots move. */
const MOST_REDIRECTIONS = 3;

/**
 * Confirmed scripts on a Cluster: a {@link ConfirmedConnection} of our own to each master that is needed. The Cluster's
 * client sends a WAIT to any node, and a script that is redirected to another than the WAIT behind it; so the slot's master
 * is found by the client's map, and redirections are followed here, script and WAIT together.
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
    this.#cluster.on('-node', ({ options }: { options: Address }) => {
      const address = addressOf(options);
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
    const slot = hashSlotOf(keys[0] as string);
    let asked: string | undefined;
    for (let redirections = 0; ; redirections += 1) {
      const address = asked ?? this.#cluster.slots[slot]?.[0];
      const node = this.#nodeOf(address);
      const clock = await this.#clockAt(address, dueAt);
      if (node === undefined || clock === undefined) {
        this.#cluster.refreshSlotsCache();
        const cause = new Error(`No master is known for slot ${slot}.`);
        return { kind: 'unavailable', reason: 'unreachable', cause, mayHaveRun: false };
      }
      const itsArgs = script.timed(args, dueAt, clock);
      const outcome = await node.runWith(script, keys, itsArgs, dueAt, asked !== undefined);
      if (outcome.kind === 'reply') return { ...outcome, clock };
      if (outcome.reason === 'unreachable') this.#cluster.refreshSlotsCache();
      // What was redirected has not run there.
      const [kind, , named] = String((outcome.cause as Error | undefined)?.message).split(' ');
      const isRedirected = kind === 'MOVED' || kind === 'ASK';
      if (!isRedirected || redirections >= MOST_REDIRECTIONS) return outcome;
      asked = kind === 'ASK' ? named : undefined;
      if (kind === 'MOVED') await this.#refreshed();
    }
  }

  close(): void {
    this.#cluster.removeAllListeners('-node');
    for (const node of this.#nodes.values()) node.close();
    this.#nodes.clear();
  }

  /** The clock of the master there: deadlines are told in its time. */
  async #clockAt(address: string | undefined, dueAt: number): Promise<ServerClock | undefined> {
    const { nodes } = this.connection;
    const node = address === undefined ? undefined : nodes?.at(address);
    if (node === undefined || node.clock.known) return node?.clock;
    const asked = await this.connection.send(
      () => nodes?.askClock(node) ?? Promise.resolve(),
      dueAt,
    );
    return asked.kind === 'reply' ? node.clock : undefined;
  }

  #refreshed(): Promise<void> {
    return new Promise((resolve) => this.#cluster.refreshSlotsCache(() => resolve()));
  }

  #nodeOf(address: string | undefined): ConfirmedConnection | undefined {
    if (address === undefined) return undefined;
    const known = this.#nodes.get(address);
    if (known !== undefined) return known;
    const client = this.#cluster
      .nodes('master')
      .find(({ options }) => addressOf(options as Address) === address);
    if (client === undefined) return undefined;
    const source = new ConnectionSource(client, this.commandTimeout);
    const { replicas, commandTimeout, clock, onReady } = this;
    const node = new ConfirmedConnection(source, replicas, commandTimeout, clock, onReady);
    this.#nodes.set(address, node);
    return node;
  }
}

interface Address {
  readonly host?: string;
  readonly port?: number;
}

function addressOf({ host, port }: Address): string {
  return `${host}:${port}`;
}
