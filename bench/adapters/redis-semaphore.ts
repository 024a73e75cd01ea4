import { Redis } from 'ioredis';

import { type Adapter, type LockClient, POLL_INTERVAL, WAIT_TIMEOUT } from './adapter.js';
import { rival } from './rival.js';

interface Mutex {
  readonly isAcquired: boolean;
  acquire(): Promise<void>;
  release(): Promise<void>;
}

interface RedisSemaphore {
  readonly Mutex: new (
    client: Redis,
    key: string,
    options: { lockTimeout: number; acquireTimeout: number; retryInterval: number },
  ) => Mutex;
}

class SemaphoreMutexes implements LockClient<Mutex> {
  readonly #Mutex = rival<RedisSemaphore>('redis-semaphore').Mutex;
  readonly #redis: Redis;
  readonly #ttl: number;

  constructor(url: string, ttl: number) {
    this.#redis = new Redis(url);
    this.#ttl = ttl;
  }

  async acquire(key: string): Promise<Mutex> {
    const mutex = new this.#Mutex(this.#redis, key, {
      lockTimeout: this.#ttl,
      acquireTimeout: WAIT_TIMEOUT,
      retryInterval: POLL_INTERVAL,
    });
    await mutex.acquire();
    return mutex;
  }

  release(held: Mutex): Promise<void> {
    return held.release();
  }

  isHeld(held: Mutex): boolean {
    return held.isAcquired;
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }
}

export const redisSemaphore: Adapter = {
  id: 'redis-semaphore',
  title: 'redis-semaphore',
  settings: `Mutex; retryInterval ${POLL_INTERVAL} ms (its default); renews by its default, each lock for itself`,
  lacks: {},
  async open({ url, ttl }) {
    return new SemaphoreMutexes(url, ttl);
  },
};
