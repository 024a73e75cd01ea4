import { randomUUID } from 'node:crypto';

import { type Cluster, Redis } from 'ioredis';

import type { Adapter, LockClient } from './adapter.js';

/** What somebody holds who wrote the recipe by hand. */
export interface RawLock {
  readonly key: string;
  readonly token: string;
}

type RawRedis = (Redis | Cluster) & {
  compareAndDelete(key: string, token: string): Promise<number>;
};

const COMPARE_AND_DELETE =
  "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/** The recipe over ioredis, as a careful user writes it: SET NX PX with a random token, then compare-and-delete. */
export class RawLocks implements LockClient<RawLock> {
  protected readonly redis: RawRedis;
  protected readonly ttl: number;

  constructor(where: string | Redis | Cluster, ttl: number) {
    this.redis = (typeof where === 'string' ? new Redis(where) : where) as RawRedis;
    this.redis.defineCommand('compareAndDelete', { numberOfKeys: 1, lua: COMPARE_AND_DELETE });
    this.ttl = ttl;
  }

  async acquire(key: string): Promise<RawLock> {
    const lock = await this.tryAcquire(key);
    if (lock === undefined) throw new Error(`${key} is held by another.`);
    return lock;
  }

  async tryAcquire(key: string, token: string = randomUUID()): Promise<RawLock | undefined> {
    const reply = await this.redis.set(key, token, 'PX', this.ttl, 'NX');
    return reply === 'OK' ? { key, token } : undefined;
  }

  release(held: RawLock): Promise<unknown> {
    return this.redis.compareAndDelete(held.key, held.token);
  }

  async close(): Promise<void> {
    this.redis.disconnect();
  }
}

/** The limit where nobody contends: two commands and nothing else. */
export const raw: Adapter = {
  id: 'raw',
  title: 'raw ioredis',
  settings:
    'SET NX PX, then compare-and-delete by EVALSHA; tries once; no renewal, no fencing token',
  lacks: { waiting: 'it tries once', renewal: 'it has none' },
  async open({ url, ttl }) {
    return new RawLocks(url, ttl);
  },
};
