/**
 * `guard` and `replicas` over several independent nodes. Each node guards itself, so that one that has forgotten its leases says
 * nothing until all of them must have ended, which is what Redlock asks for as the delayed restart; the others go on meanwhile,
 * where they're a majority. And each has its own replicas confirm what it grants.
 *
 * Model: three nodes, a holder that is told nothing of a loss, and a rival of this process that asks the nodes that forgot.
 * Leases are long against what a test does meanwhile.
 */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { LockUnavailableError } from '../../lib/core/errors.js';
import type { LockEvents } from '../../lib/core/events.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { recordOf } from '../support/lock-keys.js';
import { RedisReplication } from '../support/redis-replication.js';
import { RedisServer } from '../support/redis-server.js';

const TTL = 2_000;
const GUARD = { longestTtl: 2_500 };
const TOLD_NOTHING = { wakeUp: 'poll' } as const;
const MARK = { noLockIsHeld: true } as const;

let servers: RedisServer[] = [];
const lockers: Locker[] = [];

beforeEach(async () => {
  servers = await RedisServer.startMany(3);
});

afterEach(async () => {
  await Promise.all(lockers.splice(0).map((locker) => locker.close()));
  await Promise.all(servers.map((server) => server.stop()));
});

async function open(options: Partial<LockerOptions> = {}): Promise<Locker> {
  const locker = new Locker({
    connection: servers.map(({ url }) => url),
    ttl: TTL,
    nodeTimeout: 500,
    drainTimeout: 1,
    ...options,
  });
  lockers.push(locker);
  await locker.connect();
  return locker;
}

function portOf(index: number): number {
  return (servers[index] as RedisServer).port;
}

/** As it's told. */
function addressOf(index: number): string {
  return `localhost:${portOf(index)}`;
}

/** These nodes forget everything, at once. */
async function restartEmpty(...which: number[]): Promise<void> {
  await Promise.all(
    which.map((index) => (servers[index] as RedisServer).restart({ keepData: false })),
  );
}

/** Of a try, as soon as the nodes that forgot can be asked again. */
async function refusedByGuards(locker: Locker, count: number): Promise<LockUnavailableError> {
  return eventually(async () => {
    const error = await locker.tryAcquire('k').catch((thrown: unknown) => thrown);
    if (!(error instanceof LockUnavailableError)) throw new Error('It was not refused.');
    const guarded = error.nodes?.filter(({ answer }) => answer === 'guard');
    return guarded?.length === count ? error : undefined;
  });
}

describe('a majority that comes back empty', () => {
  it('gives a key twice without a guard', async () => {
    const lock = await (await open(TOLD_NOTHING)).acquire('k', { renew: false });
    const rival = await open();
    await restartEmpty(0, 1);
    const second = await eventually(() => rival.tryAcquire('k').catch(() => null));
    expect([lock.isHeld, second.isHeld]).toEqual([true, true]);
  });

  it('with a guard, gives nothing before all leases must have ended, and each node says why', async () => {
    const holder = await open({ ...TOLD_NOTHING, guard: GUARD });
    await holder.initializeGuard(MARK);
    const rival = await open({ guard: GUARD });
    const told: LockEvents['guarded'][] = [];
    rival.on('guarded', (event) => told.push(event));
    const lock = await holder.acquire('k', { renew: false });
    await restartEmpty(0, 1);

    const error = await refusedByGuards(rival, 2);
    expect(error.reason).toBe('quorum');
    expect(error.nodes?.map(({ node, answer }) => [node, answer])).toEqual([
      [addressOf(0), 'guard'],
      [addressOf(1), 'guard'],
      [addressOf(2), 'busy'],
    ]);
    const [first, second, third] = error.nodes ?? [];
    // Of three, two can be asked as soon as the first of them can.
    expect(error.retryAfter).toBe(Math.min(first?.retryAfter ?? 0, second?.retryAfter ?? 0));
    expect(error.retryAfter).toBeLessThanOrEqual(GUARD.longestTtl * 1.01 + 1);
    expect(third?.holder).toContain(`process ${process.pid}`);
    expect(error.message).toMatch(
      new RegExp(`\\(for another \\d+ ms\\).*${addressOf(0)}: guard \\(for another \\d+ ms\\)`),
    );
    expect(told.map(({ node, why }) => [node, why]).toSorted()).toEqual(
      [
        [addressOf(0), 'no-record'],
        [addressOf(1), 'no-record'],
      ].toSorted(),
    );
    expect(lock.isHeld).toBe(true);

    // And it is given, once the first knows that it has lost it.
    const next = await eventually(() => rival.tryAcquire('k').catch(() => null), {
      timeout: 10_000,
    });
    expect([lock.isHeld, next.isHeld]).toEqual([false, true]);
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  });

  it.each([
    ['one key', 'k'],
    ['several keys', ['k', 'l']],
  ])('a caller who can wait for so long gets %s then', async (_what, wanted) => {
    const holder = await open({ ...TOLD_NOTHING, guard: GUARD });
    await holder.initializeGuard(MARK);
    const rival = await open({ guard: GUARD });
    const lock = await holder.acquire('k', { renew: false });
    await restartEmpty(0, 1);
    await refusedByGuards(rival, 2);
    const next = await rival.acquire(wanted, { waitTimeout: '10s' });
    expect([lock.isHeld, next.isHeld]).toEqual([false, true]);
  });

  it('those who wait meanwhile stand in line, and are served as they came', async () => {
    const holder = await open({ guard: GUARD });
    await holder.initializeGuard(MARK);
    const rivals = await Promise.all([1, 2, 3, 4].map(() => open({ guard: GUARD })));
    await restartEmpty(0, 1);
    await refusedByGuards(holder, 2);
    // At the nodes that say nothing, and at the one that would grant.
    const places = () =>
      Promise.all(
        servers.map(async (server) => Number((await server.order('ZCARD', 'lock:{k}:q')).slice(1))),
      );
    const served: number[] = [];
    const waiting = [];
    for (const [index, rival] of rivals.entries()) {
      const lock = rival.acquire('k', { waitTimeout: '20s' });
      waiting.push(
        lock.then(async (got) => {
          served.push(index);
          await got.release();
        }),
      );
      await eventually(async () => {
        const [first, second, third = 0] = await places();
        // The one that would grant keeps the key for the first of them.
        return first === index + 1 && second === index + 1 && third >= index;
      });
    }
    await Promise.all(waiting);
    expect(served).toEqual([0, 1, 2, 3]);
    await eventually(async () => (await places()).every((count) => count === 0));
  });
});

describe('one node that comes back empty', () => {
  it('says nothing, and the others go on without it', async () => {
    const locker = await open({ guard: GUARD });
    await locker.initializeGuard(MARK);
    const lock = await locker.acquire('k');
    await restartEmpty(2);
    const other = await eventually(() => locker.tryAcquire('other').catch(() => null));
    expect([lock.isHeld, other.isHeld]).toEqual([true, true]);
    // With another one gone, nobody is granted.
    await (servers[0] as RedisServer).kill();
    const error = await refusedByGuards(locker, 1);
    expect(error.nodes?.map(({ answer }) => answer)).toEqual(['unreachable', 'busy', 'guard']);
    // Then it's a majority with the one that is left.
    expect(error.retryAfter).toBe(error.nodes?.at(2)?.retryAfter);
  });
});

describe('initializeGuard', () => {
  it('lets every node grant from now on', async () => {
    const locker = await open({ guard: { longestTtl: '1h' } });
    await locker.initializeGuard(MARK);
    // Whichever is away, the other two grant.
    for (const away of servers) {
      away.pause();
      expect((await (await open({ guard: { longestTtl: '1h' } })).acquire(away.url)).isHeld).toBe(
        true,
      );
      away.resume();
    }
  });

  it('opens none of those that came back empty, where the others know of a lock', async () => {
    const holder = await open({ ...TOLD_NOTHING, guard: GUARD });
    await holder.initializeGuard(MARK);
    const lock = await holder.acquire('k', { renew: false });
    const rival = await open({ guard: GUARD });
    await restartEmpty(0, 1);
    await eventually(async () => {
      const error = await rival.initializeGuard(MARK).catch((thrown: unknown) => thrown);
      return (error as { code?: unknown }).code === 'LOCK_CONFIG';
    });
    await refusedByGuards(rival, 2);
    expect(lock.isHeld).toBe(true);
  });

  it('says which node could not be asked, and can be asked again', async () => {
    const locker = await open({ guard: { longestTtl: '1h' } });
    await (servers[1] as RedisServer).kill();
    await expect(locker.initializeGuard(MARK)).rejects.toMatchObject({
      reason: 'quorum',
      nodes: [
        { node: addressOf(0), answer: 'done' },
        { node: addressOf(1) },
        { node: addressOf(2), answer: 'done' },
      ],
    });
    await (servers[1] as RedisServer).restart({ keepData: false });
    await eventually(() =>
      locker.initializeGuard(MARK).then(
        () => true,
        () => false,
      ),
    );
    expect((await locker.acquire('k')).isHeld).toBe(true);
  });
});

it('a node whose replica lacks a grant has not granted it', async () => {
  const groups = await Promise.all([1, 2, 3].map(() => RedisReplication.start()));
  const masters = groups.map(({ master }) => new Redis(master.url));
  try {
    const connection = groups.map(({ master }) => master.url);
    const locker = await open({ connection, replicas: { atLeast: 1, timeout: 200 } });
    // A replica that is new takes up to a second until it confirms at once.
    await Promise.all(
      masters.map((master, index) =>
        eventually(async () => {
          await master.set('mark', index);
          return (await master.wait(1, 50)) === 1;
        }),
      ),
    );
    expect((await locker.acquire('all')).isHeld).toBe(true);
    const [first, second] = groups as [RedisReplication, RedisReplication, RedisReplication];
    await first.cutLink(first.server(1));
    expect((await locker.acquire('two of three')).isHeld).toBe(true);
    await second.cutLink(second.server(1));
    const error: unknown = await locker.tryAcquire('k').catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'LockUnavailableError', reason: 'quorum' });
    const { nodes = [] } = error as LockUnavailableError;
    expect(nodes.map(({ answer }) => answer)).toEqual(['replicas', 'replicas', 'granted']);
    // Undone everywhere, also where it was granted.
    for (const master of masters) {
      await eventually(async () => (await recordOf(master, 'lock:{k}'))?.state !== 'h');
    }
  } finally {
    for (const master of masters) master.disconnect();
    await Promise.all(groups.map((group) => group.stop()));
  }
});

describe('how safe it is', () => {
  it('without a guard, P1 is weakened by a restart; with it, nothing is left to be changed', async () => {
    const bare = await (await open()).diagnose();
    expect(bare.layout).toBe('quorum');
    expect(bare.servers).toHaveLength(3);
    expect(exclusionAfterRestart(bare)).toBe('weakened');
    const guarded = await (await open({ guard: GUARD })).diagnose();
    expect(exclusionAfterRestart(guarded)).toBe('holds');
    expect(guarded.level).toBe('strict');
  });

  it("safety 'strict' starts there, with the guard on by itself", async () => {
    const locker = await open({ safety: 'strict' });
    await locker.initializeGuard(MARK);
    expect((await locker.acquire('k')).isHeld).toBe(true);
  });

  it('a node that can not be asked is told as such', async () => {
    const locker = await open({ guard: GUARD });
    await (servers[1] as RedisServer).kill();
    const { servers: surveyed } = await eventually(async () => {
      const diagnosis = await locker.diagnose();
      return diagnosis.servers.some(({ kind }) => kind === 'unreachable') ? diagnosis : undefined;
    });
    expect(surveyed.map(({ kind, address }) => [kind, address])).toEqual([
      ['surveyed', `127.0.0.1:${portOf(0)}`],
      ['unreachable', addressOf(1)],
      ['surveyed', `127.0.0.1:${portOf(2)}`],
    ]);
  });

  it('where none can be asked, nothing is said of it, but what each answered', async () => {
    const locker = await open({ guard: GUARD });
    await Promise.all(servers.map((server) => server.kill()));
    const error = await eventually(async () => {
      const outcome: unknown = await locker.diagnose().catch((thrown: unknown) => thrown);
      return outcome instanceof LockUnavailableError ? outcome : undefined;
    });
    expect(error.nodes?.map(({ node }) => node)).toEqual([0, 1, 2].map(addressOf));
  });

  function exclusionAfterRestart({ verdicts }: Awaited<ReturnType<Locker['diagnose']>>) {
    return verdicts.find(({ promise, fault }) => promise === 'P1' && fault === 'server-restart')
      ?.verdict;
  }
});
