import { Redis } from 'ioredis';

import { type Adapter, type LockClient, type OpenOptions, POLL_INTERVAL } from './adapter.js';
import { FunctionLocks } from './function-locks.js';
import { rival } from './rival.js';

interface Lock {
  release(): Promise<unknown>;
}

interface Redlock {
  acquire(keys: string[], ttl: number): Promise<Lock>;
  using<T>(keys: string[], ttl: number, routine: () => Promise<T>): Promise<T>;
}

interface RedlockModule {
  readonly default: new (
    clients: Redis[],
    settings: { retryCount: number; retryDelay: number; retryJitter: number },
  ) => Redlock;
}

function openRedlock(...clients: Redis[]): Redlock {
  return new (rival<RedlockModule>('redlock5').default)(clients, {
    retryCount: -1,
    retryDelay: POLL_INTERVAL,
    retryJitter: 0,
  });
}

class Redlocks implements LockClient<Lock> {
  readonly #nodes: Redis[];
  readonly #redlock: Redlock;
  readonly #ttl: number;

  constructor({ url, others = [], ttl }: OpenOptions) {
    this.#nodes = [url, ...others].map((each) => new Redis(each));
    this.#redlock = openRedlock(...this.#nodes);
    this.#ttl = ttl;
  }

  acquire(key: string): Promise<Lock> {
    return this.#redlock.acquire([key], this.#ttl);
  }

  release(held: Lock): Promise<unknown> {
    return held.release();
  }

  async close(): Promise<void> {
    for (const node of this.#nodes) node.disconnect();
  }
}

/** Only `using` renews. */
class RenewedRedlocks extends FunctionLocks {
  readonly #redis: Redis;
  readonly #redlock: Redlock;
  readonly #ttl: number;

  constructor({ url, ttl }: OpenOptions) {
    super();
    this.#redis = new Redis(url);
    this.#redlock = openRedlock(this.#redis);
    this.#ttl = ttl;
  }

  protected under(key: string, work: () => void | Promise<void>): Promise<unknown> {
    return this.#redlock.using([key], this.#ttl, async () => work());
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }
}

export const redlock5: Adapter = {
  id: 'redlock-5',
  title: 'redlock 5 beta',
  settings: `one node; retryDelay ${POLL_INTERVAL} ms, no jitter, no limit of tries; renewal by its using()`,
  lacks: {},
  async open(options) {
    return options.renew ? new RenewedRedlocks(options) : new Redlocks(options);
  },
};

export const redlock5Quorum: Adapter = {
  id: 'redlock-5-quorum',
  title: 'redlock 5 beta',
  settings: 'as with one node',
  lacks: {},
  only: ['W11'],
  async open(options) {
    return new Redlocks(options);
  },
};
