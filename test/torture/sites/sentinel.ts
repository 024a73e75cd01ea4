import { eventually } from '../../support/eventually.js';
import { RedisSentinels, type RedisSentinelsOptions } from '../../support/redis-sentinel.js';
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
  async cutReplicas(): Promise<void> {
    const { group, replicas } = this.group;
    await Promise.all(replicas.map((replica) => group.cutLink(replica)));
  }

  /** All of them, also those of servers that had the cut in the settings with which they came back. */
  async restoreLinks(): Promise<void> {
    for (const server of this.group.servers) await this.group.group.restoreLink(server);
  }

  /**
   * Waits until all follow one master again: a Sentinel takes some ten seconds to reconfigure one that has come back. On a
   * busy machine it may have elected another meanwhile.
   */
  async settled(): Promise<void> {
    const settled = async () => {
      await this.group.elected();
      await this.group.inSync();
      return true;
    };
    await eventually(settled, { timeout: 60_000, message: 'all follow the master' });
  }

  async heal(): Promise<void> {}

  remains(within: number): Promise<string[]> {
    return remainsOf([this.group.master.url], within);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.group.stop();
  }
}
