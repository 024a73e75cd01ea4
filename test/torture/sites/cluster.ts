import { RedisCluster } from '../../support/redis-cluster.js';
import type { RedisServer } from '../../support/redis-server.js';
import type { Where } from '../where.js';
import { remainsOf, type Site } from './site.js';

/** As whom replicas follow their masters: without that user, they hear nothing. */
const LINK = 'link';

/** A Cluster of three masters with a replica each. Clients go where its nodes say: no proxy is in between. */
export class ClusterSite implements Site {
  readonly topology = 'cluster';

  private constructor(readonly cluster: RedisCluster) {}

  static async open(nodeTimeout: number): Promise<ClusterSite> {
    const cluster = await RedisCluster.start({
      nodeTimeout,
      args: [
        ...['--user', LINK, 'on', `>${LINK}`, '+psync', '+replconf', '+ping'],
        ...['--masteruser', LINK, '--masterauth', LINK],
      ],
    });
    return new ClusterSite(cluster);
  }

  whereOf(): Where {
    return { kind: 'cluster', nodes: this.cluster.addresses };
  }

  /** Has a master's replica hear nothing any more of what it writes. */
  async cutReplicas(master: RedisServer): Promise<void> {
    await master.order('ACL', 'SETUSER', LINK, 'off');
    await master.order('CLIENT', 'KILL', 'USER', LINK);
  }

  async heal(): Promise<void> {}

  async remains(within: number): Promise<string[]> {
    const masters = await this.cluster.masters();
    return remainsOf(
      masters.map(({ url }) => url),
      within,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cluster.stop();
  }
}
