import { Redis } from 'ioredis';

import { type Adapter, type LockClient, POLL_INTERVAL } from './adapter.js';
import { rival } from './rival.js';

interface Lock {
  unlock(): PromiseLike<void>;
}

type Redlock = new (
  clients: Redis[],
  options: { retryCount: number; retryDelay: number; retryJitter: number },
) => { lock(key: string, ttl: number): PromiseLike<Lock> };

class Redlocks implements LockClient<Lock> {
  readonly #redis: Redis;
  readonly #redlock: InstanceType<Redlock>;
  readonly #ttl: number;

  constructor(url: string, ttl: number) {
    this.#redis = new Redis(url);
    this.#redlock = new (rival<Redlock>('redlock4'))([this.#redis], {
      retryCount: -1,
      retryDelay: POLL_INTERVAL,
      retryJitter: 0,
    });
    this.#ttl = ttl;
  }

  // Its promises are Bluebird's.
  acquire(key: string): Promise<Lock> {
    return this.#redlock.lock(key, this.#ttl) as Promise<Lock>;
  }

  release(held: Lock): Promise<void> {
    return held.unlock() as Promise<void>;
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }
}

export const redlock4: Adapter = {
  id: 'redlock-4',
  title: 'redlock 4',
  settings: `one node; retryDelay ${POLL_INTERVAL} ms, no jitter, no limit of tries`,
  lacks: { renewal: 'only by hand, lock by lock' },
  async open({ url, ttl }) {
    return new Redlocks(url, ttl);
  },
};
