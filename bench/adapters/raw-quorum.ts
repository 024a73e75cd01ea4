import { randomUUID } from 'node:crypto';

import type { Adapter, LockClient, OpenOptions } from './adapter.js';
import { type RawLock, RawLocks } from './raw.js';

/** The recipe for several independent nodes by hand: all are asked at once, and all are waited for. */
class RawQuorum implements LockClient<RawLock> {
  readonly #nodes: readonly RawLocks[];

  constructor({ url, others = [], ttl }: OpenOptions) {
    this.#nodes = [url, ...others].map((each) => new RawLocks(each, ttl));
  }

  async acquire(key: string): Promise<RawLock> {
    const token = randomUUID();
    const taken = await Promise.all(this.#nodes.map((node) => node.tryAcquire(key, token)));
    const granted = taken.filter((lock) => lock !== undefined).length;
    if (granted * 2 <= this.#nodes.length) throw new Error(`${key} is held by another.`);
    return { key, token };
  }

  release(held: RawLock): Promise<unknown> {
    return Promise.all(this.#nodes.map((node) => node.release(held)));
  }

  async close(): Promise<void> {
    await Promise.all(this.#nodes.map((node) => node.close()));
  }
}

/** The limit over several nodes where nobody contends. */
export const rawQuorum: Adapter = {
  id: 'raw-quorum',
  title: 'raw, all nodes',
  settings:
    'Promise.all over the nodes of SET NX PX, then of compare-and-delete by EVALSHA; a majority decides; no fencing token',
  lacks: { waiting: 'it tries once', renewal: 'it has none' },
  only: ['W11'],
  async open(options) {
    return new RawQuorum(options);
  },
};
