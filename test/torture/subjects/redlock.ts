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

interface Tries {
  readonly retryCount: number;
}

interface Settings extends Tries {
  readonly retryDelay: number;
  readonly retryJitter: number;
  readonly automaticExtensionThreshold: number;
}

interface RedlockModule {
  readonly default: new (
    clients: (Redis | Cluster)[],
    settings: Settings,
  ) => {
    using<T>(
      keys: string[],
      ttl: number,
      settings: Tries,
      routine: (signal: AbortSignal) => Promise<T>,
    ): Promise<T>;
  };
}

class Redlocks implements SubjectClient {
  readonly #clients: (Redis | Cluster)[];
  readonly #redlock: InstanceType<RedlockModule['default']>;
  readonly #ttl: number;
  readonly #tries: number;

  constructor({ where, ttl, waitTimeout }: SubjectOptions) {
    this.#clients = clientsOf(where);
    this.#redlock = new (rival<RedlockModule>('redlock5').default)(this.#clients, {
      // Of an extension and a release. As many as to acquire, and it would go on to extend when the lock has long expired.
      retryCount: 10,
      retryDelay: POLL_INTERVAL,
      // Its delay is from 0 to twice as long: contenders on several nodes must not go in step.
      retryJitter: POLL_INTERVAL,
      // Its default of 500 ms is made for a ttl of seconds.
      automaticExtensionThreshold: Math.round(ttl / 2),
    });
    this.#ttl = ttl;
    this.#tries = Math.ceil(waitTimeout / POLL_INTERVAL);
  }

  acquire(key: string): Promise<SubjectLock | undefined> {
    return new Promise((resolve, reject) => {
      const done = this.#redlock.using(
        [key],
        this.#ttl,
        { retryCount: this.#tries },
        (signal) =>
          new Promise<void>((end) => {
            let released = false;
            resolve({
              fencingToken: undefined,
              get isHeld() {
                return !released && !signal.aborted;
              },
              onLost: (callback) => signal.addEventListener('abort', () => callback('lost')),
              release: async () => {
                released = true;
                end();
                await done;
                return signal.aborted ? 'lost' : 'released';
              },
            });
          }),
      );
      // It says by one error that others have it and that no server answers.
      done.catch((error: Error) =>
        error.name === 'ExecutionError' ? resolve(undefined) : reject(error),
      );
    });
  }

  outcomeOf(error: unknown): string {
    return nameOf(error);
  }

  async close(): Promise<void> {
    for (const client of this.#clients) client.disconnect();
  }
}

export const redlock: Subject = {
  id: 'redlock',
  title: 'redlock 5 beta',
  settings: `using(), which renews at half of the ttl; retryDelay ${POLL_INTERVAL} ms, as much jitter; as many tries to acquire as fill the time to wait (it has no other bound), 10 to extend`,
  belief:
    'until `signal.aborted` (its documentation: "Make sure any attempted lock extension has not failed")',
  fences: false,
  promises: 'none',
  lacks: (_, limit) => (limit === undefined ? undefined : 'it has no limits'),
  async open(options) {
    return new Redlocks(options);
  },
};
