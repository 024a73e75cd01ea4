/**
 * How several independent nodes, taken together, show a lease: also where they know it under different fencing tokens, because
 * some could not be told that of the lease, and where one that has it doesn't answer.
 *
 * A lease that isn't renewed is looked at when its process hears again: what the nodes show decides whether it's kept.
 */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import type { Lock } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import { acquireAllScript, setFenceScript } from '../../lib/core/redis/scripts.generated.js';
import { eventually } from '../support/eventually.js';
import { freeRecord, recordOf } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const HOUR = 3_600_000;

let servers: RedisServer[] = [];
let ways: TcpProxy[] = [];
const lockers: Locker[] = [];

beforeEach(async () => {
  servers = await RedisServer.startMany(3);
  ways = await Promise.all(servers.map(({ port }) => TcpProxy.start(port)));
});

afterEach(async () => {
  await Promise.all(lockers.splice(0).map((locker) => locker.close()));
  await Promise.all(ways.map((way) => way.close()));
  await Promise.all(servers.map((server) => server.stop()));
});

async function open(): Promise<Locker> {
  const connection = ways.map(({ url }) => url);
  const locker = new Locker({ connection, drainTimeout: 1, nodeTimeout: 1_000 });
  lockers.push(locker);
  // The nodes' clocks and the scripts are known then.
  await (await locker.acquire('first')).release();
  return locker;
}

async function at<T>(index: number, look: (client: Redis) => Promise<T>): Promise<T> {
  // A node that is away is an error at once.
  const client = new Redis((servers[index] as RedisServer).url, { retryStrategy: () => null });
  client.on('error', () => {});
  try {
    return await look(client);
  } finally {
    client.disconnect();
  }
}

/** As if a node's clock had been so far ahead when it last granted the key. */
function setAhead(index: number, key: string, by: number): Promise<unknown> {
  const record = freeRecord((Date.now() + by) * 1_000);
  return at(index, (client) => client.set(`lock:{${key}}`, record, 'PX', by + HOUR));
}

/** The fencing tokens under which the nodes have a key: that of the holder, or the last that was given. */
async function fencesOf(key: string): Promise<(number | undefined)[]> {
  const records = await Promise.all(
    servers.map((_, index) => at(index, (client) => recordOf(client, `lock:{${key}}`))),
  );
  return records.map((record) => record?.fence);
}

/** How many nodes that answer have a key. */
async function heldAt(key: string): Promise<number> {
  const fences = await Promise.all(
    servers.map((_, index) =>
      at(index, (client) => recordOf(client, `lock:{${key}}`)).catch(() => undefined),
    ),
  );
  return fences.filter((record) => record !== undefined).length;
}

async function listenersAt(index: number): Promise<number> {
  const channels = await at(index, (client) => client.pubsub('CHANNELS', 'lock:wake:*'));
  return (channels as readonly string[]).length;
}

/** Has the leases of the process looked at, and waits until they were: of one that's gone, it learns by that. */
async function lookAtLeases(gone: Lock): Promise<void> {
  for (const index of ways.keys()) {
    await at(index, (client) => client.del('lock:{gone}', 'lock:{gone}:q', 'lock:{gone}:w')).catch(
      () => {},
    );
  }
  for (const way of ways) way.cutAll();
  await eventually(() => gone.signal.aborted, { message: 'it was looked at' });
}

/** A lock whose lease each node has under another fencing token. */
async function takeUnequally(locker: Locker, mode: 'exclusive' | 'shared'): Promise<Lock> {
  // The first node is the furthest ahead, and slow; the last one isn't ahead.
  await setAhead(0, 'k', 2 * HOUR);
  await setAhead(1, 'k', HOUR);
  const [slow, , last] = ways as [TcpProxy, TcpProxy, TcpProxy];
  slow.delay(100, 'up');
  // Neither is told the token: the last one a larger, the first one a smaller.
  const untold = new Set<TcpProxy>();
  for (const way of [slow, last]) {
    way.onRequest = (bytes) => {
      const tells = [acquireAllScript, setFenceScript].some(({ sha1 }) => bytes.includes(sha1));
      if (!tells) return 'pass';
      untold.add(way);
      return 'cut';
    };
  }
  const lock = await locker.acquire('k', { mode, ttl: '30s', renew: false });
  await eventually(() => untold.size === 2);
  for (const way of ways) way.onRequest = () => 'pass';
  slow.delay(0, 'up');
  // Until the slow one has it too.
  await eventually(async () => new Set(await fencesOf('k')).size === 3);
  return lock;
}

describe.each(['exclusive', 'shared'] as const)(
  'a lease (%s) that each node has under another fencing token',
  (mode) => {
    it('is shown under its own, and kept', async () => {
      const locker = await open();
      const lock = await takeUnequally(locker, mode);
      const { held } = await locker.inspect('k');
      expect(held).toMatchObject([{ fencingToken: lock.fencingToken, access: mode }]);
      const gone = await locker.acquire('gone', { ttl: '30s', renew: false });
      await lookAtLeases(gone);
      expect(lock.isHeld).toBe(true);
      expect(await lock.release()).toBe('released');
    });

    it('is told under its own where it is released by force', async () => {
      const locker = await open();
      const lock = await takeUnequally(locker, mode);
      expect(await locker.forceRelease('k')).toMatchObject({
        kind: 'released',
        held: [{ fencingToken: lock.fencingToken, access: mode }],
      });
      expect((await locker.inspect('k')).held).toEqual([]);
    });
  },
);

it('a lease of which one node does not answer is kept: a majority may have it', async () => {
  await (servers[2] as RedisServer).kill();
  const locker = await open();
  const lock = await locker.acquire('k', { ttl: '30s', renew: false });
  await (servers[2] as RedisServer).restart();
  await eventually(async () => (await at(2, (client) => client.ping())) === 'PONG');
  const gone = await locker.acquire('gone', { ttl: '30s', renew: false });
  await (servers[1] as RedisServer).kill();
  await lookAtLeases(gone);
  expect(lock.isHeld).toBe(true);
});

it('a lease that is released by force where only one node had it is looked at, and lost', async () => {
  await (servers[0] as RedisServer).kill();
  const locker = await open();
  const lock = await locker.acquire('k', { ttl: '30s', renew: false });
  await eventually(async () => (await heldAt('k')) === 2, { message: 'both nodes have it' });
  await (servers[0] as RedisServer).restart();
  // It hears a majority all the time.
  await eventually(async () => (await listenersAt(0)) > 0, { message: 'it hears the first node' });
  await (servers[2] as RedisServer).kill();
  const other = await open();
  expect(await other.forceRelease('k')).toMatchObject({ kind: 'released' });
  await eventually(() => lock.signal.aborted, { message: 'the holder has learnt of it' });
});
