import type { Cluster, Redis } from 'ioredis';
import { rival } from '../../../bench/adapters/rival.js';
import { clientsOf } from '../where.js';
import {
  nameOf,
  POLL_INTERVAL,
  type Subject,
  type SubjectClient,
  type SubjectLock,
  type SubjectOptions,
} from './subject.js';

interface Mutex {
  readonly isAcquired: boolean;
  tryAcquire(): Promise<boolean>;
  release(): Promise<void>;
}

interface MutexOptions {
  readonly lockTimeout: number;
  readonly acquireTimeout: number;
  readonly retryInterval: number;
  readonly onLockLost: (error: Error) => void;
}

interface RedisSemaphore {
  readonly Mutex: new (client: Redis | Cluster, key: string, options: MutexOptions) => Mutex;
  readonly Semaphore: new (
    client: Redis | Cluster,
    key: string,
    limit: number,
    options: MutexOptions,
  ) => Mutex;
  readonly RedlockMutex: new (
    clients: (Redis | Cluster)[],
    key: string,
    options: MutexOptions,
  ) => Mutex;
}

class SemaphoreMutexes implements SubjectClient {
  readonly #library = rival<RedisSemaphore>('redis-semaphore');
  readonly #clients: (Redis | Cluster)[];
  readonly #options: SubjectOptions;

  constructor(options: SubjectOptions) {
    this.#clients = clientsOf(options.where);
    this.#options = options;
  }

  async acquire(key: string): Promise<SubjectLock | undefined> {
    let lost: ((reason: string) => void) | undefined;
    const options: MutexOptions = {
      lockTimeout: this.#options.ttl,
      acquireTimeout: this.#options.waitTimeout,
      retryInterval: POLL_INTERVAL,
      // By default it throws where nobody can catch it.
      onLockLost: () => lost?.('lost'),
    };
    const mutex = this.#newMutex(key, options);
    if (!(await mutex.tryAcquire())) return undefined;
    return {
      fencingToken: undefined,
      get isHeld() {
        return mutex.isAcquired;
      },
      onLost: (callback) => {
        lost = callback;
      },
      release: async () => {
        const { isAcquired } = mutex;
        await mutex.release();
        return isAcquired ? 'released' : 'lost';
      },
    };
  }

  #newMutex(key: string, options: MutexOptions): Mutex {
    const { Mutex, RedlockMutex, Semaphore } = this.#library;
    const { limit, where } = this.#options;
    if (where.kind === 'nodes') return new RedlockMutex(this.#clients, key, options);
    const client = this.#clients[0] as Redis | Cluster;
    return limit === undefined
      ? new Mutex(client, key, options)
      : new Semaphore(client, key, limit, options);
  }

  outcomeOf(error: unknown): string {
    return nameOf(error);
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.disconnect();
  }
}

export const redisSemaphore: Subject = {
  id: 'redis-semaphore',
  title: 'redis-semaphore',
  settings:
    'Mutex, on independent nodes RedlockMutex, with a limit Semaphore; renews by its default, at 0.8 of the ttl',
  belief:
    'while `mutex.isAcquired`, which ends with `onLockLost` (its documentation: "Example with lost lock handling")',
  fences: false,
  promises: 'none',
  async open(options) {
    return new SemaphoreMutexes(options);
  },
};
