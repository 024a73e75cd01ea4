/**
 * The suite for lockers over a real redis-server and over this process's memory.
 */
import { afterAll, beforeAll } from '@jest/globals';
import { Redis } from 'ioredis';
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { openBareBackend } from '../support/bare-backend.js';
import { keysInUse } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { describeLockerAccess } from './locker-access.suite.js';
import { describeLocker, type LockerStore } from './locker.suite.js';

let server: RedisServer;
let nodes: RedisServer[];

beforeAll(async () => {
  [server, nodes] = await Promise.all([RedisServer.start(), RedisServer.startMany(3)]);
});

afterAll(async () => {
  await Promise.all([server, ...nodes].map((each) => each.stop()));
});

async function openRedisStore(always: Omit<LockerOptions, 'connection'>): Promise<LockerStore> {
  const client = new Redis(server.url);
  return {
    open: (options) => new Locker({ connection: server.url, ...always, ...options }),
    openBackend: () => openBareBackend({ connection: server.url }),
    leftovers: () => keysInUse(client),
    close: async () => {
      client.disconnect();
    },
  };
}

async function openQuorumStore(always: Omit<LockerOptions, 'connection'>): Promise<LockerStore> {
  const clients = nodes.map(({ url }) => new Redis(url));
  const connection = nodes.map(({ url }) => url);
  // As long as a whole command: the machine that runs the tests may be slow, which isn't what they are about.
  const nodeTimeout = 1_000;
  return {
    open: (options) =>
      new Locker({
        connection,
        nodeTimeout: Math.min(nodeTimeout, Number(options?.commandTimeout ?? nodeTimeout)),
        ...always,
        ...options,
      }),
    openBackend: () => openBareBackend({ connection, nodeTimeout }),
    leftovers: async () => (await Promise.all(clients.map((client) => keysInUse(client)))).flat(),
    close: async () => {
      for (const client of clients) client.disconnect();
    },
  };
}

async function openMemoryStore(always: Omit<LockerOptions, 'connection'>): Promise<LockerStore> {
  const store = new MemoryStore();
  return {
    open: (options) =>
      new Locker(
        { connection: 'memory', ...always, ...options },
        { backend: new MemoryBackend({ application: options?.application }, store) },
      ),
    openBackend: () => new MemoryBackend({ application: undefined }, store),
    leftovers: async () => {
      const now = performance.now();
      return [...store.entries].flatMap(([key, { owner, sharers, queue }]) =>
        (owner !== undefined && owner.until > now) ||
        [...sharers.values()].some(({ until }) => until > now) ||
        queue.some((w) => w.aliveUntil > now)
          ? [key]
          : [],
      );
    },
    close: async () => {},
  };
}

for (const localHandover of [true, false]) {
  const how = localHandover ? 'passing leases on' : 'without local hand-over';
  describeLocker(`Redis, ${how}`, () => openRedisStore({ localHandover }));
  describeLocker(`quorum of 3, ${how}`, () => openQuorumStore({ localHandover }));
  describeLocker(`memory, ${how}`, () => openMemoryStore({ localHandover }));
  describeLockerAccess(`access over Redis, ${how}`, () => openRedisStore({ localHandover }));
  describeLockerAccess(
    `access over a quorum of 3, ${how}`,
    () => openQuorumStore({ localHandover }),
    { limits: false, findsCircles: false },
  );
  describeLockerAccess(`access over memory, ${how}`, () => openMemoryStore({ localHandover }));
}
