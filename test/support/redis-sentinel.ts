/**
 * A master with replicas, watched over by Sentinels that elect another master when it's gone: all real processes.
 *
 *     failover()          planned: a replica is promoted, the old master becomes its replica
 *     killMaster()        unplanned: a majority of the Sentinels has to notice first (`downAfter`)
 *     isolateMaster()     neither Sentinels nor replicas reach it any more, and another is elected; its clients still write
 *
 * The Sentinels log in as a user of their own, as each replica does, so that a server is cut off from them by taking the
 * user away; clients log in as `CLIENT_USER`, since a Sentinel that isn't let in goes on as the default user.
 */
import { eventually } from './eventually.js';
import { RedisReplication, userOf } from './redis-replication.js';
import { RedisServer, type RedisUser } from './redis-server.js';

export interface RedisSentinelsOptions {
  /** @default 2 */
  replicas?: number;
  /** @default 3 */
  sentinels?: number;
  /** How long a server says nothing until a Sentinel takes it for gone, in ms. @default 1000 */
  downAfter?: number;
  persistence?: false | 'aof';
  /** More arguments of the servers. */
  args?: string[];
}

/** What the Sentinels call the master. */
export const MASTER_NAME = 'mymaster';
export const CLIENT_USER: RedisUser = { name: 'client', password: 'client' };
const SENTINEL_USER: RedisUser = { name: 'sentinel', password: 'sentinel' };

const DISCOVERY_TIMEOUT = 30_000;
const FAILOVER_TIMEOUT = 30_000;
const everything = ['~*', '&*', '+@all'];

export class RedisSentinels {
  readonly group: RedisReplication;
  readonly sentinels: readonly RedisServer[];

  private constructor(group: RedisReplication, sentinels: readonly RedisServer[]) {
    this.group = group;
    this.sentinels = sentinels;
  }

  static async start({
    replicas = 2,
    sentinels = 3,
    downAfter = 1_000,
    persistence = false,
    args = [],
  }: RedisSentinelsOptions = {}): Promise<RedisSentinels> {
    const group = await RedisReplication.start({
      replicas,
      persistence,
      user: CLIENT_USER,
      args: [
        ...['--user', 'default', 'off'],
        ...[CLIENT_USER, SENTINEL_USER].flatMap(({ name, password }) => [
          ...['--user', name, 'on', `>${password}`, ...everything],
        ]),
        ...args,
      ],
    });
    const watchers: RedisServer[] = [];
    try {
      const settings: readonly (readonly string[])[] = [
        ['monitor', MASTER_NAME, '127.0.0.1', String(group.master.port), String(quorum(sentinels))],
        ['auth-user', MASTER_NAME, SENTINEL_USER.name],
        ['auth-pass', MASTER_NAME, SENTINEL_USER.password],
        ['down-after-milliseconds', MASTER_NAME, String(downAfter)],
        ['failover-timeout', MASTER_NAME, String(Math.max(3_000, 3 * downAfter))],
        ['parallel-syncs', MASTER_NAME, String(replicas)],
      ];
      const options = { args: settings.flatMap((words) => ['--sentinel', ...words]) };
      for (const one of await RedisServer.startMany(sentinels, { kind: 'sentinel', ...options })) {
        watchers.push(one);
      }
      const watched = new RedisSentinels(group, watchers);
      await watched.#acquainted(replicas);
      return watched;
    } catch (error) {
      await Promise.all([group.stop(), ...watchers.map((watcher) => watcher.stop())]);
      throw error;
    }
  }

  get servers(): readonly RedisServer[] {
    return this.group.servers;
  }

  /** The one that was elected last, as far as was looked: on a machine that stands still for a while, it changes by itself. */
  get master(): RedisServer {
    return this.group.master;
  }

  get replicas(): readonly RedisServer[] {
    return this.group.replicas;
  }

  get addresses(): { host: string; port: number }[] {
    return this.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
  }

  /** How a client connects: options of ioredis. */
  get connection(): {
    sentinels: { host: string; port: number }[];
    name: string;
    username: string;
    password: string;
  } {
    return {
      sentinels: this.addresses,
      name: MASTER_NAME,
      username: CLIENT_USER.name,
      password: CLIENT_USER.password,
    };
  }

  /** Has another master elected, as an operator would, and waits until it is. Resolves with it. */
  async failover(): Promise<RedisServer> {
    const old = await this.elected();
    // Refused for a while after the last one, and while a replica hasn't come back from it.
    await eventually(
      async () => {
        const [asked] = this.#watching();
        return asked?.order('SENTINEL', 'FAILOVER', MASTER_NAME);
      },
      { timeout: FAILOVER_TIMEOUT, interval: 200, message: 'a failover is begun' },
    );
    return this.elected(old);
  }

  /** Crashes the master and waits until another is elected. Resolves with it; the old one can be started again. */
  async killMaster(): Promise<RedisServer> {
    const old = await this.elected();
    await old.kill();
    return this.elected(old);
  }

  /**
   * Cuts the master off from the Sentinels and its replicas, and waits until another is elected. Clients that know its
   * address still reach it, and it takes what they write, until `rejoin`.
   */
  async isolateMaster(): Promise<RedisServer> {
    const old = await this.elected();
    for (const user of this.#linksOf(old)) await this.group.forbid(user, [old]);
    return this.elected(old);
  }

  /** Lets a server that was isolated be reached again: the Sentinels make it a replica, within 10 s or so. */
  async rejoin(server: RedisServer): Promise<void> {
    for (const user of this.#linksOf(server)) await this.group.permit(user, [server]);
  }

  /** Waits until all Sentinels that run know one master, which isn't `old` and takes writes. Resolves with it. */
  async elected(old?: RedisServer): Promise<RedisServer> {
    const master = await eventually(
      async () => {
        const ports = new Set(await Promise.all(this.#watching().map(masterPortOf)));
        const [port] = ports;
        const found = this.servers.find((server) => server.port === port);
        if (ports.size !== 1 || found === undefined || found === old) return undefined;
        return (await found.info('replication'))['role'] === 'master' ? found : undefined;
      },
      { timeout: FAILOVER_TIMEOUT, message: 'the Sentinels agree on a new master' },
    );
    this.group.elected(master);
    return master;
  }

  /** Waits until all servers that run follow the master, whoever it is by then, and have what it has. */
  async inSync(): Promise<void> {
    await eventually(
      async () => {
        await this.elected();
        return this.group.isInSync(this.replicas.filter(({ isRunning }) => isRunning));
      },
      { timeout: FAILOVER_TIMEOUT, message: 'the replicas follow the master' },
    );
  }

  async stop(): Promise<void> {
    await Promise.all(this.sentinels.map((sentinel) => sentinel.stop()));
    await this.group.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #watching(): readonly RedisServer[] {
    return this.sentinels.filter(({ isRunning }) => isRunning);
  }

  #linksOf(server: RedisServer): readonly string[] {
    const others = this.servers.map((_, index) => index).filter((i) => this.servers[i] !== server);
    return [...others.map(userOf), SENTINEL_USER.name];
  }

  /** Each Sentinel knows all others and all replicas: before that, none would be elected. */
  async #acquainted(replicas: number): Promise<void> {
    await eventually(
      async () => {
        const views = await Promise.all(
          this.sentinels.map((one) => one.order('SENTINEL', 'MASTER', MASTER_NAME)),
        );
        return views.every((view) => {
          const words = view.split('\r\n');
          const valueOf = (field: string) => words[words.indexOf(field) + 2];
          return (
            valueOf('num-slaves') === String(replicas) &&
            valueOf('num-other-sentinels') === String(this.sentinels.length - 1) &&
            valueOf('flags') === 'master'
          );
        });
      },
      { timeout: DISCOVERY_TIMEOUT, interval: 50, message: 'the Sentinels know each other' },
    );
  }
}

function quorum(sentinels: number): number {
  return Math.floor(sentinels / 2) + 1;
}

async function masterPortOf(sentinel: RedisServer): Promise<number> {
  const reply = await sentinel.order('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', MASTER_NAME);
  return Number(reply.split('\r\n')[4]);
}
