/**
 * Locks behind Sentinel: a master, two replicas and three Sentinels, real processes all of them.
 *
 * What is promised: every kind of lock works as on a single server; a call during a failover ends in time, with a
 * LockUnavailableError where it can't be served; afterwards everything goes on by itself, with the locks that had reached
 * the new master. Locks that hadn't are lost with it, which its holder is told in time; that another may have got them
 * before is what `guard` and `replicas` are for.
 *
 * The tests share one deployment, whose master moves on from one to the next.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { LockUnavailableError } from '../../lib/core/errors.js';
import type { Lock } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockConnection, LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisSentinels } from '../support/redis-sentinel.js';
import type { RedisServer } from '../support/redis-server.js';
import { COMMAND_TIMEOUT, SLACK, WAIT_TIMEOUT } from './support/faults.js';
import { Patrol } from './support/patrol.js';

const LONG = 60_000;
/** Long enough that nobody looks for itself, or finds an expired lease, within a test. */
const LONG_TTL = 60_000;

let watched: RedisSentinels;
const open: { close(): unknown }[] = [];

function openLocker(more: Partial<LockerOptions> = {}): Locker {
  const locker = new Locker({
    connection: watched.connection,
    commandTimeout: COMMAND_TIMEOUT,
    waitTimeout: WAIT_TIMEOUT,
    drainTimeout: 1,
    ...more,
  });
  open.push(locker);
  return locker;
}

/** How many connections of clients a server has, beside the one that asks. */
async function clientsOf(server: RedisServer): Promise<number> {
  const list = await server.order('CLIENT', 'LIST');
  return list
    .split('\n')
    .filter((line) => line.includes('user=client') && !line.includes('cmd=client|list')).length;
}

beforeAll(async () => {
  watched = await RedisSentinels.start();
}, LONG);

afterAll(async () => {
  await watched.stop();
});

beforeEach(async () => {
  await Promise.all(watched.servers.map((server) => server.isRunning || server.restart()));
  await watched.inSync();
}, LONG);

afterEach(async () => {
  for (const each of open.splice(0).toReversed()) await each.close();
});

const connections: readonly { how: string; connection: () => LockConnection }[] = [
  { how: 'options with `sentinels` and `name`', connection: () => watched.connection },
  {
    how: "the application's own ioredis instance",
    connection: () => {
      const redis = new Redis(watched.connection);
      open.push({ close: () => redis.disconnect() });
      return redis;
    },
  },
  {
    how: "the application's own instance, which reads from replicas",
    connection: () => {
      const redis = new Redis({ ...watched.connection, role: 'slave' });
      redis.on('error', () => {});
      open.push({ close: () => redis.disconnect() });
      return redis;
    },
  },
];

describe.each(connections)('Connected by $how', ({ connection }) => {
  const pair = (): [Locker, Locker] => [
    openLocker({ connection: connection(), ttl: LONG_TTL }),
    openLocker({ connection: connection(), ttl: LONG_TTL }),
  ];

  it('exclusive: one holder, its token rises', async () => {
    const [one, other] = pair();
    const lock = await one.acquire('exclusive');
    expect(await other.tryAcquire('exclusive')).toBeNull();
    await lock.extend();
    expect(await lock.release()).toBe('released');
    const next = await other.acquire('exclusive');
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  });

  it('shared: readers together, a writer alone', async () => {
    const [one, other] = pair();
    const readers = [
      await one.acquire('shared', { mode: 'shared' }),
      await other.acquire('shared', { mode: 'shared' }),
    ];
    expect(await other.tryAcquire('shared')).toBeNull();
    await Promise.all(readers.map((reader) => reader.release()));
    await using writer = await other.acquire('shared');
    expect(writer.state).toBe('held');
    expect(await one.tryAcquire('shared', { mode: 'shared' })).toBeNull();
  });

  it('limit: so many holders and no more', async () => {
    const [one, other] = pair();
    const held = [
      await one.acquire('limit', { limit: 2 }),
      await other.acquire('limit', { limit: 2 }),
    ];
    expect(await one.tryAcquire('limit', { limit: 2 })).toBeNull();
    await held[0]?.release();
    expect(await one.tryAcquire('limit', { limit: 2 })).not.toBeNull();
  });

  it('several keys: all or none', async () => {
    const [one, other] = pair();
    const single = await one.acquire('second');
    expect(await other.tryAcquire(['first', 'second', 'third'])).toBeNull();
    await single.release();
    await using all = await other.acquire(['first', 'second', 'third']);
    expect(all.state).toBe('held');
    expect(await one.tryAcquire('third')).toBeNull();
  });

  it('waiters are woken, each kind: none would look for itself in time', async () => {
    const [one, other] = pair();
    for (const wanted of [{}, { mode: 'shared' as const }, { limit: 3 }]) {
      const key = `woken:${JSON.stringify(wanted)}`;
      const holder = await one.acquire(key, 'limit' in wanted ? { limit: 3 } : {});
      if ('limit' in wanted) for (let i = 0; i < 2; i += 1) await one.acquire(key, { limit: 3 });
      const waiting = other.acquire(key, { ...wanted, waitTimeout: '10s' });
      await eventually(async () => (await one.inspect(key)).pending.length === 1);
      await holder.release();
      await (await waiting).release();
    }
  });
});

describe('A planned failover', () => {
  it(
    'takes no lock from its holder, wakes who waits, and is over for callers when it is over',
    async () => {
      const holder = openLocker({ ttl: 6_000 });
      const waiter = openLocker({ ttl: LONG_TTL });
      const patrol = new Patrol(openLocker(), 'patrol');
      const lock = await holder.acquire('k');
      const waiting = waiter.acquire('k', { waitTimeout: '50s' });
      await eventually(async () => (await holder.inspect('k')).pending.length === 1);
      await watched.inSync();

      const from = performance.now();
      const old = await watched.elected();
      const elected = await watched.failover();
      const electedAt = performance.now();
      await eventually(() => patrol.hasSucceededSince(electedAt), { timeout: 10_000 });
      // Nobody has stayed at the old master, though it's up and none has told it yet.
      await eventually(async () => (await clientsOf(old)) === 0, { timeout: 5_000 });
      let renewed = 0;
      holder.on('renewed', () => (renewed += 1));
      await eventually(() => renewed > 0, { timeout: 10_000 });
      expect(lock.state).toBe('held');
      // A deadline is told to a server in its own time, so the new one was asked for it.
      expect((await elected.info('commandstats'))['cmdstat_time']).toBeDefined();

      await lock.release();
      const next = await waiting;
      expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
      await patrol.end();
      report('planned failover', patrol, from, electedAt);
      expectInTime(patrol);
      expectRising(patrol);
    },
    LONG,
  );
});

describe('The master is killed', () => {
  it(
    'calls fail in time and say why; the lock that was replicated stays its holder’s; all goes on by itself',
    async () => {
      const holder = openLocker({ ttl: 20_000 });
      const waiter = openLocker({ ttl: LONG_TTL });
      const patrol = new Patrol(openLocker(), 'patrol');
      const lock = await holder.acquire('k');
      const waiting = waiter.acquire('k', { waitTimeout: '50s' });
      await eventually(async () => (await holder.inspect('k')).pending.length === 1);
      await watched.inSync();

      const from = performance.now();
      await watched.killMaster();
      const electedAt = performance.now();
      await eventually(() => patrol.hasSucceededSince(electedAt), { timeout: 10_000 });
      await extended(lock);
      expect(lock.state).toBe('held');
      expect(await openLocker().tryAcquire('k')).toBeNull();
      await lock.release();
      const next = await waiting;
      expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
      await patrol.end();
      report('master killed', patrol, from, electedAt);
      expect(patrol.failures.length).toBeGreaterThan(0);
      for (const said of Object.keys(patrol.complaints)) {
        expect(said).toMatch(/^LOCK_UNAVAILABLE (unreachable|no-answer): /);
        expect(said).not.toContain('no cause');
      }
      expectInTime(patrol);
      expectRising(patrol);
    },
    LONG,
  );
});

describe('The master is cut off from the Sentinels, but not from its clients', () => {
  it(
    'they leave it for the new one as soon as that is elected, waiters included',
    async () => {
      const holder = openLocker({ ttl: LONG_TTL });
      const waiter = openLocker({ ttl: LONG_TTL });
      const patrol = new Patrol(openLocker(), 'patrol');
      const lock = await holder.acquire('k');
      const waiting = waiter.acquire('k', { waitTimeout: '50s' });
      await eventually(async () => (await holder.inspect('k')).pending.length === 1);
      await watched.inSync();

      const from = performance.now();
      const old = await watched.elected();
      const elected = await watched.isolateMaster();
      const electedAt = performance.now();
      // It would go on granting locks: it's up, and takes what it's given.
      expect(await old.order('SET', 'probe', '1')).toBe('+OK\r\n');
      await eventually(async () => (await clientsOf(old)) === 0, {
        timeout: 5_000,
        message: 'all clients have left the old master',
      });
      const leftAfter = performance.now() - electedAt;
      await eventually(() => patrol.hasSucceededSince(electedAt), { timeout: 10_000 });
      await using taken = await openLocker().acquire('taken after');
      expect(await elected.order('EXISTS', 'lock:{taken after}')).toBe(':1\r\n');
      expect(taken.state).toBe('held');
      await extended(lock);
      await lock.release();
      await (await waiting).release();
      await patrol.end();
      report('master isolated', patrol, from, electedAt);
      console.log(
        `  the last client left the old master ${leftAfter.toFixed(0)} ms after the election`,
      );
      expectInTime(patrol);

      await watched.rejoin(old);
      await eventually(async () => (await old.info('replication'))['role'] === 'slave', {
        timeout: 30_000,
      });
    },
    LONG,
  );
});

describe('Sentinels', () => {
  it('one that is frozen, the first in the list, keeps nobody from the master', async () => {
    const [first] = watched.sentinels as [RedisServer];
    first.pause();
    try {
      const locker = openLocker();
      await using lock = await eventually(() => locker.tryAcquire('frozen'), { timeout: 10_000 });
      expect(lock.state).toBe('held');
    } finally {
      first.resume();
    }
  });

  it('none that can be reached: the call says so, and what is connected goes on', async () => {
    const connected = openLocker();
    await connected.connect();
    for (const sentinel of watched.sentinels) sentinel.pause();
    try {
      await using lock = await connected.acquire('still');
      expect(lock.state).toBe('held');
      const from = performance.now();
      await expect(openLocker().acquire('new')).rejects.toBeInstanceOf(LockUnavailableError);
      expect(performance.now() - from).toBeLessThan(WAIT_TIMEOUT + COMMAND_TIMEOUT + SLACK);
    } finally {
      for (const sentinel of watched.sentinels) sentinel.resume();
    }
    await watched.elected();
  });
});

/** A holder's own connection comes back when it does, and not when another's has. */
async function extended(lock: Lock): Promise<void> {
  const extend = () =>
    lock.extend().then(
      () => true,
      () => false,
    );
  await eventually(extend, { timeout: 5_000, message: 'the holder reaches the new master' });
}

/** Every call ended by its own bound. */
function expectInTime(patrol: Patrol): void {
  expect(patrol.longestCall).toBeLessThan(WAIT_TIMEOUT + COMMAND_TIMEOUT + SLACK);
}

function expectRising({ fencingTokens }: Patrol): void {
  expect(fencingTokens).toEqual(fencingTokens.toSorted((a, b) => a - b));
  expect(new Set(fencingTokens).size).toBe(fencingTokens.length);
}

function report(what: string, patrol: Patrol, from: number, electedAt: number): void {
  const ms = (time: number) => `${time.toFixed(0)} ms`;
  console.log(
    [
      `${what}: a new master after ${ms(electedAt - from)}, the first lock ${ms(patrol.recoveredAfter(electedAt))} after that`,
      `  without a lock for ${ms(patrol.longestGap)}; the longest call took ${ms(patrol.longestCall)}`,
      ...Object.entries(patrol.complaints).map(([said, times]) => `  ${times} times: ${said}`),
    ].join('\n'),
  );
}
