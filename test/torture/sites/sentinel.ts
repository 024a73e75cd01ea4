import { eventually } from '../../support/eventually.js';
import { RedisSentinels, type RedisSentinelsOptions } from '../../support/redis-sentinel.js';
import type { RedisServer } from '../../support/redis-server.js';
import type { Where } from '../where.js';
import { remainsOf, type Site } from './site.js';

/** A master, two replicas, three Sentinels. Clients ask the Sentinels, and go where these say: no proxy is in between. */
export class SentinelSite implements Site {
  readonly topology = 'sentinel';

  private constructor(readonly group: RedisSentinels) {}

  static async open(options: RedisSentinelsOptions): Promise<SentinelSite> {
    return new SentinelSite(await RedisSentinels.start(options));
  }

  whereOf(): Where {
    return { kind: 'sentinel', ...this.group.connection };
  }

  /** Has the replicas hear nothing any more of what the master writes. */
  async cutReplicas(): Promise<readonly RedisServer[]> {
    const { replicas } = this.group;
    await Promise.all(replicas.map((replica) => this.group.group.cutLink(replica)));
    return replicas;
  }

  async restoreReplicas(replicas: readonly RedisServer[]): Promise<void> {
    for (const replica of replicas) await this.group.group.restoreLink(replica);
  }

  /** Waits until all follow one master again: a Sentinel takes some ten seconds to reconfigure one that has come back. */
  async settled(): Promise<void> {
    const inSync = () => this.group.inSync().then(() => true);
    await eventually(inSync, { timeout: 60_000, interval: 100, message: 'all follow the master' });
  }

  async heal(): Promise<void> {}

  remains(within: number): Promise<string[]> {
    return remainsOf([this.group.master.url], within);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.group.stop();
  }
}
