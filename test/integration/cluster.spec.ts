/**
 * A Redis Cluster of three masters, as a process meets it: commands find their node while slots move, deadlines are told
 * in the time of the server that reads them, and many renewals leave together.
 */
import { createHash, randomUUID } from 'node:crypto';
import { Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Cluster, type ClusterOptions } from 'ioredis';
import type { Granted, HeldToken } from '../../lib/core/backend/lock-backend.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { LockName } from '../../lib/core/lock-name.js';
import { Connection, ConnectionSource } from '../../lib/core/redis/connection.js';
import { hashSlotOf } from '../../lib/core/redis/hash-slot.js';
import { Script } from '../../lib/core/redis/script.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import type { RedisServer } from '../support/redis-server.js';

const TTL = 10_000;

let nodes: RedisCluster;
const closables: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  nodes = await RedisCluster.start({ masters: 3, replicas: 0 });
}, 60_000);

afterAll(async () => {
  await nodes.stop();
});

afterEach(async () => {
  await Promise.all(closables.splice(0).map((each) => each.close()));
});

function openCluster(options: Pick<ClusterOptions, 'clusterNodeRetryStrategy'> = {}): Cluster {
  const cluster = new Cluster(nodes.addresses, {
    redisOptions: { lazyConnect: true },
    ...options,
  });
  closables.push({ close: async () => cluster.disconnect() });
  return cluster;
}

async function openBackend(commandTimeout = 2_000): Promise<RedisBackend> {
  const backend = new RedisBackend(
    {
      connection: openCluster(),
      commandTimeout,
      prefix: 'lock',
      wakeUp: 'publish',
      application: undefined,
    },
    systemClock,
    new LockEmitter(),
  );
  closables.push(backend);
  expect(await backend.connect()).toEqual({ kind: 'connected' });
  return backend;
}

async function take(backend: RedisBackend, name: LockName): Promise<HeldToken & Granted> {
  const held = { name, token: randomUUID(), ttl: TTL };
  const notAfter = performance.now() + 2_000;
  const outcome = await backend.tryAcquire({ ...held, notAfter, place: undefined });
  if (outcome.kind !== 'granted') throw new Error(`Not granted: ${JSON.stringify(outcome)}`);
  return { ...held, ...outcome };
}

/** A name whose slot is kept by this master. */
async function nameAt(master: RedisServer): Promise<LockName> {
  for (let n = 0; ; n += 1) {
    const name = LockName.of('lock', `k${n} ${randomUUID()}`);
    if ((await nodes.masterOf(name.owner)) === master) return name;
  }
}

describe('The slot of a key', () => {
  it.each(['a', 'lock:{k}', 'lock:{k}:q', 'äöü', '{}x', 'a{b}{c}', '{', 'x{y', '123456789'])(
    'is what the server says: %s',
    async (key) => {
      expect(hashSlotOf(key)).toBe(await nodes.slotOf(key));
    },
  );
});

describe('While its slot moves, a lock', () => {
  it('is found where it has gone to', async () => {
    const backend = await openBackend();
    const [source, target] = (await nodes.masters()) as [RedisServer, RedisServer];
    const name = await nameAt(source);
    const held = await take(backend, name);
    await nodes.moveSlot(hashSlotOf(name.owner), target);
    expect(await backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
    expect(await backend.release({ ...held, lastFence: held.fencingToken, keepFor: 0 })).toEqual({
      kind: 'released',
    });
    const again = await take(backend, name);
    expect(again.fencingToken).toBeGreaterThan(held.fencingToken);
  });

  it('is prolonged all the time; taken and given back when the move is done, by calls that were made before', async () => {
    const backend = await openBackend();
    const [source, target] = (await nodes.masters()) as [RedisServer, RedisServer];
    const name = await nameAt(source);
    const held = await take(backend, name);
    const move = await nodes.beginMove(hashSlotOf(name.owner), target);
    expect(await backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
    let released = false;
    const releasing = backend
      .release({ ...held, lastFence: held.fencingToken, keepFor: 0 })
      .finally(() => (released = true));
    await move.keys();
    expect(await backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
    // The server doesn't know whether the keys that aren't there have moved already.
    expect(released).toBe(false);
    await move.finish();
    expect(await releasing).toEqual({ kind: 'released' });
  });

  it('is refused within the bound of the call where the move takes too long, and taken by nobody later', async () => {
    const backend = await openBackend();
    const [source, target] = (await nodes.masters()) as [RedisServer, RedisServer];
    const name = await nameAt(source);
    const move = await nodes.beginMove(hashSlotOf(name.owner), target);
    const start = performance.now();
    const asked = { name, token: randomUUID(), ttl: TTL, place: undefined };
    const outcome = await backend.tryAcquire({ ...asked, notAfter: start + 300 });
    expect(performance.now() - start).toBeLessThan(300 + 200);
    // By the last answer, or in the middle of one more try.
    expect(outcome.kind).toBe('unavailable');
    await move.finish();
    expect(await backend.query(name)).toMatchObject({ state: { held: [] } });
  });

  it('is given back by no release whose time was up while the move went on', async () => {
    const backend = await openBackend(300);
    const [source, target] = (await nodes.masters()) as [RedisServer, RedisServer];
    const name = await nameAt(source);
    const held = await take(backend, name);
    const release = (lease: HeldToken & Granted) =>
      backend.release({ ...lease, lastFence: lease.fencingToken, keepFor: 0 });
    // The target knows the script then: one that came late wouldn't be stopped by that.
    expect(await release(await take(backend, await nameAt(target)))).toEqual({ kind: 'released' });
    const move = await nodes.beginMove(hashSlotOf(name.owner), target);
    expect((await release(held)).kind).toBe('unavailable');
    await move.keys();
    await move.finish();
    // One that went on would try again within a tenth of that.
    const enough = performance.now() + 1_000;
    await eventually(() => performance.now() > enough);
    expect(await backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
  });
});

describe('Renewals of many leases', () => {
  it('leave in a few writes, and each has its own outcome', async () => {
    const backend = await openBackend();
    const names = Array.from({ length: 999 }, (_, n) => LockName.of('lock', `many ${n}`));
    const leases = await Promise.all(names.map((name) => take(backend, name)));
    const gone = leases[500] as (typeof leases)[number];
    await backend.release({ ...gone, lastFence: gone.fencingToken, keepFor: 0 });
    const renew = async (): Promise<number> => {
      const spies = ['_write', '_writev'].map((method) =>
        jest.spyOn(Socket.prototype as unknown as Record<string, () => void>, method),
      );
      const outcomes = await backend.extend(leases);
      expect(outcomes.map(({ kind }) => kind)).toEqual(
        leases.map((lease) => (lease === gone ? 'taken' : 'extended')),
      );
      const writes = spies.reduce((sum, { mock }) => sum + mock.calls.length, 0);
      for (const spy of spies) spy.mockRestore();
      return writes;
    };
    // The very first of all leaves at once, as a sole command should. Then each node has to be taught the script.
    expect(await renew()).toBeLessThanOrEqual(1 + 3 + 2 * 3);
    expect(await renew()).toBeLessThanOrEqual(1 + 3);
  });
});

describe('A deadline', () => {
  /** Says what it was told. */
  const source = 'return ARGV[1]';
  const sha1 = createHash('sha1').update(source).digest('hex');
  const script = new Script<[string], [notAfter: number], string>({
    name: 'deadline',
    deadlineAt: 0,
    source,
    sha1,
  });

  it('is told each node in its own time, also to one that a command was redirected to', async () => {
    const cluster = new ConnectionSource(openCluster(), 2_000);
    const connection = new Connection(cluster, 2_000, systemClock, new LockEmitter(), () => {});
    closables.push({ close: async () => connection.close() });
    await connection.connect();
    const told = async (name: LockName): Promise<number> => {
      const outcome = await connection.run(script, [name.owner], [0], performance.now() + 1_000);
      if (outcome.kind !== 'reply') throw new Error(`No reply: ${JSON.stringify(outcome)}`);
      return Number(outcome.reply) - Date.now();
    };
    const isRight = (deadline: number) => deadline > 0 && deadline <= 1_000 + 2;
    const [here, there] = (await nodes.masters()) as [RedisServer, RedisServer];
    const [stays, moves, asked] = [await nameAt(here), await nameAt(here), await nameAt(here)];
    expect([await told(stays), await told(await nameAt(there))].map(isRight)).toEqual([true, true]);
    // From now on, the clock of the first seems to be an hour ahead.
    const now = performance.now();
    connection.nodes?.clockOf(stays.owner)?.observe(Date.now() + 3_600_000, now, now);
    await nodes.moveSlot(hashSlotOf(moves.owner), there);
    const move = await nodes.beginMove(hashSlotOf(asked.owner), there);
    expect(await told(stays)).toBeGreaterThan(3_000_000);
    expect([await told(moves), await told(asked)].map(isRight)).toEqual([true, true]);
    await move.finish();
    expect(isRight(await told(asked))).toBe(true);
  });

  it('is told a node in the time of the server that is there now', async () => {
    // Its client is the same one also after the link was lost.
    const clusterNodeRetryStrategy = () => 20;
    const cluster = new ConnectionSource(openCluster({ clusterNodeRetryStrategy }), 2_000);
    const connection = new Connection(cluster, 2_000, systemClock, new LockEmitter(), () => {});
    closables.push({ close: async () => connection.close() });
    await connection.connect();
    const [node] = (await nodes.masters()) as [RedisServer];
    const { owner } = await nameAt(node);
    const told = async (): Promise<number | undefined> => {
      const outcome = await connection.run(script, [owner], [0], performance.now() + 1_000);
      return outcome.kind === 'reply' ? Number(outcome.reply) - Date.now() : undefined;
    };
    expect(await told()).toBeLessThanOrEqual(1_000 + 2);
    const now = performance.now();
    connection.nodes?.clockOf(owner)?.observe(Date.now() + 3_600_000, now, now);
    expect(await told()).toBeGreaterThan(3_000_000);
    await node.order('CLIENT', 'KILL', 'TYPE', 'normal');
    expect(await eventually(told)).toBeLessThanOrEqual(1_000 + 2);
  });
});
