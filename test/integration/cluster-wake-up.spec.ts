/**
 * Wake-ups on a Cluster of three masters: by shard channels, which no other node hears of; by the ordinary channel where
 * there are none; and once more after links were lost, slots moved and masters changed.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Cluster } from 'ioredis';
import { type AcquireOptions, Locker } from '../../lib/core/locker.js';
import { LockName } from '../../lib/core/lock-name.js';
import { hashSlotOf } from '../../lib/core/redis/hash-slot.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { fieldsOf } from '../support/redis-server.js';

/** Who isn't woken sleeps for half of it at least. */
const TTL = 20_000;
const AT_ONCE = 2_000;

let nodes: RedisCluster;
const closables: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  nodes = await RedisCluster.start({ masters: 3, replicas: 1 });
}, 60_000);

afterAll(async () => {
  await nodes.stop();
});

afterEach(async () => {
  await Promise.all(closables.splice(0).map((each) => each.close()));
});

/** One process, as far as Redis can tell. */
async function openLocker(user?: { username: string; password: string }): Promise<Locker> {
  const cluster = new Cluster(nodes.addresses, { lazyConnect: true, redisOptions: { ...user } });
  const locker = new Locker({
    connection: cluster,
    ttl: TTL,
    waitTimeout: '30s',
    drainTimeout: 1,
  });
  closables.push({
    close: async () => {
      await locker.close();
      cluster.disconnect();
    },
  });
  expect(await locker.connect()).toBe(true);
  return locker;
}

async function isWaiting(locker: Locker, key: string, count = 1): Promise<void> {
  await eventually(async () => (await locker.inspect(key)).pending.length === count, {
    timeout: AT_ONCE,
    message: `${count} wait for ${key}`,
  });
}

/** From the release of one process to the grant of the other, in ms. */
async function handOver(
  from: Locker,
  to: Locker,
  key: string,
  options: AcquireOptions = {},
  nextOptions: AcquireOptions = options,
  meanwhile: () => Promise<void> = async () => {},
): Promise<number> {
  const lock = await from.acquire(key, options);
  const waiting = to.acquire(key, nextOptions);
  await isWaiting(from, key);
  await meanwhile();
  const released = performance.now();
  await lock.release();
  const next = await waiting;
  const took = performance.now() - released;
  await next.release();
  return took;
}

/** How many messages the nodes have sent each other because of what was published. */
async function busMessages(): Promise<{ everywhere: number; inShard: number }> {
  const infos = await Promise.all(
    nodes.nodes.map(async (node) => fieldsOf(await node.order('CLUSTER', 'INFO'))),
  );
  const sum = (field: string) =>
    infos.reduce(
      (total, info) => total + Number(info[`cluster_stats_messages_${field}_sent`] ?? 0),
      0,
    );
  return { everywhere: sum('publish'), inShard: sum('publishshard') };
}

async function shardChannels(): Promise<number> {
  const counts = await Promise.all(
    (await nodes.masters()).map(async (node) => {
      const [head = ''] = (await node.order('PUBSUB', 'SHARDCHANNELS')).split('\r\n');
      return Number(head.slice(1));
    }),
  );
  return counts.reduce((total, count) => total + count, 0);
}

describe('A waiter in another process', () => {
  it.each([
    ['a writer behind a writer', {}, {}],
    ['a reader behind a writer', {}, { mode: 'shared' }],
    ['a writer behind a reader', { mode: 'shared' }, {}],
    ['one of a limit', { limit: 1 }, { limit: 1 }],
  ] as const)(
    'is woken at once, and no other shard hears of it: %s',
    async (kind, held, wanted) => {
      const [a, b] = [await openLocker(), await openLocker()];
      // What is asked for once in the life of a process: whether it may publish.
      await handOver(a, b, `first ${kind}`);
      const before = await busMessages();
      for (let turn = 0; turn < 9; turn += 1) {
        expect(await handOver(a, b, `${kind} ${turn}`, held, wanted)).toBeLessThan(AT_ONCE);
      }
      const after = await busMessages();
      expect(after.everywhere - before.everywhere).toBe(0);
      expect(after.inShard - before.inShard).toBeGreaterThanOrEqual(9);
    },
  );

  it('is woken by the ordinary channel where its user may not use shard channels', async () => {
    for (const node of nodes.nodes) {
      const user = ['ACL', 'SETUSER', 'old', 'reset', 'on', '>secret', '~*', '&*', '+@all'];
      await node.order(...user, '-ssubscribe', '-spublish');
    }
    const user = { username: 'old', password: 'secret' };
    const [a, b, c] = [await openLocker(user), await openLocker(user), await openLocker()];
    expect(await handOver(a, b, 'acl')).toBeLessThan(AT_ONCE);
    // Processes of both kinds.
    expect(await handOver(a, c, 'acl')).toBeLessThan(AT_ONCE);
    expect(await handOver(c, a, 'acl')).toBeLessThan(AT_ONCE);
  });

  it('costs a subscription while it waits, and none afterwards', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const before = await shardChannels();
    const locks = await Promise.all(Array.from({ length: 20 }, (_, n) => a.acquire(`sub ${n}`)));
    expect(await shardChannels()).toBe(before);
    const waiting = locks.map((_, n) => b.acquire(`sub ${n}`));
    await eventually(async () => (await shardChannels()) >= before + 20, { message: 'all listen' });
    await Promise.all(locks.map((lock) => lock.release()));
    await Promise.all((await Promise.all(waiting)).map((lock) => lock.release()));
    await eventually(async () => (await shardChannels()) <= before, { message: 'nobody listens' });
  });

  it('learns that its holder was released by force, as that one does', async () => {
    const [a, b, c] = [await openLocker(), await openLocker(), await openLocker()];
    const lock = await a.acquire('forced');
    const waiting = b.acquire('forced');
    await isWaiting(c, 'forced');
    // The holder's process subscribes without being waited for.
    await eventually(async () => {
      const heard = await Promise.all(nodes.nodes.map((node) => node.order('PUBSUB', 'CHANNELS')));
      return heard.join('').split(':wake:').length > 2;
    });
    await c.forceRelease('forced');
    await eventually(() => lock.signal.aborted, { timeout: AT_ONCE, message: 'the holder knows' });
    await (await waiting).release();
  });

  it('asks for its locks whenever its process begins to hear what is told to holders', async () => {
    const locker = await openLocker();
    let renewed = 0;
    locker.on('renewed', () => (renewed += 1));
    await using lock = await locker.acquire('looked at');
    // By itself, it's renewed after a third of its ttl.
    await eventually(() => renewed === 1, { timeout: AT_ONCE, message: 'it hears' });
    for (const node of nodes.nodes) await node.order('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(() => renewed === 2, { timeout: AT_ONCE, message: 'it hears again' });
    expect(lock.isHeld).toBe(true);
  });

  it('is woken where its slot is moving, has moved, and has moved back', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const slot = hashSlotOf(LockName.of('lock', 'moving').owner);
    const source = await nodes.masterOf(slot);
    const target = await nodes.masterOtherThan(source);
    expect(await handOver(a, b, 'moving', {}, {}, () => nodes.moveSlot(slot, target))).toBeLessThan(
      AT_ONCE,
    );
    expect(await handOver(a, b, 'moving', {}, {}, () => nodes.moveSlot(slot, source))).toBeLessThan(
      AT_ONCE,
    );
    // All of its keys have moved, but not the slot: nobody has subscribed at the target.
    let move: Awaited<ReturnType<RedisCluster['beginMove']>> | undefined;
    expect(
      await handOver(a, b, 'moving', {}, {}, async () => {
        move = await nodes.beginMove(slot, target);
        await move.keys();
        setTimeout(() => void move?.finish(), 200);
      }),
    ).toBeLessThan(AT_ONCE);
  });

  it('is woken by shard again where its slot has moved', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const slot = hashSlotOf(LockName.of('lock', 'again').owner);
    const lock = await a.acquire('again');
    const waiting = b.acquire('again');
    await isWaiting(a, 'again');
    const target = await nodes.masterOtherThan(await nodes.masterOf(slot));
    await nodes.moveSlot(slot, target);
    await eventually(
      async () => (await target.order('PUBSUB', 'SHARDCHANNELS')).includes('{again}'),
      {
        message: 'it listens at the new master',
      },
    );
    const before = await busMessages();
    await lock.release();
    await (await waiting).release();
    expect((await busMessages()).everywhere).toBe(before.everywhere);
  });

  it('is woken by shard again where its link was cut', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const master = await nodes.masterOf(LockName.of('lock', 'cut').owner);
    const listens = async () => (await master.order('PUBSUB', 'SHARDCHANNELS')).includes('{cut}');
    const lock = await a.acquire('cut');
    const waiting = b.acquire('cut');
    await isWaiting(a, 'cut');
    await eventually(listens);
    await master.order('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(listens, { message: 'it listens again' });
    const before = await busMessages();
    await lock.release();
    await (await waiting).release();
    expect((await busMessages()).everywhere).toBe(before.everywhere);
  });

  it('is woken after every subscriber was thrown out', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const took = await handOver(a, b, 'killed', {}, {}, async () => {
      for (const node of nodes.nodes) await node.order('CLIENT', 'KILL', 'TYPE', 'pubsub');
    });
    expect(took).toBeLessThan(AT_ONCE);
  });

  it('is woken after a replica has taken over from the master that it listened to', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const master = await nodes.masterOf(LockName.of('lock', 'failover').owner);
    const took = await handOver(a, b, 'failover', {}, {}, async () => {
      await nodes.inSync();
      await nodes.failover(master);
    });
    expect(took).toBeLessThan(AT_ONCE);
  }, 60_000);
});

describe('A lease that is passed on in its process', () => {
  it('comes to another process that waits, within its budget', async () => {
    const [a, b] = [await openLocker(), await openLocker()];
    const end = new AbortController();
    let turns = 0;
    const workers = Array.from({ length: 4 }, async () => {
      while (!end.signal.aborted) {
        await a.using('fair', async () => {
          turns += 1;
        });
      }
    });
    await eventually(() => turns > 100, { message: 'it is passed on' });
    for (let turn = 0; turn < 5; turn += 1) {
      const since = performance.now();
      await (await b.acquire('fair')).release();
      expect(performance.now() - since).toBeLessThan(AT_ONCE);
    }
    end.abort();
    await Promise.all(workers);
  });
});
