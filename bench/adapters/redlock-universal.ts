import { Redis } from 'ioredis';

import {
  type Adapter,
  type LockClient,
  type OpenOptions,
  POLL_INTERVAL,
  WAIT_TIMEOUT,
} from './adapter.js';
import { FunctionLocks } from './function-locks.js';
import { rival } from './rival.js';

interface UniversalLock {
  acquire(): Promise<unknown>;
  release(handle: unknown): Promise<boolean>;
  using<T>(routine: () => Promise<T>): Promise<T>;
}

interface RedlockUniversal {
  readonly IoredisAdapter: new (client: Redis) => object;
  createLock(config: {
    adapter: object;
    key: string;
    ttl: number;
    retryAttempts: number;
    retryDelay: number;
  }): UniversalLock;
}

interface Held {
  readonly lock: UniversalLock;
  readonly handle: unknown;
}

/** It makes one lock object a key, so that is kept, as its users do. */
class UniversalLocks {
  readonly #library = rival<RedlockUniversal>('redlock-universal');
  readonly #redis: Redis;
  readonly #adapter: object;
  readonly #ttl: number;
  readonly #byKey = new Map<string, UniversalLock>();

  constructor({ url, ttl }: OpenOptions) {
    this.#redis = new Redis(url);
    this.#adapter = new this.#library.IoredisAdapter(this.#redis);
    this.#ttl = ttl;
  }

  of(key: string): UniversalLock {
    let lock = this.#byKey.get(key);
    if (lock === undefined) {
      lock = this.#library.createLock({
        adapter: this.#adapter,
        key,
        ttl: this.#ttl,
        retryAttempts: WAIT_TIMEOUT / POLL_INTERVAL,
        retryDelay: POLL_INTERVAL,
      });
      this.#byKey.set(key, lock);
    }
    return lock;
  }

  close(): void {
    this.#redis.disconnect();
  }
}

class AcquiredUniversalLocks implements LockClient<Held> {
  readonly #locks: UniversalLocks;

  constructor(options: OpenOptions) {
    this.#locks = new UniversalLocks(options);
  }

  async acquire(key: string): Promise<Held> {
    const lock = this.#locks.of(key);
    return { lock, handle: await lock.acquire() };
  }

  release({ lock, handle }: Held): Promise<boolean> {
    return lock.release(handle);
  }

  async close(): Promise<void> {
    this.#locks.close();
  }
}

/** Only `using` renews. */
class RenewedUniversalLocks extends FunctionLocks {
  readonly #locks: UniversalLocks;

  constructor(options: OpenOptions) {
    super();
    this.#locks = new UniversalLocks(options);
  }

  protected under(key: string, work: () => void | Promise<void>): Promise<unknown> {
    return this.#locks.of(key).using(async () => work());
  }

  async close(): Promise<void> {
    this.#locks.close();
  }
}

export const redlockUniversal: Adapter = {
  id: 'redlock-universal',
  title: 'redlock-universal',
  settings: `one node; retryDelay ${POLL_INTERVAL} ms; renewal by its using()`,
  lacks: {},
  unavailable() {
    const major = Number.parseInt(process.versions.node, 10);
    return major < 22 ? `it needs Node 22 or later; this is ${process.version}` : undefined;
  },
  async open(options) {
    return options.renew ? new RenewedUniversalLocks(options) : new AcquiredUniversalLocks(options);
  },
};
