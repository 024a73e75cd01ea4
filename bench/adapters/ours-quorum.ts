import { Redis } from 'ioredis';

import type { Lock } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import { freeRecord } from '../../test/support/lock-keys.js';
import { type Adapter, type LockClient, type OpenOptions, WAIT_TIMEOUT } from './adapter.js';

class OurQuorum implements LockClient<Lock> {
  constructor(private readonly locker: Locker) {}

  acquire(key: string): Promise<Lock> {
    return this.locker.acquire(key);
  }

  release(held: Lock): Promise<unknown> {
    return held.release();
  }

  fencingToken(held: Lock): number {
    return held.fencingToken;
  }

  close(): Promise<void> {
    return this.locker.close();
  }
}

/** Each node remembers another fencing token of each key, so that no two give the same: a majority has to be told. */
class OurQuorumAtOdds extends OurQuorum {
  readonly #nodes: readonly Redis[];

  constructor(locker: Locker, urls: readonly string[]) {
    super(locker);
    this.#nodes = urls.map((url) => new Redis(url));
  }

  async prepare(key: string): Promise<void> {
    const ahead = (Date.now() + 3_600_000) * 1_000;
    await Promise.all(
      this.#nodes.map((node, index) =>
        node.set(`lock:{${key}}`, freeRecord(ahead + index * 1_000_000), 'PX', 7_200_000),
      ),
    );
  }

  override async close(): Promise<void> {
    for (const node of this.#nodes) node.disconnect();
    await super.close();
  }
}

async function openLocker(connection: readonly string[], ttl: number): Promise<Locker> {
  const locker = new Locker({ connection, ttl, waitTimeout: WAIT_TIMEOUT });
  await locker.connect();
  return locker;
}

function nodesOf({ url, others = [] }: OpenOptions): readonly string[] {
  return [url, ...others];
}

export const oursQuorum: Adapter = {
  id: 'ours-quorum',
  title: 'ours',
  settings: 'connection: the nodes; all defaults',
  lacks: {},
  only: ['W11'],
  async open(options) {
    return new OurQuorum(await openLocker(nodesOf(options), options.ttl));
  },
};

export const oursQuorumAtOdds: Adapter = {
  id: 'ours-quorum-at-odds',
  title: 'ours, second phase',
  settings: 'the same; each node begins with another fencing token, an hour ahead',
  lacks: {},
  only: ['W11'],
  async open(options) {
    const urls = nodesOf(options);
    return new OurQuorumAtOdds(await openLocker(urls, options.ttl), urls);
  },
};
