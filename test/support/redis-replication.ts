/**
 * A master and its replicas: real servers, each on a port of its own. Which of them is the master changes by `promote`,
 * or by the Sentinels that watch over them (`redis-sentinel.ts`).
 *
 *     replica: linked --cutLink()--> cut (keeps its data, misses every later write) --restoreLink()--> linked
 *     replica --promote()--> master; the others follow it, unless they can't be asked
 *
 * A link is cut by taking its user away: each server replicates as a user of its own, `link-<n>`. No proxy stands in
 * between, so that the addresses are the true ones, on which Sentinels insist.
 */
import { eventually } from './eventually.js';
import { RedisServer, type RedisServerOptions } from './redis-server.js';

export interface RedisReplicationOptions extends Omit<RedisServerOptions, 'port' | 'dir' | 'kind'> {
  /** @default 1 */
  replicas?: number;
}

const SYNC_TIMEOUT = 15_000;

export class RedisReplication {
  readonly servers: readonly RedisServer[];
  #master: RedisServer;

  private constructor(servers: readonly RedisServer[]) {
    this.servers = servers;
    this.#master = this.server(0);
  }

  static async start({
    replicas = 1,
    args = [],
    ...options
  }: RedisReplicationOptions = {}): Promise<RedisReplication> {
    const count = replicas + 1;
    const users = Array.from({ length: count }, (_, index) => [
      ...['--user', userOf(index), 'on', `>${userOf(index)}`, '+psync', '+replconf', '+ping'],
    ]);
    const started = await Promise.allSettled(
      Array.from({ length: count }, (_, index) =>
        RedisServer.start({
          ...options,
          keepsSettings: true,
          args: [
            ...users.flat(),
            ...['--masteruser', userOf(index), '--masterauth', userOf(index)],
            // A replica that comes is served at once, and one that's gone is noticed soon.
            ...['--repl-diskless-sync', 'yes', '--repl-diskless-sync-delay', '0'],
            ...['--repl-ping-replica-period', '1'],
            ...args,
          ],
        }),
      ),
    );
    const servers = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    try {
      const failed = started.find((one) => one.status === 'rejected');
      if (failed) throw failed.reason;
      const group = new RedisReplication(servers);
      await Promise.all(group.replicas.map((replica) => follow(replica, group.master)));
      await group.inSync();
      return group;
    } catch (error) {
      await Promise.all(servers.map((server) => server.stop()));
      throw error;
    }
  }

  /** The one at the start, or that was promoted last. */
  get master(): RedisServer {
    return this.#master;
  }

  /** All others, whether they run or not. */
  get replicas(): readonly RedisServer[] {
    return this.servers.filter((server) => server !== this.#master);
  }

  server(index: number): RedisServer {
    const server = this.servers[index];
    if (!server) throw new Error(`There is no server ${index} in this group.`);
    return server;
  }

  /** Waits until these replicas have all that the master has written so far, and the master knows it. */
  async inSync(replicas: readonly RedisServer[] = this.replicas): Promise<void> {
    const { master_repl_offset: offset } = await this.#master.info('replication');
    const isDone = async () =>
      (await this.#have(Number(offset), replicas)) && (await this.#areOnline(replicas));
    await eventually(isDone, {
      timeout: SYNC_TIMEOUT,
      message: 'the replicas have what the master has',
    });
  }

  /** Whether these replicas have all that the master has written so far. */
  async isInSync(replicas: readonly RedisServer[]): Promise<boolean> {
    const { master_repl_offset: offset } = await this.#master.info('replication');
    return this.#have(Number(offset), replicas);
  }

  /** From now on nothing of what any master writes reaches this server, though it says so to nobody. */
  async cutLink(replica: RedisServer): Promise<void> {
    await this.forbid(userOf(this.servers.indexOf(replica)), this.#othersThan(replica));
    await eventually(
      async () => (await replica.info('replication'))['master_link_status'] === 'down',
      { timeout: SYNC_TIMEOUT, message: 'the link is cut' },
    );
  }

  /** The replica connects again, within a second or two; `inSync` waits for it. */
  async restoreLink(replica: RedisServer): Promise<void> {
    await this.permit(userOf(this.servers.indexOf(replica)), this.#othersThan(replica));
  }

  /**
   * Makes a replica the master, whatever it has missed, and the others follow it. With `oldMaster: 'stays'` the old one
   * isn't told: it goes on as a master of nobody, which its clients can't see.
   */
  async promote(
    replica: RedisServer,
    { oldMaster = 'follows' }: { oldMaster?: 'follows' | 'stays' } = {},
  ): Promise<void> {
    const old = this.#master;
    await replica.order('REPLICAOF', 'NO', 'ONE');
    this.#master = replica;
    await Promise.all(
      this.#othersThan(replica)
        .filter((server) => server !== old || oldMaster === 'follows')
        .map((server) => follow(server, replica)),
    );
  }

  /** For whoever has the master elected: tells who it is now. */
  elected(master: RedisServer): void {
    this.#master = master;
  }

  /** Ends the connections of a user to these servers, and lets it make no more. */
  async forbid(user: string, servers: readonly RedisServer[]): Promise<void> {
    for (const server of servers) {
      await server.order('ACL', 'SETUSER', user, 'off');
      await server.order('CLIENT', 'KILL', 'USER', user);
    }
  }

  async permit(user: string, servers: readonly RedisServer[]): Promise<void> {
    for (const server of servers) await server.order('ACL', 'SETUSER', user, 'on');
  }

  async stop(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.stop()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #have(offset: number, replicas: readonly RedisServer[]): Promise<boolean> {
    const port = String(this.#master.port);
    const states = await Promise.all(replicas.map((replica) => replica.info('replication')));
    return states.every(
      (state) =>
        state['master_link_status'] === 'up' &&
        state['master_port'] === port &&
        Number(state['slave_repl_offset']) >= offset,
    );
  }

  /** For the master a replica is being synchronized until it has said so itself, which it does once a second. */
  async #areOnline(replicas: readonly RedisServer[]): Promise<boolean> {
    const known = Object.values(await this.#master.info('replication'));
    return replicas.every(({ port }) =>
      known.some((line) => line.includes(`,port=${port},state=online,`)),
    );
  }

  #othersThan(server: RedisServer): readonly RedisServer[] {
    return this.servers.filter((other) => other !== server && other.isRunning);
  }
}

/** As whom the server of this number replicates. */
export function userOf(index: number): string {
  return `link-${index}`;
}

async function follow(server: RedisServer, master: RedisServer): Promise<void> {
  await server.order('REPLICAOF', '127.0.0.1', String(master.port));
  // What was changed by a command is to outlive a restart, as it does in earnest.
  await server.order('CONFIG', 'REWRITE');
}
