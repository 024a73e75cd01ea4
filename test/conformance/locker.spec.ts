/**
 * The suite for lockers over a real redis-server and over this process's memory.
 */
import { afterAll, beforeAll } from '@jest/globals';
import { Redis } from 'ioredis';
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { Locker } from '../../lib/core/locker.js';
import { RedisServer } from '../support/redis-server.js';
import { describeLocker } from './locker.suite.js';

let server: RedisServer;

beforeAll(async () => {
  server = await RedisServer.start();
});

afterAll(async () => {
  await server.stop();
});

describeLocker('Redis', async () => {
  const client = new Redis(server.url);
  return {
    open: (options) => new Locker({ connection: server.url, ...options }),
    openBackend: () =>
      new RedisBackend(
        {
          connection: server.url,
          commandTimeout: 1_000,
          prefix: 'lock',
          application: undefined,
        },
        systemClock,
        new LockEmitter(),
      ),
    leftovers: async () => (await client.keys('*')).filter((key) => !key.endsWith('}:f')),
    close: async () => {
      client.disconnect();
    },
  };
});

describeLocker('memory', async () => {
  const store = new MemoryStore();
  return {
    open: (options) =>
      new Locker(
        { connection: 'memory', ...options },
        { backend: new MemoryBackend({ application: options?.application }, store) },
      ),
    openBackend: () => new MemoryBackend({ application: undefined }, store),
    leftovers: async () => {
      const now = performance.now();
      return [...store.entries].flatMap(([key, { owner, queue }]) =>
        (owner !== undefined && owner.until > now) || queue.some((w) => w.aliveUntil > now)
          ? [key]
          : [],
      );
    },
    close: async () => {},
  };
});
