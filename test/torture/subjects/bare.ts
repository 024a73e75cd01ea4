import { setTimeout as pause } from 'node:timers/promises';
import { RawLocks } from '../../../bench/adapters/raw.js';
import { clientsOf } from '../where.js';
import {
  nameOf,
  POLL_INTERVAL,
  type Subject,
  type SubjectClient,
  type SubjectLock,
  type SubjectOptions,
} from './subject.js';

class BareLocks implements SubjectClient {
  readonly #locks: RawLocks;
  readonly #options: SubjectOptions;

  constructor(options: SubjectOptions) {
    const [client] = clientsOf(options.where);
    if (client === undefined) throw new Error('There is no server.');
    this.#locks = new RawLocks(client, options.ttl);
    this.#options = options;
  }

  async acquire(key: string): Promise<SubjectLock | undefined> {
    const end = performance.now() + this.#options.waitTimeout;
    do {
      const held = await this.#locks.tryAcquire(key);
      if (held !== undefined) {
        const until = performance.now() + this.#options.ttl;
        let released = false;
        return {
          fencingToken: undefined,
          get isHeld() {
            return !released && performance.now() < until;
          },
          onLost: () => {},
          release: async () => {
            released = true;
            return (await this.#locks.release(held)) === 1 ? 'released' : 'lost';
          },
        };
      }
      await pause(POLL_INTERVAL);
    } while (performance.now() < end);
    return undefined;
  }

  outcomeOf(error: unknown): string {
    return nameOf(error);
  }

  close(): Promise<void> {
    return this.#locks.close();
  }
}

/** The recipe of the Redis documentation, as a careful user writes it. */
export const bare: Subject = {
  id: 'bare',
  title: 'bare SET NX PX',
  settings: `SET NX PX with a random token, every ${POLL_INTERVAL} ms; compare-and-delete; ioredis by default; no renewal`,
  belief:
    'for the ttl, by a monotonic clock, from the reply on: the ttl is "the time the client has" (Redis documentation, distributed locks)',
  fences: false,
  promises: 'none',
  lacks(topology, limit) {
    if (limit !== undefined) return 'it has no limits';
    return topology === 'nodes' ? 'it speaks to one server' : undefined;
  },
  protocol: {
    steps: ['connecting', 'acquire sent', 'granted, not told', 'holding', 'release sent'],
    commandOf(request) {
      if (request.includes('\r\nset\r\n') && request.includes('\r\nNX\r\n')) return 'acquire';
      return /\r\neval(sha)?\r\n/.test(request) ? 'release' : undefined;
    },
    newsOf: (reply) => (reply.startsWith('+OK\r\n') ? 'granted' : undefined),
  },
  async open(options) {
    return new BareLocks(options);
  },
};
