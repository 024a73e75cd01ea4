import { type Adapter, type LockClient, type OpenOptions, POLL_INTERVAL } from './adapter.js';
import { rival } from './rival.js';

interface Lock {
  readonly isValid: boolean;
  release(): Promise<boolean>;
  startAutoExtension(threshold: number): void;
}

interface RedisKitLock {
  readonly Redlock: new (
    clients: NodeRedis[],
    options: { retryDelayMs: number; retryJitterMs: number; maxRetryAttempts: number },
  ) => { acquire(key: string, ttl: number): Promise<Lock | null> };
}

interface NodeRedis {
  connect(): Promise<unknown>;
  close(): Promise<void>;
  destroy(): void;
}

interface NodeRedisModule {
  createClient(options: { url: string }): NodeRedis;
}

class RedisKitLocks implements LockClient<Lock> {
  readonly #redis: NodeRedis;
  readonly #redlock: InstanceType<RedisKitLock['Redlock']>;
  readonly #ttl: number;
  readonly #renew: boolean;

  constructor(redis: NodeRedis, { ttl, renew }: OpenOptions) {
    this.#redis = redis;
    this.#redlock = new (rival<RedisKitLock>('@redis-kit/lock').Redlock)([redis], {
      retryDelayMs: POLL_INTERVAL,
      retryJitterMs: 0,
      maxRetryAttempts: Number.MAX_SAFE_INTEGER,
    });
    this.#ttl = ttl;
    this.#renew = renew;
  }

  static async open(options: OpenOptions): Promise<RedisKitLocks> {
    const redis = rival<NodeRedisModule>('redis').createClient({ url: options.url });
    await redis.connect();
    return new RedisKitLocks(redis, options);
  }

  async acquire(key: string): Promise<Lock> {
    const lock = await this.#redlock.acquire(key, this.#ttl);
    if (lock === null) throw new Error(`${key} is held by another.`);
    // It renews when so much of the ttl is left.
    if (this.#renew) lock.startAutoExtension(Math.round((this.#ttl * 2) / 3));
    return lock;
  }

  release(held: Lock): Promise<boolean> {
    return held.release();
  }

  isHeld(held: Lock): boolean {
    return held.isValid;
  }

  async close(): Promise<void> {
    this.#redis.destroy();
  }
}

export const redisKitLock: Adapter = {
  id: 'redis-kit-lock',
  title: '@redis-kit/lock',
  settings: `one node; retryDelayMs ${POLL_INTERVAL}, no jitter; startAutoExtension() where renewed; over node-redis 5`,
  lacks: {},
  open: (options) => RedisKitLocks.open(options),
};
