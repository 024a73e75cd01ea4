/**
 * A Redis Cluster of real nodes: masters with an equal share of the slots each, and replicas of theirs.
 *
 *     failover()       planned: a replica takes over from its master, which becomes a replica
 *     killMaster()     unplanned: the others have to notice first (`nodeTimeout`)
 *     moveSlot()       all at once, or step by step by `beginMove`, so that a client meets every redirection:
 *
 *     slot: settled --beginMove()--> moving --finish()--> settled elsewhere
 *       moving: its source answers for the keys that it still has, and ASK for those that it hasn't (any more, or yet);
 *               keys of which one has moved and another hasn't get TRYAGAIN; its target answers who was sent by ASK
 *       settled elsewhere: its source answers MOVED
 */
import { eventually } from './eventually.js';
import { RedisServer, type RedisServerOptions, fieldsOf } from './redis-server.js';

export interface RedisClusterOptions extends Omit<RedisServerOptions, 'port' | 'dir' | 'kind'> {
  /** @default 3 */
  masters?: number;
  /** Of each master. @default 1 */
  replicas?: number;
  /** How long a node says nothing until others take it for gone, in ms. @default 1500 */
  nodeTimeout?: number;
}

const SLOTS = 16_384;
const READY_TIMEOUT = 30_000;

export class RedisCluster {
  readonly nodes: readonly RedisServer[];
  readonly #ids = new Map<string, RedisServer>();

  private constructor(nodes: readonly RedisServer[]) {
    this.nodes = nodes;
  }

  static async start({
    masters = 3,
    replicas = 1,
    nodeTimeout = 1_500,
    args = [],
    ...options
  }: RedisClusterOptions = {}): Promise<RedisCluster> {
    const nodes = await RedisServer.startMany(masters * (1 + replicas), {
      ...options,
      kind: 'cluster-node',
      args: [
        ...['--cluster-node-timeout', String(nodeTimeout)],
        // A replica may take over however old its data is, and stays with its master: what a test has set up is what it has.
        ...['--cluster-replica-validity-factor', '0', '--cluster-allow-replica-migration', 'no'],
        ...['--repl-diskless-sync', 'yes', '--repl-diskless-sync-delay', '0'],
        ...['--repl-ping-replica-period', '1'],
        ...args,
      ],
    });
    const cluster = new RedisCluster(nodes);
    try {
      await cluster.#form(masters);
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** Where a client begins: all nodes. */
  get addresses(): { host: string; port: number }[] {
    return this.nodes.map(({ port }) => ({ host: '127.0.0.1', port }));
  }

  /** The masters that have slots, in order of their slots, as the nodes that run agree on it or will. */
  async masters(): Promise<RedisServer[]> {
    return (await this.#view())
      .filter((seen) => seen.isMaster && seen.ranges.length > 0)
      .toSorted((a, b) => (a.ranges[0]?.[0] ?? 0) - (b.ranges[0]?.[0] ?? 0))
      .map(({ node }) => node);
  }

  async replicasOf(master: RedisServer): Promise<RedisServer[]> {
    const id = this.#idOf(master);
    return (await this.#view()).filter((seen) => seen.masterId === id).map(({ node }) => node);
  }

  async slotOf(key: string): Promise<number> {
    return Number((await this.#anyRunning().order('CLUSTER', 'KEYSLOT', key)).slice(1));
  }

  /** Which master a slot, or a key, belongs to now. */
  async masterOf(keyOrSlot: string | number): Promise<RedisServer> {
    const slot = typeof keyOrSlot === 'number' ? keyOrSlot : await this.slotOf(keyOrSlot);
    const owner = (await this.#view()).find(
      ({ isMaster, ranges }) => isMaster && ranges.some(([from, to]) => from <= slot && slot <= to),
    );
    if (!owner) throw new Error(`Slot ${slot} belongs to no master.`);
    return owner.node;
  }

  /** A master that a slot could be moved to. */
  async masterOtherThan(master: RedisServer): Promise<RedisServer> {
    const other = (await this.masters()).find((node) => node !== master);
    if (!other) throw new Error('There is no other master.');
    return other;
  }

  /** Begins to move a slot to another master: none of its keys have moved yet. */
  async beginMove(slot: number, target: RedisServer): Promise<SlotMove> {
    const source = await this.masterOf(slot);
    await target.order('CLUSTER', 'SETSLOT', String(slot), 'IMPORTING', this.#idOf(source));
    await source.order('CLUSTER', 'SETSLOT', String(slot), 'MIGRATING', this.#idOf(target));
    return new SlotMove(slot, source, target, async () => {
      const settle = ['CLUSTER', 'SETSLOT', String(slot), 'NODE', this.#idOf(target)];
      await target.order(...settle);
      await source.order(...settle);
      // The others hear of it by themselves, a little later.
      for (const node of await this.masters()) await node.order(...settle);
    });
  }

  /** Moves a slot with all of its keys. */
  async moveSlot(slot: number, target: RedisServer): Promise<void> {
    const move = await this.beginMove(slot, target);
    await move.keys();
    await move.finish();
  }

  /** Has a replica take over from its master, which agrees, and waits until all nodes know. Resolves with the new master. */
  async failover(master: RedisServer): Promise<RedisServer> {
    const [replica] = await this.replicasOf(master);
    if (!replica) throw new Error('This master has no replica.');
    // Refused while the replica isn't in sync; without effect where the election fails.
    await eventually(
      async () => {
        await replica.order('CLUSTER', 'FAILOVER');
        return eventually(() => this.#isMaster(replica), { timeout: 3_000 });
      },
      { timeout: READY_TIMEOUT, interval: 200, message: 'the replica has taken over' },
    );
    await this.isOk();
    return replica;
  }

  /** Crashes a master and waits until a replica has taken over. Resolves with it; the old one can be started again. */
  async killMaster(master: RedisServer): Promise<RedisServer> {
    const replicas = await this.replicasOf(master);
    await master.kill();
    const heir = await eventually(
      async () => {
        for (const replica of replicas) if (await this.#isMaster(replica)) return replica;
        return undefined;
      },
      { timeout: READY_TIMEOUT, message: 'a replica has taken over' },
    );
    await this.isOk();
    return heir;
  }

  /** Waits until every node that runs says that all slots are served, and agrees with the others on who serves them. */
  async isOk(): Promise<void> {
    await eventually(
      async () => {
        const running = this.#running();
        const infos = await Promise.all(
          running.map(async (node) => fieldsOf(await node.order('CLUSTER', 'INFO'))),
        );
        if (
          !infos.every(
            (info) =>
              info['cluster_state'] === 'ok' &&
              info['cluster_slots_assigned'] === String(SLOTS) &&
              info['cluster_known_nodes'] === String(this.nodes.length),
          )
        ) {
          return false;
        }
        const views = await Promise.all(running.map((node) => this.#seenBy(node)));
        const asText = (view: readonly SeenNode[]) =>
          view
            .filter(({ isMaster, node }) => isMaster && node.isRunning)
            .map(({ node, ranges }) => `${node.port}:${JSON.stringify(ranges)}`)
            .toSorted()
            .join(' ');
        return new Set(views.map(asText)).size === 1;
      },
      { timeout: READY_TIMEOUT, interval: 50, message: 'the Cluster is well' },
    );
  }

  /** Waits until the replicas that run are linked to their masters and have what these have. */
  async inSync(): Promise<void> {
    for (const master of await this.masters()) {
      const replicas = (await this.replicasOf(master)).filter(({ isRunning }) => isRunning);
      const { master_repl_offset: offset } = await master.info('replication');
      await eventually(
        async () => {
          const states = await Promise.all(replicas.map((one) => one.info('replication')));
          return states.every(
            (state) =>
              state['master_link_status'] === 'up' &&
              state['master_port'] === String(master.port) &&
              Number(state['slave_repl_offset']) >= Number(offset),
          );
        },
        { timeout: READY_TIMEOUT, message: 'the replicas have what their masters have' },
      );
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #form(masters: number): Promise<void> {
    const [first] = this.nodes as [RedisServer];
    for (const [index, node] of this.nodes.entries()) {
      const [, id = ''] = (await node.order('CLUSTER', 'MYID')).split('\r\n');
      this.#ids.set(id, node);
      await node.order('CLUSTER', 'SET-CONFIG-EPOCH', String(index + 1));
      if (index >= masters) continue;
      const from = Math.ceil((index * SLOTS) / masters);
      const to = Math.ceil(((index + 1) * SLOTS) / masters) - 1;
      await node.order('CLUSTER', 'ADDSLOTSRANGE', String(from), String(to));
    }
    for (const { port } of this.nodes) {
      if (port !== first.port) await first.order('CLUSTER', 'MEET', '127.0.0.1', String(port));
    }
    for (const [index, node] of this.nodes.entries()) {
      if (index < masters) continue;
      const master = this.nodes[index % masters] as RedisServer;
      await eventually(() => node.order('CLUSTER', 'REPLICATE', this.#idOf(master)), {
        timeout: READY_TIMEOUT,
        message: 'a replica knows its master',
      });
    }
    await this.isOk();
    await eventually(
      async () => {
        const seen = await Promise.all(this.nodes.map((node) => this.#seenBy(node)));
        return seen.every((view) => view.filter(({ isMaster }) => isMaster).length === masters);
      },
      { timeout: READY_TIMEOUT, message: 'all nodes know who is a replica' },
    );
    await this.inSync();
  }

  #running(): readonly RedisServer[] {
    return this.nodes.filter(({ isRunning }) => isRunning);
  }

  #anyRunning(): RedisServer {
    const [node] = this.#running();
    if (!node) throw new Error('No node of this Cluster runs.');
    return node;
  }

  #idOf(node: RedisServer): string {
    for (const [id, known] of this.#ids) if (known === node) return id;
    throw new Error('This server is no node of the Cluster.');
  }

  async #isMaster(node: RedisServer): Promise<boolean> {
    return (await this.#seenBy(node)).some((seen) => seen.node === node && seen.isMaster);
  }

  /**
   * What each node says of itself; of two that claim a slot, the one with the greater epoch does so by right. One that is
   * paused says nothing, and isn't in it.
   */
  async #view(): Promise<readonly SeenNode[]> {
    const own = await Promise.all(
      this.#running().map(async (node) => {
        const seen = await this.#seenBy(node).catch(() => []);
        return seen.filter((one) => one.node === node);
      }),
    );
    return own.flat().toSorted((a, b) => b.epoch - a.epoch);
  }

  /** All nodes as one of them sees them. */
  async #seenBy(node: RedisServer): Promise<readonly SeenNode[]> {
    const lines = (await node.order('CLUSTER', 'NODES')).split(/\r?\n/).slice(1);
    return lines.flatMap((line) => {
      const [id = '', , flags = '', masterId = '', , , epoch = '', , ...slots] = line.split(' ');
      const seen = this.#ids.get(id);
      if (!seen) return [];
      const ranges = slots
        // In brackets: what is being moved.
        .filter((range) => !range.startsWith('['))
        .map((range): [number, number] => {
          const [from = '', to = from] = range.split('-');
          return [Number(from), Number(to)];
        });
      const isMaster = flags.includes('master');
      return [{ node: seen, isMaster, masterId, epoch: Number(epoch), ranges }];
    });
  }
}

/** A slot on its way from one master to another. */
export class SlotMove {
  constructor(
    readonly slot: number,
    readonly source: RedisServer,
    readonly target: RedisServer,
    private readonly settle: () => Promise<void>,
  ) {}

  /** Moves these keys, or all that are there now. */
  async keys(keys?: readonly string[]): Promise<void> {
    const moving = keys ?? (await this.#keysThere());
    if (moving.length === 0) return;
    await this.source.order(
      ...['MIGRATE', '127.0.0.1', String(this.target.port), '', '0', '2000', 'KEYS', ...moving],
    );
  }

  /** The slot is the target's from now on. Fails while the source still has keys of it. */
  async finish(): Promise<void> {
    await this.settle();
  }

  async #keysThere(): Promise<string[]> {
    const slot = String(this.slot);
    const reply = await this.source.order('CLUSTER', 'GETKEYSINSLOT', slot, '1000');
    return reply.split('\r\n').filter((_, index) => index > 0 && index % 2 === 0);
  }
}

interface SeenNode {
  readonly node: RedisServer;
  readonly isMaster: boolean;
  readonly masterId: string;
  readonly epoch: number;
  readonly ranges: readonly (readonly [from: number, to: number])[];
}
