/**
 * What a test opens: lockers, each with connections of its own as another process would have them, and plain clients beside
 * them. `close` after each test closes all of it, in whatever state the servers are.
 */
import { Redis } from 'ioredis';
import { Locker } from '../../../lib/core/locker.js';
import type { LockerOptions } from '../../../lib/core/options.js';
import type { RedisServer } from '../../support/redis-server.js';

export class Opened {
  readonly #all: { close(): unknown }[] = [];

  /** Its holders get no time to finish: what they do is the test's. */
  locker(options: LockerOptions): Locker {
    return this.add(new Locker({ drainTimeout: 1, ...options }));
  }

  client({ url }: RedisServer): Redis {
    const client = new Redis(url);
    // Servers go away under it.
    client.on('error', () => {});
    this.add({ close: () => client.disconnect() });
    return client;
  }

  add<T extends { close(): unknown }>(one: T): T {
    this.#all.push(one);
    return one;
  }

  async close(): Promise<void> {
    await Promise.all(this.#all.splice(0).map((one) => one.close()));
  }
}
