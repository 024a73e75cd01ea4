/**
 * `replicas` and `guard` on a Cluster of three masters with a replica each: WAIT speaks of the master that did the write, also
 * where slots move; and each slot has a guard of its own, which knows the server that it's on.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Cluster } from 'ioredis';
import type { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { tagOfSlot } from '../../lib/core/redis/hash-slot.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import type { RedisServer } from '../support/redis-server.js';
import { Opened } from './support/opened.js';
import { refusalOf } from './support/refusal.js';

const REPLICAS = { atLeast: 1, timeout: 300 };
const GUARD = { longestTtl: 1_500, lag: 300 };
const LONG = 60_000;

let cluster: RedisCluster;
/** The masters at the start, and a key of each. */
let masters: RedisServer[];
let keys: string[];
const opened = new Opened();

beforeAll(async () => {
  cluster = await RedisCluster.start({ masters: 3, replicas: 1 });
  masters = await cluster.masters();
  // In the middle of each third.
  keys = [2_000, 8_000, 14_000].map((slot) => tagOfSlot(slot));
}, LONG);

afterEach(() => opened.close());

afterAll(async () => {
  await cluster.stop();
});

function openLocker(options: Partial<LockerOptions>): Locker {
  const connection = new Cluster(cluster.addresses);
  connection.on('error', () => {});
  opened.add({ close: () => connection.disconnect() });
  return opened.locker({ connection, commandTimeout: 1_500, ttl: 1_400, ...options });
}

async function replicaOf(key: string): Promise<RedisServer> {
  const [replica] = await cluster.replicasOf(await cluster.masterOf(`lock:{${key}}`));
  return replica as RedisServer;
}

/** Whether a server, master or replica, has something of a key whose slot has nothing else. */
async function has(server: RedisServer, key: string): Promise<boolean> {
  const slot = await cluster.slotOf(`lock:{${key}}`);
  return (await server.order('CLUSTER', 'COUNTKEYSINSLOT', String(slot))) !== ':0\r\n';
}

describe('replicas', () => {
  it('each grant is confirmed by a replica of the master that has the key', async () => {
    const locker = openLocker({ replicas: REPLICAS });
    for (const key of keys) {
      const lock = await locker.acquire(key);
      const replica = await replicaOf(key);
      expect(await has(replica, key)).toBe(true);
      await lock.extend();
      await lock.release();
    }
    const several = await locker.acquire(keys);
    expect(several.isHeld).toBe(true);
    await several.release();
  });

  it('only the replicas of that master count', async () => {
    const locker = openLocker({ replicas: REPLICAS });
    const [first, second] = keys as [string, string];
    await (await locker.acquire(first)).release();
    const frozen = await replicaOf(first);
    frozen.pause();
    try {
      expect(await refusalOf(locker.acquire(first))).toMatchObject({ reason: 'replicas' });
      expect((await locker.acquire(second)).isHeld).toBe(true);
    } finally {
      frozen.resume();
    }
  });

  it('a call ends in time where the master is frozen, and was not reached before', async () => {
    const [key] = keys as [string];
    const frozen = await cluster.masterOf(`lock:{${key}}`);
    frozen.pause();
    try {
      const commandTimeout = 400;
      const locker = openLocker({ replicas: { atLeast: 1, timeout: 100 }, commandTimeout });
      await locker.connect();
      const slack = 300;
      for (let call = 0; call < 4; call += 1) {
        const askedAt = performance.now();
        await refusalOf(locker.acquire(key, { waitTimeout: 50 }));
        expect(performance.now() - askedAt).toBeLessThan(50 + commandTimeout + slack);
      }
    } finally {
      frozen.resume();
    }
  });

  it(
    'a slot that moves takes the WAIT with it: to the new master, once it is there',
    async () => {
      const locker = openLocker({ replicas: REPLICAS });
      const key = tagOfSlot(100);
      await (await locker.acquire(key)).release();
      const source = await cluster.masterOf(100);
      const target = await cluster.masterOtherThan(source);
      const move = await cluster.beginMove(100, target);
      await move.keys();
      const [oldReplica] = await cluster.replicasOf(source);
      // While it moves, TRYAGAIN; then MOVED. The replica of the old master isn't asked.
      oldReplica?.pause();
      try {
        const acquiring = locker.acquire(key);
        await move.finish();
        const lock = await acquiring;
        const [newReplica] = await cluster.replicasOf(target);
        expect(await has(newReplica as RedisServer, key)).toBe(true);
        await lock.release();
        newReplica?.pause();
        expect(await refusalOf(locker.acquire(key))).toMatchObject({ reason: 'replicas' });
        newReplica?.resume();
      } finally {
        oldReplica?.resume();
        await cluster.isOk();
      }
    },
    LONG,
  );
});

describe('guard', () => {
  it(
    'opens all slots of a new installation, and is closed for those of a master that was replaced',
    async () => {
      const locker = openLocker({ guard: GUARD, prefix: 'guarded' });
      expect(await refusalOf(locker.tryAcquire(keys[0] as string))).toMatchObject({
        reason: 'guard',
      });
      // All but the one that waits by now.
      expect(await locker.initializeGuard({ noLockIsHeld: true })).toBe('initialized');
      await eventually(() => locker.tryAcquire(keys[0] as string).catch(() => null), {
        timeout: 10_000,
      });
      await cluster.inSync();
      const heir = await cluster.killMaster(masters[0] as RedisServer);
      expect(heir).not.toBe(masters[0]);
      const free = tagOfSlot(2_001);
      const error = await eventually(
        async () => {
          const refusal = await refusalOf(locker.tryAcquire(free));
          return refusal.reason === 'guard' ? refusal : undefined;
        },
        { timeout: 20_000 },
      );
      expect(error.retryAfter).toBeGreaterThan(GUARD.longestTtl);
      for (const key of keys.slice(1)) expect((await locker.acquire(key)).isHeld).toBe(true);
      const later = await locker.acquire(free, { waitTimeout: '10s' });
      expect(later.isHeld).toBe(true);
    },
    LONG,
  );
});
