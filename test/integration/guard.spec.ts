/**
 * `guard`: P1 where a server has forgotten its leases: it restarts without its data, is flushed, or a replica is promoted that
 * doesn't have them.
 *
 * Model: a server (and a replica), and lockers of this process, each with connections of its own. The holder's renewals
 * can't save it: its record is gone. The rival asks the server that forgot. Leases are long against what a test does
 * meanwhile, so that "the first still believes" needs no luck.
 */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { LockEvents } from '../../lib/core/events.js';
import type { Lock } from '../../lib/core/lock.js';
import type { AcquireOptions, Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { recordOf } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { Opened } from './support/opened.js';
import { refusalOf } from './support/refusal.js';

const LONGEST = 2_500;
const TTL = 2_000;
const GUARD = { longestTtl: LONGEST };
/** Which part of the longest lease clocks may differ by. */
const MORATORIUM = LONGEST * 1.01;
const SLACK = 500;
/** One who is told nothing looks at nothing when its connection is back, and believes up to its deadline. */
const TOLD_NOTHING = { wakeUp: 'poll' } as const;
const MARK = { noLockIsHeld: true } as const;

let server: RedisServer;
const opened = new Opened();

beforeEach(async () => {
  server = await RedisServer.start({ args: ['--repl-diskless-sync-delay', '0'] });
});

afterEach(async () => {
  await opened.close();
  await server.stop();
});

function openLocker(options: Partial<LockerOptions> = {}): Locker {
  const defaults = { connection: server.url, commandTimeout: 800, ttl: TTL, waitTimeout: 1_000 };
  return opened.locker({ ...defaults, ...options });
}

/** On a server whose guard is open. */
async function openGuarded(options: Partial<LockerOptions> = {}): Promise<Locker> {
  const locker = openLocker({ guard: GUARD, ...options });
  await locker.initializeGuard(MARK);
  return locker;
}

/** Loses what the server knew; the connections may break. */
const LOSSES: [string, () => Promise<unknown>][] = [
  ['a crash and a restart without data', () => server.restart({ keepData: false })],
  ['FLUSHALL', () => server.command('FLUSHALL')],
];

const MODES: [string, (locker: Locker) => Promise<Lock | null>][] = [
  ['alone', (locker) => locker.acquire('k')],
  ['by a try', (locker) => locker.tryAcquire('k')],
  ['shared', (locker) => locker.acquire('k', { mode: 'shared' })],
  ['under a limit', (locker) => locker.acquire('k', { limit: 1 })],
  ['with another key', (locker) => locker.acquire(['k', 'l'])],
  ['with other keys, by a try', (locker) => locker.tryAcquire(['j', 'k'])],
];

describe.each(LOSSES)('after %s', (_what, loseData) => {
  it('a key is given twice without a guard', async () => {
    const lock = await openLocker(TOLD_NOTHING).acquire('k', { renew: false });
    await loseData();
    const second = await openLocker().acquire('k');
    // Both believe that they hold it alone.
    expect([lock.isHeld, second.isHeld]).toEqual([true, true]);
  });

  it.each(MODES)(
    'with a guard, nobody enters %s while the first may believe',
    async (_how, take) => {
      const lock = await (await openGuarded(TOLD_NOTHING)).acquire('k', { renew: false });
      const rival = openLocker({ guard: GUARD });
      await rival.connect();
      await loseData();
      const lostAt = performance.now();
      const error = await eventually(
        async () => {
          const refusal = await refusalOf(take(rival));
          return refusal.reason === 'guard' ? refusal : undefined;
        },
        { timeout: 2_000 },
      );
      // (The first may have learned of its loss already, by a look after its subscription was cut.)
      const since = performance.now() - lostAt;
      expect(error.retryAfter).toBeGreaterThan(MORATORIUM - since - SLACK);
      expect(error.retryAfter).toBeLessThanOrEqual(MORATORIUM + 1);
      expect(error.message).toMatch(/for another \d+ ms.*`retryAfter`/);

      // And it is given, once the first knows that it has lost it.
      const second = await eventually(() => take(rival).catch(() => null), { timeout: 10_000 });
      expect(lock.isHeld).toBe(false);
      expect(second?.isHeld).toBe(true);
      expect(performance.now() - lostAt).toBeGreaterThan(TTL);
    },
  );
});

describe('a moratorium', () => {
  it('begins once, however many ask, and ends by itself', async () => {
    const [one, other] = [await openGuarded(), openLocker({ guard: GUARD })];
    const events: [string, LockEvents['guarded']][] = [];
    one.on('guarded', (event) => events.push(['one', event]));
    other.on('guarded', (event) => events.push(['other', event]));
    await (await one.acquire('k')).release();
    await (await other.acquire('k')).release();
    await server.command('FLUSHALL');
    const keys = Array.from({ length: 20 }, (_, index) => `k${index}`);
    const errors = await Promise.all(
      keys.flatMap((key) => [refusalOf(one.tryAcquire(key)), refusalOf(other.tryAcquire(key))]),
    );
    expect(new Set(errors.map(({ reason }) => reason))).toEqual(new Set(['guard']));
    expect(events.map(([who]) => who).toSorted()).toEqual(['one', 'other']);
    for (const [, event] of events) {
      expect(event.why).toBe('no-record');
      expect(event.remaining).toBeGreaterThan(MORATORIUM - SLACK);
    }
    await eventually(() => one.tryAcquire('k').catch(() => null), { timeout: 10_000 });
    expect(events).toHaveLength(2);
  });

  it.each([
    ['alone', {}],
    ['shared', { mode: 'shared' }],
  ] as const)(
    'is waited for by one who has the time (%s), and by nobody else',
    async (_how, mode) => {
      const locker = await openGuarded();
      await (await locker.acquire('k')).release();
      await server.command('FLUSHALL');
      const askedAt = performance.now();
      const patient = locker.acquire('k', { waitTimeout: '20s', ...mode });
      const hasty = refusalOf(locker.acquire('k', { waitTimeout: '1s', ...mode }));
      expect((await hasty).reason).toBe('guard');
      // At once: to wait would have been in vain.
      expect(performance.now() - askedAt).toBeLessThan(SLACK);
      expect((await patient).isHeld).toBe(true);
      const took = performance.now() - askedAt;
      expect(took).toBeGreaterThan(MORATORIUM - 10);
      expect(took).toBeLessThan(MORATORIUM + 2 * SLACK);
    },
  );

  it('is waited for with several keys as well', async () => {
    const locker = await openGuarded();
    await server.command('FLUSHALL');
    const lock = await locker.acquire(['a', 'b'], { waitTimeout: '20s' });
    expect(lock.isHeld).toBe(true);
  });

  it('lets owners renew, extend, enter again and give back, after a restart with their records', async () => {
    await server.stop();
    server = await RedisServer.start({ persistence: 'aof' });
    const locker = await openGuarded({ commandTimeout: 400 });
    const [held, shared] = [
      await locker.acquire('k'),
      await locker.acquire('s', { mode: 'shared' }),
    ];
    await server.restart();
    const events: LockEvents['guarded'][] = [];
    locker.on('guarded', (event) => events.push(event));
    const error = await eventually(
      async () => {
        const refusal = await refusalOf(locker.tryAcquire('other'));
        return refusal.reason === 'guard' ? refusal : undefined;
      },
      { timeout: 2_500 },
    );
    expect(error.retryAfter).toBeGreaterThan(MORATORIUM - SLACK);
    expect(events).toMatchObject([{ why: 'other-server' }]);

    await held.extend();
    await shared.extend();
    const again = await locker.acquire('k', { within: held });
    await again.release();
    expect([held.isHeld, shared.isHeld]).toEqual([true, true]);
    expect([await held.release(), await shared.release()]).toEqual(['released', 'released']);
    // What they gave back isn't given anew either.
    expect(await refusalOf(locker.tryAcquire('k'))).toMatchObject({ reason: 'guard' });
  });

  it('is as long as the longest lease of all who use the server, and the lag', async () => {
    await (await openGuarded()).acquire('k');
    const longer = openLocker({ guard: { longestTtl: '20s', lag: '3s' } });
    await (await longer.acquire('l')).release();
    const client = opened.client(server);
    expect(await client.get('lock:guard')).toMatch(/^\w{40} 1 20000 3000 0 -$/);
    // The record is there, and another server's: what it says of the others still holds.
    await client.set('lock:guard', `${'0'.repeat(40)} 1 20000 0 0 -`);
    const shorter = openLocker({ guard: GUARD });
    const { retryAfter } = await refusalOf(shorter.tryAcquire('m'));
    expect(retryAfter).toBeGreaterThan(20_200 - SLACK);
    await client.set('lock:guard', `${'0'.repeat(40)} 1 20000 0 0 -`);
    expect((await refusalOf(longer.tryAcquire('m'))).retryAfter).toBeGreaterThan(23_200 - SLACK);
  });

  it('is so also where the record is lost, of which one who takes shorter leases knew', async () => {
    const shorter = await openGuarded();
    const longer = openLocker({ ...TOLD_NOTHING, guard: { longestTtl: '20s' } });
    const lock = await longer.acquire('k', { ttl: '20s', renew: false });
    await (await shorter.acquire('l')).release();
    await server.command('FLUSHALL');
    const { retryAfter } = await refusalOf(shorter.tryAcquire('k'));
    expect(lock.isHeld).toBe(true);
    expect(retryAfter).toBeGreaterThan(20_200 - SLACK);
  });

  it('goes on for longer where one comes who reckons with a longer lag', async () => {
    const locker = await openGuarded();
    await server.command('FLUSHALL');
    await refusalOf(locker.tryAcquire('k'));
    const careful = openLocker({ guard: { ...GUARD, lag: '3s' } });
    const { retryAfter } = await refusalOf(careful.tryAcquire('k'));
    expect(retryAfter).toBeGreaterThan(MORATORIUM + 3_000 - SLACK);
    // Once, however often they ask.
    expect((await refusalOf(locker.tryAcquire('k'))).retryAfter).toBeLessThanOrEqual(
      retryAfter as number,
    );
    expect((await refusalOf(careful.tryAcquire('k'))).retryAfter).toBeLessThanOrEqual(
      retryAfter as number,
    );
  });

  it('lasts no longer than a whole one where the clock was set back meanwhile', async () => {
    const locker = await openGuarded();
    await server.command('FLUSHALL');
    await refusalOf(locker.tryAcquire('k'));
    const client = opened.client(server);
    const record = ((await client.get('lock:guard')) as string).split(' ');
    // As it is after the clock was set back by an hour.
    await client.set('lock:guard', record.with(4, String(Number(record[4]) + 3_600_000)).join(' '));
    const { retryAfter } = await refusalOf(locker.tryAcquire('k'));
    expect(retryAfter).toBeLessThanOrEqual(MORATORIUM + 1);
    expect(retryAfter).toBeGreaterThan(MORATORIUM - SLACK);
    expect((await locker.acquire('k', { waitTimeout: '20s' })).isHeld).toBe(true);
  });

  it('begins where an old master is back: its data is older than what was seen', async () => {
    const locker = await openGuarded();
    await locker.acquire('k');
    const client = opened.client(server);
    const old = (await client.get('lock:guard')) as string;
    // Another master was in between, and had a moratorium: so the locker has seen its epoch.
    await client.set('lock:guard', old.replace(' 1 ', ' 2 '));
    await (await locker.acquire('l')).release();
    await client.set('lock:guard', old);
    const events: LockEvents['guarded'][] = [];
    locker.on('guarded', (event) => events.push(event));
    expect(await refusalOf(locker.tryAcquire('m'))).toMatchObject({ reason: 'guard' });
    expect(events).toMatchObject([{ why: 'older-data' }]);
    expect(await client.get('lock:guard')).toMatch(/^\w{40} 3 /);
  });
});

/** What there is of the key when the moratorium begins, which loses nothing here; who waits for it then, and how. */
const SITUATIONS: [string, (locker: Locker) => Promise<Lock | undefined>, AcquireOptions][] = [
  ['a key that nobody has held', async () => undefined, {}],
  [
    'a key that was given back',
    async (locker) => {
      await (await locker.acquire('k')).release();
      return undefined;
    },
    {},
  ],
  ['a key that is given back meanwhile', (locker) => locker.acquire('k'), {}],
  ['sharers of a key', async () => undefined, { limit: 1 }],
  [
    'sharers of one that is given back',
    (locker) => locker.acquire('k', { limit: 1 }),
    { limit: 1 },
  ],
];

describe.each(SITUATIONS)('in a moratorium, of %s', (_what, prepare, how) => {
  it('the waiters stand in line, and are served as they came', async () => {
    const holder = await openGuarded();
    const held = await prepare(holder);
    const lockers = Array.from({ length: 5 }, () => openLocker({ guard: GUARD }));
    await Promise.all(lockers.map((locker) => locker.connect()));
    const client = opened.client(server);
    await client.set('lock:guard', `${'0'.repeat(40)} 1 ${LONGEST} 0 0 -`);
    const pending = async () => (await holder.query('k'))[0]?.pending.length ?? 0;

    const served: number[] = [];
    const waiting = [];
    for (const [index, locker] of lockers.entries()) {
      const lock = locker.acquire('k', { waitTimeout: '20s', ...how });
      waiting.push(
        lock.then(async (got) => {
          served.push(index);
          await got.release();
        }),
      );
      await eventually(async () => (await pending()) === index + 1, { timeout: 1_000 });
    }
    // The first is handed the key, and may not take it; nothing stays reserved for one who stands in line again.
    const isFree = async () => (await recordOf(client, 'lock:{k}'))?.token === '-';
    await held?.release();
    await eventually(
      async () => held === undefined || ((await isFree()) && (await pending()) === 5),
      {
        timeout: 1_000,
      },
    );
    await Promise.all(waiting);
    expect(served).toEqual([0, 1, 2, 3, 4]);
    expect(await pending()).toBe(0);
  });
});

describe('runs of jobs', () => {
  it('are let in by the guard of their prefix, and leave no record of one of their own', async () => {
    const locker = await openGuarded();
    const options = { per: '1m', at: new Date(0) } as const;
    expect(await locker.runOnce('report', options, () => 1)).toMatchObject({ kind: 'ran' });
    expect(await opened.client(server).keys('*guard*')).toEqual(['lock:guard']);
  });

  it('do not begin during a moratorium', async () => {
    const locker = await openGuarded();
    await server.command('FLUSHALL');
    let ran = false;
    const call = locker.runOnce('report', { per: '1m' }, () => (ran = true));
    expect(await refusalOf(call)).toMatchObject({ reason: 'guard' });
    expect(ran).toBe(false);
  });
});

describe('a promoted replica', () => {
  async function withReplica(work: (replica: RedisServer) => Promise<void>): Promise<void> {
    const replica = await RedisServer.start({
      args: [
        ...['--replicaof', '127.0.0.1', String(server.port)],
        ...['--repl-diskless-sync-delay', '0'],
      ],
    });
    try {
      await eventually(async () => (await opened.client(server).wait(1, 50)) === 1, {
        timeout: 10_000,
      });
      await work(replica);
    } finally {
      await replica.stop();
    }
  }

  async function promote(replica: RedisServer): Promise<void> {
    await server.kill();
    await replica.command('REPLICAOF', 'NO', 'ONE');
  }

  it('gives a key twice that it never heard of, without a guard', async () => {
    await withReplica(async (replica) => {
      const locker = openLocker();
      await locker.connect();
      await replica.command('REPLICAOF', '127.0.0.1', '1');
      const lock = await locker.acquire('k', { renew: false });
      await promote(replica);
      const second = await openLocker({ connection: replica.url }).acquire('k');
      expect([lock.isHeld, second.isHeld]).toEqual([true, true]);
    });
  });

  it('gives nothing with a guard until the first knows, though it has the record of the guard', async () => {
    await withReplica(async (replica) => {
      const locker = await openGuarded();
      await (await locker.acquire('j')).release();
      await eventually(async () => opened.client(replica).get('lock:guard'));
      await replica.command('REPLICAOF', '127.0.0.1', '1');
      const lock = await locker.acquire('k', { renew: false });
      await promote(replica);
      const rival = openLocker({ connection: replica.url, guard: GUARD });
      const events: LockEvents['guarded'][] = [];
      rival.on('guarded', (event) => events.push(event));
      expect(await refusalOf(rival.tryAcquire('k'))).toMatchObject({ reason: 'guard' });
      expect(events).toMatchObject([{ why: 'other-server' }]);
      expect(lock.isHeld).toBe(true);
      const second = await rival.acquire('k', { waitTimeout: '20s' });
      expect([lock.isHeld, second.isHeld]).toEqual([false, true]);
    });
  });

  it('gives nothing either where it was the master before, and nobody asked the other for a lock', async () => {
    await withReplica(async (replica) => {
      const long = { guard: { longestTtl: '20s' }, ttl: '20s' } as const;
      const locker = await openGuarded({ ...TOLD_NOTHING, ...long });
      await eventually(async () => opened.client(replica).get('lock:guard'));
      const [first, second] = [opened.client(server), opened.client(replica)];
      await second.replicaof('NO', 'ONE');
      const lock = await locker.acquire('k', { renew: false });
      // It becomes the other's replica, and loses what the other never had.
      await first.replicaof('127.0.0.1', replica.port);
      await eventually(async () => (await first.exists('lock:{k}')) === 0, { timeout: 10_000 });
      await first.replicaof('NO', 'ONE');
      const rival = openLocker(long);
      expect(await refusalOf(rival.tryAcquire('k'))).toMatchObject({ reason: 'guard' });
      expect(lock.isHeld).toBe(true);
    });
  });
});

describe('without a loss', () => {
  it('SCRIPT FLUSH and a lost connection change nothing', async () => {
    const locker = await openGuarded();
    await (await locker.acquire('k')).release();
    await server.command('SCRIPT', 'FLUSH');
    await (await locker.acquire('k')).release();
    await server.command('CLIENT', 'KILL', 'TYPE', 'normal');
    const lock = await eventually(() => locker.tryAcquire('k').catch(() => null), {
      timeout: 3_000,
    });
    expect(lock?.isHeld).toBe(true);
  });

  it('a grant costs one command, and one read in its script', async () => {
    // The look at the leases that comes when the process begins to hear would be counted too.
    const locker = await openGuarded(TOLD_NOTHING);
    await (await locker.acquire('k')).release();
    await server.command('CONFIG', 'RESETSTAT');
    await locker.acquire('a');
    const stats = await opened.client(server).info('commandstats');
    const calls = (command: string) =>
      Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
    // One GET for the record of the lock, one for that of the guard; INFO is ours, from just above.
    expect([calls('evalsha'), calls('eval'), calls('get')]).toEqual([1, 0, 2]);
  });

  it('behind a proxy for its protocol, the server is asked each time', async () => {
    const locker = await openGuarded({ guard: { ...GUARD, proxied: true } });
    await (await locker.acquire('k')).release();
    await locker.acquire('k');
    // As if another server had come behind the same connection, a replica of this one.
    const client = opened.client(server);
    const [runId] = ((await client.get('lock:guard')) as string).split(' ') as [string];
    await server.restart({ keepData: false });
    await eventually(() => client.set('lock:guard', `${runId} 1 ${LONGEST} 0 0 -`), {
      timeout: 3_000,
    });
    const error = await eventually(
      async () => {
        const refusal = await refusalOf(locker.tryAcquire('l'));
        return refusal.reason === 'guard' ? refusal : undefined;
      },
      { timeout: 2_000 },
    );
    expect(error.retryAfter).toBeGreaterThan(MORATORIUM - SLACK);
  });
});

describe("a guard that can't be asked", () => {
  it('lets nobody in, and says why: INFO is forbidden', async () => {
    await server.command(
      ...['ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all', '-info'],
    );
    const url = server.url.replace('redis://', 'redis://app:secret@');
    const locker = openLocker({ connection: url, guard: GUARD });
    const error = await refusalOf(locker.acquire('k'));
    expect(error).toMatchObject({ reason: 'guard', retryAfter: undefined });
    expect(error.message).toMatch(/could not be found out.*`cause`.*INFO/);
    expect(String(error.cause)).toMatch(/user executing the script can't run|permission/);
  });

  it('works where the server is out of memory, as far as anything does', async () => {
    const locker = await openGuarded();
    const held = await locker.acquire('k');
    const client = opened.client(server);
    await client.config('SET', 'maxmemory', '1');
    await client.set('lock:guard', 'x').catch(() => {});
    await client.del('lock:guard');
    // The moratorium could be written down.
    expect((await refusalOf(locker.tryAcquire('l'))).retryAfter).toBeGreaterThan(0);
    await held.extend();
    expect(await held.release()).toBe('released');
  });
});

describe('initializeGuard', () => {
  it('opens a new server at once; without it, the first use waits', async () => {
    const waits = openLocker({ guard: GUARD, prefix: 'waits' });
    expect(await refusalOf(waits.tryAcquire('k'))).toMatchObject({ reason: 'guard' });
    const locker = openLocker({ guard: GUARD });
    expect(await locker.initializeGuard(MARK)).toBe('initialized');
    expect(await locker.initializeGuard(MARK)).toBe('present');
    expect((await locker.acquire('k')).isHeld).toBe(true);
    expect(await locker.initializeGuard({ ...MARK, prefix: 'other' })).toBe('initialized');
    expect((await locker.acquire('k', { prefix: 'other' })).isHeld).toBe(true);
  });

  it('never ends a moratorium', async () => {
    const locker = await openGuarded();
    await server.command('FLUSHALL');
    await refusalOf(locker.tryAcquire('k'));
    expect(await locker.initializeGuard(MARK)).toBe('present');
    expect(await refusalOf(locker.tryAcquire('k'))).toMatchObject({ reason: 'guard' });
  });

  it('refuses where there are locks, where nobody says it, and without a guard', async () => {
    const unguarded = openLocker();
    await unguarded.acquire('order:1');
    const locker = openLocker({ guard: GUARD });
    await expect(locker.initializeGuard(MARK)).rejects.toThrow(
      /no new installation: there are 1 locks or jobs under the prefix 'lock', such as "order:1"/,
    );
    await expect(locker.initializeGuard({} as never)).rejects.toMatchObject({
      option: 'noLockIsHeld',
    });
    await expect(unguarded.initializeGuard(MARK)).rejects.toMatchObject({ option: 'guard' });
    await unguarded.runOnce('report', { per: '1m', prefix: 'jobs' }, () => 1);
    await expect(locker.initializeGuard({ ...MARK, prefix: 'jobs' })).rejects.toThrow(/"report"/);
    expect(await opened.client(server).exists('lock:guard')).toBe(0);
  });
});
