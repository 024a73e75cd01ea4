/**
 * What only several independent nodes have to promise: locks outlive a minority of them, and nothing is left behind at any.
 */
import { afterEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import type { LockUnavailableError } from '../../lib/core/errors.js';
import { Locker } from '../../lib/core/locker.js';
import { eventually } from '../support/eventually.js';
import { freeRecord, keysInUse } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';

let servers: RedisServer[] = [];
const lockers: Locker[] = [];

async function start(count: number, lockersWanted = 1): Promise<Locker[]> {
  servers = await RedisServer.startMany(count);
  const connection = servers.map(({ url }) => url);
  const opened = Array.from({ length: lockersWanted }, () => {
    return new Locker({ connection, drainTimeout: 1 });
  });
  lockers.push(...opened);
  await Promise.all(opened.map((locker) => locker.connect()));
  return opened;
}

async function onEach<T>(look: (client: Redis) => Promise<T>): Promise<T[]> {
  const clients = servers.map(({ url }) => new Redis(url));
  try {
    return await Promise.all(clients.map(look));
  } finally {
    for (const client of clients) client.disconnect();
  }
}

afterEach(async () => {
  await Promise.all(lockers.splice(0).map((locker) => locker.close()));
  await Promise.all(servers.map((server) => server.stop()));
});

describe.each([3, 4, 5])('a quorum of %i', (count) => {
  const spare = count - (Math.floor(count / 2) + 1);

  it('goes on without as many nodes as it has to spare, and says what each answered without one more', async () => {
    const [locker] = (await start(count)) as [Locker];
    await (await locker.acquire('k')).release();
    for (const server of servers.slice(0, spare)) await server.kill();
    const lock = await locker.acquire('k');
    expect(await lock.release()).toBe('released');
    await (servers[spare] as RedisServer).kill();
    const error = await locker.acquire('k', { waitTimeout: 500 }).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'quorum' });
    const { nodes = [], message } = error as LockUnavailableError;
    expect(nodes).toHaveLength(count);
    expect(nodes.filter(({ answer }) => answer === 'granted')).toHaveLength(count - spare - 1);
    for (const { port } of servers) expect(message).toContain(`localhost:${port}: `);
  });

  it('leaves nothing at any node', async () => {
    const [one, two] = (await start(count, 2)) as [Locker, Locker];
    const lock = await one.acquire('k');
    const abort = new AbortController();
    const waiting = two.acquire('k', { signal: abort.signal }).catch((e: unknown) => e);
    await eventually(async () => (await one.inspect('k')).pending.length === 1);
    abort.abort('enough');
    expect(await waiting).toBe('enough');
    await lock.release();
    await eventually(async () => {
      return (await onEach((client) => keysInUse(client))).flat().length === 0;
    });
  });

  it('gives rising fencing tokens also where a node is far ahead of the others', async () => {
    const [locker] = (await start(count)) as [Locker];
    const ahead = (Date.now() + 3_600_000) * 1_000;
    const first = new Redis((servers[0] as RedisServer).url);
    await first.set('lock:{k}', freeRecord(ahead), 'PX', 7_200_000);
    first.disconnect();
    let last = 0;
    for (let turn = 0; turn < 10; turn += 1) {
      const lock = await locker.acquire('k');
      expect(lock.fencingToken).toBeGreaterThan(last);
      last = lock.fencingToken;
      await lock.release();
    }
  });
});

it('a frozen node is waited for once, and not by those whom a majority grants', async () => {
  const [one, two] = (await start(3, 2)) as [Locker, Locker];
  const frozen = servers[0] as RedisServer;
  frozen.pause();
  try {
    const lock = await one.acquire('k');
    expect(lock.isHeld).toBe(true);
    expect(await two.tryAcquire('k')).toBeNull();
    const next = two.acquire('k', { waitTimeout: '5s' });
    await eventually(async () => (await two.inspect('k')).pending.length === 1);
    await lock.release();
    await (await next).release();
  } finally {
    frozen.resume();
  }
});

it('asks for its locks whenever its process begins to hear, at a majority, what is told to holders', async () => {
  const [locker] = (await start(3)) as [Locker];
  let renewed = 0;
  locker.on('renewed', () => (renewed += 1));
  // By itself, it's renewed after 20 s.
  const lock = await locker.acquire('k', { ttl: 60_000 });
  await eventually(() => renewed === 1, { timeout: 3_000, message: 'it hears' });
  await onEach((client) => client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'));
  await eventually(() => renewed === 2, { timeout: 3_000, message: 'it hears again' });
  expect(await lock.release()).toBe('released');
});
