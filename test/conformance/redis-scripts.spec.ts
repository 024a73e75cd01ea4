/**
 * What only the Redis backend has to promise: its keys and channels, its scripts, and how it connects.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import type { Access } from '../../lib/core/access.js';
import type { Granted, HeldToken } from '../../lib/core/backend/lock-backend.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { LockName } from '../../lib/core/lock-name.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockConnection, LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { keysInUse, recordOf } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const TTL = 10_000;

let server: RedisServer;
/** Looks at the server from outside. */
let client: Redis;
const closables: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  server = await RedisServer.start();
  client = new Redis(server.url);
});

afterAll(async () => {
  client.disconnect();
  await server.stop();
});

beforeEach(async () => {
  await client.flushall();
});

afterEach(async () => {
  await Promise.all(closables.splice(0).map((each) => each.close()));
});

function openBackend(connection: Exclude<LockConnection, 'memory'> = server.url): RedisBackend {
  const backend = new RedisBackend(
    {
      connection,
      commandTimeout: 1_000,
      prefix: 'lock',
      wakeUp: 'publish',
      application: undefined,
    },
    systemClock,
    new LockEmitter(),
  );
  closables.push(backend);
  return backend;
}

function openLocker(
  connection: LockConnection,
  options: Omit<LockerOptions, 'connection'> = {},
): Locker {
  const locker = new Locker({ connection, drainTimeout: 1, ...options });
  closables.push(locker);
  return locker;
}

/** The application's own instance. */
function openInstance(options: RedisOptions): Redis {
  const instance = new Redis({ port: server.port, ...options } as never);
  closables.push({ close: async () => instance.disconnect() });
  return instance;
}

async function take(
  backend: RedisBackend,
  name: LockName,
): Promise<HeldToken & { readonly lastFence: number }> {
  const held = { name, token: randomUUID(), ttl: TTL };
  const notAfter = performance.now() + 5_000;
  const outcome = await backend.tryAcquire({ ...held, notAfter, place: undefined });
  if (outcome.kind !== 'granted') throw new Error(`Not granted: ${JSON.stringify(outcome)}`);
  return { ...held, lastFence: outcome.fencingToken };
}

async function wait(backend: RedisBackend, name: LockName): Promise<HeldToken> {
  const held = { name, token: randomUUID(), ttl: TTL };
  const notAfter = performance.now() + 5_000;
  const place = { aliveFor: TTL, sequence: undefined };
  const outcome = await backend.tryAcquire({ ...held, notAfter, place });
  expect(outcome).toMatchObject({ kind: 'busy', sequence: expect.any(Number) });
  return held;
}

/** Every command that must come in time or do nothing, each to be sent now, with so many ms to arrive. */
function heldUp(
  name: LockName,
  within: number,
): ((backend: RedisBackend) => Promise<{ readonly kind: string }>)[] {
  const request = () => ({ token: randomUUID(), ttl: TTL, notAfter: performance.now() + within });
  const place = { aliveFor: TTL, sequence: undefined };
  const several = (access: Access, fencingToken?: number) => (backend: RedisBackend) => {
    const { token, ...rest } = request();
    const wanted = [{ name, token }];
    return backend.tryAcquireAll({ ...rest, wanted, access, fencingToken });
  };
  return [
    (backend) => backend.tryAcquire({ ...request(), name, place }),
    (backend) => backend.tryAcquire({ ...request(), name, place, access: 'shared' }),
    several('exclusive'),
    several('shared'),
    several('exclusive', 7),
    (backend) => backend.forceRelease({ ...request(), name, reason: undefined }),
  ];
}

/** A second caller waits until the first gives the lock back, in the processes of two lockers. */
async function expectHandOver(from: Locker, to: Locker, key = 'k'): Promise<void> {
  const lock = await from.acquire(key);
  let served = false;
  const next = to.acquire(key, { waitTimeout: '5s' }).then((got) => {
    served = true;
    return got;
  });
  await Promise.race([
    next,
    eventually(async () => (await from.inspect(key)).pending.length === 1, { message: 'it waits' }),
  ]);
  expect(served).toBe(false);
  expect(await lock.release()).toBe('released');
  const got = await next;
  expect(got.fencingToken).toBeGreaterThan(lock.fencingToken);
  expect(await got.release()).toBe('released');
}

describe('scripts', () => {
  it('run on a server that has never seen them, or has forgotten them', async () => {
    const [a, b] = [openBackend(), openBackend()];
    const name = LockName.of('lock', 'k');
    const flush = () => client.script('FLUSH');
    await flush();
    const held = await take(a, name);
    await flush();
    const waiter = await wait(b, name);
    await flush();
    expect(await a.query(name)).toMatchObject({ kind: 'found', state: { key: 'k' } });
    await flush();
    expect(await a.extend([held])).toMatchObject([{ kind: 'extended' }]);
    await flush();
    expect(await b.cancel(waiter)).toEqual({ kind: 'cancelled' });
    await flush();
    expect(await a.release({ ...held, keepFor: 0 })).toEqual({ kind: 'released' });
  });

  it('are sent once and then called by their digest', async () => {
    const backend = openBackend();
    const name = LockName.of('lock', 'k');
    const cycle = async () => backend.release({ ...(await take(backend, name)), keepFor: 0 });
    await client.script('FLUSH');
    await cycle();
    await client.config('RESETSTAT');
    for (let turn = 0; turn < 5; turn += 1) await cycle();
    const stats = await client.info('commandstats');
    const calls = (command: string): number =>
      Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
    // Two round trips for a lock that is free.
    expect([calls('evalsha'), calls('eval')]).toEqual([10, 0]);
  });

  it('take nothing and queue nobody when they were held up beyond `notAfter`', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const [slow, quick] = [openBackend(proxy.url), openBackend()];
    await slow.wakeUp.subscribe();
    const [free, taken] = [LockName.of('lock', 'free'), LockName.of('lock', 'taken')];
    // The server's clock is known, and the scripts are there.
    for (const each of heldUp(free, 1_000)) await each(slow);
    await client.flushall();
    const held = await take(quick, taken);
    proxy.hold('up');
    const fence = (backend: RedisBackend) =>
      backend.tryAcquireAll({
        wanted: [held],
        ...{ ttl: TTL, access: 'exclusive' as const, label: undefined },
        ...{ fencingToken: held.lastFence + 1, notAfter: performance.now() + 100 },
      });
    const late = [...heldUp(free, 100), ...heldUp(taken, 100), fence];
    const outcomes = await Promise.all(late.map((each) => each(slow)));
    // Nobody can know it yet.
    const unknown = { kind: 'unavailable', reason: 'no-answer', mayHaveRun: true };
    expect(outcomes).toMatchObject(late.map(() => unknown));
    await client.config('RESETSTAT');
    proxy.resume();
    const arrived = new RegExp(`cmdstat_evalsha:calls=${late.length}\\b`);
    await eventually(async () => arrived.test(await client.info('commandstats')), {
      message: 'all commands have arrived',
    });
    expect(await quick.extend([held])).toMatchObject([{ kind: 'extended' }]);
    expect(await quick.query(taken)).toMatchObject({
      state: { held: [{ fencingToken: held.lastFence }] },
    });
    expect(await keysInUse(client)).toEqual(['lock:{taken}']);
  });

  it.each<Access>(['exclusive', 'shared'])(
    'undo a grant (%s) that too few nodes gave, and queue nobody when that was held up',
    async (access) => {
      await using proxy = await TcpProxy.start(server.port);
      const [slow, quick] = [openBackend(proxy.url), openBackend()];
      const name = LockName.of('lock', 'k');
      const place = { aliveFor: TTL, sequence: Date.now() * 1_000 };
      const grant = async (): Promise<string> => {
        const token = randomUUID();
        const notAfter = performance.now() + 5_000;
        const asked = { name, token, ttl: TTL, access, notAfter, place: undefined };
        expect(await quick.tryAcquire(asked)).toMatchObject({ kind: 'granted' });
        return token;
      };
      const standBack = (token: string, within: number) =>
        slow.standBack({ name, token, access, place, notAfter: performance.now() + within });
      const left = async () => {
        const outcome = await quick.query(name);
        if (outcome.kind === 'unavailable') throw new Error(outcome.reason);
        return [outcome.state.held.length, outcome.state.pending.length];
      };
      // In time, it's first in line for what it has let go of; and the script is there.
      const token = await grant();
      await standBack(token, 5_000);
      await quick.cancel({ name, token });
      expect(await left()).toEqual([0, 0]);

      const late = await grant();
      proxy.hold('up');
      expect(await standBack(late, 100)).toMatchObject({ reason: 'no-answer' });
      proxy.resume();
      // What is asked behind it over the same connection is answered when it's done.
      await eventually(async () => (await slow.query(name)).kind === 'found');
      const next = await grant();
      proxy.hold('up');
      expect(await standBack(randomUUID(), 100)).toMatchObject({ reason: 'no-answer' });
      proxy.resume();
      await eventually(async () => (await slow.query(name)).kind === 'found');
      expect(await left()).toEqual([1, 0]);
      await quick.cancel({ name, token: next });
    },
  );

  it.each<Access>(['exclusive', 'shared'])(
    'give the fencing token that is asked for (%s), unless it is far ahead of the clock, or behind it',
    async (access) => {
      const backend = openBackend();
      const fenceFor = async (key: string, fenceFloor: number): Promise<number> => {
        const outcome = await backend.tryAcquire({
          ...{ name: LockName.of('lock', key), token: randomUUID(), ttl: TTL, access, fenceFloor },
          ...{ notAfter: performance.now() + 5_000, place: undefined },
        });
        return (outcome as Granted).fencingToken;
      };
      const now = Date.now() * 1_000;
      expect(await fenceFor('ahead', now + 900_000)).toBe(now + 900_000);
      const far = await fenceFor('far ahead', now + 3_600_000_000);
      expect(far).toBeGreaterThanOrEqual(now + 1_000_000);
      expect(far).toBeLessThanOrEqual((Date.now() + 1) * 1_000 + 1_000_000);
      const behind = await fenceFor('behind', now - 3_600_000_000);
      expect(behind).toBeGreaterThanOrEqual(now);
      expect(behind).toBeLessThanOrEqual((Date.now() + 1) * 1_000);
    },
  );

  it('give larger fencing tokens also where a record was evicted while others wait', async () => {
    const [a, b] = [openBackend(), openBackend()];
    await b.wakeUp.subscribe();
    const name = LockName.of('lock', 'evicted');
    const first = await take(a, name);
    const waiter = await wait(b, name);
    await client.del(name.owner);
    const next = await b.tryAcquire({
      ...waiter,
      notAfter: performance.now() + 5_000,
      place: { aliveFor: TTL, sequence: undefined },
    });
    expect(next.kind).toBe('granted');
    expect((next as Granted).fencingToken).toBeGreaterThan(first.lastFence);
  });

  it('still give locks back when the server is out of memory, and then take none', async () => {
    const [a, b] = [openBackend(), openBackend()];
    await b.wakeUp.subscribe();
    const names = ['free', 'wanted', 'kept', 'cancelled', 'renewed'].map((key) =>
      LockName.of('lock', key),
    );
    const leases = await Promise.all(names.map((name) => take(a, name)));
    type Taken = (typeof leases)[number];
    const [free, wanted, kept, cancelled, renewed] = leases as [Taken, Taken, Taken, Taken, Taken];
    const waiter = await wait(b, wanted.name);
    await client.config('SET', 'maxmemory', '1');
    try {
      expect(await a.extend([renewed])).toMatchObject([{ kind: 'extended' }]);
      expect(await a.release({ ...free, keepFor: 0 })).toEqual({ kind: 'released' });
      expect(await a.release({ ...wanted, keepFor: 0 })).toEqual({ kind: 'released' });
      expect(await a.release({ ...kept, keepFor: 5_000 })).toEqual({ kind: 'released' });
      expect(await a.cancel(cancelled)).toEqual({ kind: 'cancelled' });
      const notAfter = performance.now() + 1_000;
      expect(
        await a.tryAcquire({ ...free, token: randomUUID(), notAfter, place: undefined }),
      ).toMatchObject({ kind: 'unavailable', reason: 'refused' });
      expect((await keysInUse(client)).toSorted()).toEqual(
        [kept, renewed, wanted].map(({ name: { owner } }) => owner),
      );
      expect(await recordOf(client, wanted.name.owner)).toMatchObject({
        state: 'r',
        token: waiter.token,
      });
      expect(await recordOf(client, kept.name.owner)).toMatchObject({ state: 'k' });
    } finally {
      await client.config('SET', 'maxmemory', '0');
    }
  });

  it('renew, downgrade and give back what is shared when the server is out of memory', async () => {
    const backend = openBackend();
    const notAfter = performance.now() + 5_000;
    const takeAs = async (key: string, access: Access) => {
      const held = { name: LockName.of('lock', key), token: randomUUID(), ttl: TTL, access };
      const outcome = await backend.tryAcquire({ ...held, notAfter, place: undefined });
      expect(outcome).toMatchObject({ kind: 'granted' });
      return { ...held, lastFence: 0, fencingToken: (outcome as Granted).fencingToken };
    };
    const [renewed, kept, freed, alone] = [
      await takeAs('renewed', 'shared'),
      await takeAs('kept', 'limit:2'),
      await takeAs('freed', 'shared'),
      await takeAs('alone', 'exclusive'),
    ];
    await client.config('SET', 'maxmemory', '1');
    try {
      expect(await backend.extend([renewed])).toMatchObject([{ kind: 'extended' }]);
      expect(await backend.release({ ...kept, keepFor: 5_000 })).toEqual({ kind: 'released' });
      expect(await backend.release({ ...freed, keepFor: 0 })).toEqual({ kind: 'released' });
      expect(await backend.downgrade(alone)).toEqual({ kind: 'released' });
      expect((await keysInUse(client)).filter((key) => !/:[qw]$/.test(key)).toSorted()).toEqual(
        [alone, kept, renewed].map(({ name: { owner } }) => owner),
      );
    } finally {
      await client.config('SET', 'maxmemory', '0');
    }
  });

  it('answer "refused" for a key that holds something else', async () => {
    const backend = openBackend();
    const name = LockName.of('lock', 'k');
    await client.rpush(name.owner, 'x');
    const notAfter = performance.now() + 1_000;
    const request = { name, token: 't', ttl: TTL, notAfter, place: undefined };
    expect(await backend.tryAcquire(request)).toMatchObject({
      kind: 'unavailable',
      reason: 'refused',
      mayHaveRun: true,
    });
    expect(await backend.query(name)).toMatchObject({ kind: 'unavailable', reason: 'refused' });
  });

  it.each([
    ['its record was evicted', ['']],
    ['they were evicted', [':q', ':w']],
  ])('count on those who share a key also where %s', async (_what, evicted) => {
    const backend = openBackend();
    const request = () => ({ token: randomUUID(), ttl: TTL, notAfter: performance.now() + 5_000 });
    const several = (access: Access) => (name: LockName) =>
      backend.tryAcquireAll({
        ...request(),
        wanted: [{ name, token: randomUUID() }],
        ...{ access, fencingToken: undefined, label: undefined },
      });
    const alone = (access: Access) => (name: LockName) =>
      backend.tryAcquire({ ...request(), name, access, place: undefined });
    const asked = ['exclusive', 'limit:2'] as const;
    for (const ask of [...asked.map(alone), ...asked.map(several)]) {
      const name = LockName.of('lock', randomUUID());
      expect((await alone('limit:2')(name)).kind).toBe('granted');
      await client.del(...evicted.map((end) => name.owner + end));
      // How many there are isn't known any more: none enters, also where there would be a place.
      expect((await ask(name)).kind).toBe('busy');
    }
  });

  it('put a waiter behind those who are there also where the clock was set back', async () => {
    const [a, b] = [openBackend(), openBackend()];
    await b.wakeUp.subscribe();
    const name = LockName.of('lock', 'back');
    await take(a, name);
    const first = await wait(b, name);
    // It came an hour later by the clock of then.
    await client.zincrby(name.queue, 3_600_000_000, first.token);
    const second = await wait(b, name);
    expect(await client.zrange(name.queue, '0', '-1')).toEqual([first.token, second.token]);
  });

  it('that were refused half-way are undone when they can be', async () => {
    const name = LockName.of('lock', 'half-way');
    await client.set(name.waiters, 'of another application');
    const asked = openLocker(server.url, { ttl: '60s' }).tryAcquire(name.key, { mode: 'shared' });
    await expect(asked).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'refused' });
    expect(await client.exists(name.queue)).toBe(1);
    await client.del(name.waiters);
    await eventually(async () => (await client.exists(name.queue)) === 0);
  });

  it('treat a key that was set by hand as held by another, without end', async () => {
    const backend = openBackend();
    const name = LockName.of('lock', 'k');
    await client.set(name.owner, 'maintenance');
    const notAfter = performance.now() + 1_000;
    const request = { name, token: 't', ttl: TTL, notAfter, place: undefined };
    expect(await backend.tryAcquire(request)).toMatchObject({
      kind: 'busy',
      remaining: undefined,
    });
    expect(await backend.release({ ...request, lastFence: 0, keepFor: 0 })).toEqual({
      kind: 'taken',
    });
    await backend.cancel(request);
    expect(await client.get(name.owner)).toBe('maintenance');
    const error = await openLocker(server.url)
      .acquire('k', { onBusy: 'throw' })
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'LOCK_BUSY', remaining: undefined });
  });

  it.each([
    ['is cut off', '{"host":"h","pid":1'],
    ['is empty', ''],
    ['is null', 'null'],
    ['has no process', '{}'],
    ['has another type', '{"host":null,"pid":"1"}'],
  ])('show who holds a key as unknown where what is said of it %s', async (_, facts) => {
    const fence = Date.now() * 1_000;
    const ends = Date.now() + 60_000;
    const [alone, shared] = [LockName.of('lock', 'alone'), LockName.of('lock', 'shared')];
    await client.set(alone.owner, `h ${fence} ${ends} token ${facts}`, 'PX', 60_000);
    await client.set(shared.owner, `s ${fence} ${ends} shared `, 'PX', 60_000);
    await client.zadd(shared.queue, ends, 'token');
    await client.hset(shared.waiters, 'token', `h ${fence} ${facts}`);
    const locker = openLocker(server.url);
    const unknown = { fencingToken: fence, host: 'unknown', pid: 0, application: undefined };
    for (const [{ key }, access] of [
      [alone, 'exclusive'],
      [shared, 'shared'],
    ] as const) {
      const { held } = await locker.inspect(key);
      expect(held).toMatchObject([{ ...unknown, access, label: undefined, kept: false }]);
      expect(await locker.tryAcquire(key)).toBeNull();
      expect(await locker.forceRelease(key)).toMatchObject({ kind: 'released', held: [unknown] });
      expect(await (await locker.acquire(key, { onBusy: 'throw' })).release()).toBe('released');
    }
  });

  it('show a holder whose fencing token is no time that a date can tell', async () => {
    const name = LockName.of('lock', 'k');
    const record = `h 9${'0'.repeat(21)} ${Date.now() + 60_000} token {"host":"h","pid":1}`;
    await client.set(name.owner, record, 'PX', 60_000);
    const [holder] = (await openLocker(server.url).inspect('k')).held;
    expect(holder).toMatchObject({ host: 'h', pid: 1 });
    expect(holder?.since.toISOString()).toBe('+275760-09-13T00:00:00.000Z');
  });
});

describe('several keys', () => {
  it('of which one was lost at the server while the others were waited for: the call fails, and says which', async () => {
    const [locker, other] = [openLocker(server.url), openLocker(server.url)];
    const held = await other.acquire('b');
    const asked = locker
      .acquire(['a', 'b'], { waitTimeout: '10s' })
      .catch((error: unknown) => error);
    await eventually(async () => (await locker.inspect('a')).held.length === 1);
    await client.del('lock:{a}');
    await held.release();
    const error = (await asked) as { cause: unknown };
    expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    expect(error.cause).toMatchObject({ code: 'LOCK_LOST', key: 'a', reason: 'taken' });
  });
});

describe('keys', () => {
  it('of a name share one slot of a Cluster', async () => {
    await using node = await RedisServer.start({ kind: 'cluster-node' });
    const cluster = openInstance({ port: node.port });
    const slotOf = (key: string): Promise<unknown> => cluster.cluster('KEYSLOT', key);
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('', 'app:', '{app}:'),
        fc.stringMatching(/^[^{}\s]{1,20}$/),
        fc
          .string({ minLength: 1, maxLength: 40, unit: 'grapheme' })
          .filter((key) => key.isWellFormed()),
        async (keyPrefix, prefix, key) => {
          fc.pre(prefix.isWellFormed());
          const { owner, queue, waiters } = LockName.of(prefix, key);
          const keys = [owner, queue, waiters].map((each) => keyPrefix + each);
          expect(new Set(await Promise.all(keys.map(slotOf))).size).toBe(1);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('and their channels begin with the `keyPrefix` of the application', async () => {
    for (const connection of [
      { port: server.port, keyPrefix: 'app:' },
      openInstance({ keyPrefix: 'app:', lazyConnect: true }),
      `${server.url}?keyPrefix=app:`,
    ]) {
      const [a, b] = [openBackend(connection), openBackend(connection)];
      await b.wakeUp.subscribe();
      const name = LockName.of('lock', 'k');
      const held = await take(a, name);
      const woken: unknown[] = [];
      b.wakeUp.onWake((message) => woken.push(message));
      const waiter = await wait(b, name);
      const keys = (await client.keys('*')).toSorted();
      expect(keys).toEqual(['app:lock:{k}', 'app:lock:{k}:q', 'app:lock:{k}:w']);
      const channels = (await client.pubsub('CHANNELS')) as string[];
      expect(channels).toEqual([expect.stringMatching(/^app:lock:wake:/)]);
      await a.release({ ...held, keepFor: 0 });
      await eventually(() => woken.length > 0, { message: 'the waiter is woken' });
      expect(woken).toEqual([{ kind: 'woken', token: waiter.token, within: 0 }]);
      await b.close();
      await eventually(async () => ((await client.pubsub('CHANNELS')) as string[]).length === 0);
      await client.flushall();
    }
  });

  it('are in the database that was selected', async () => {
    for (const connection of [
      { port: server.port, db: 5 },
      `${server.url}/5`,
      openInstance({ db: 5, lazyConnect: true }),
    ]) {
      const backend = openBackend(connection);
      await take(backend, LockName.of('lock', 'k'));
      expect(await client.dbsize()).toBe(0);
      await client.select(5);
      expect((await client.keys('*')).toSorted()).toEqual(['lock:{k}']);
      await client.flushdb();
      await client.select(0);
    }
  });
});

describe('connections', () => {
  it('send the first command of a step at once, and those that follow when it ends, in one write', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const backend = openBackend(proxy.url);
    const names = Array.from({ length: 10 }, (_, n) => LockName.of('lock', `k${n}`));
    await take(backend, names[0] as LockName);
    const writes: number[] = [];
    proxy.onRequest = (bytes) => {
      writes.push(bytes.toString('latin1').split('evalsha').length - 1);
      return 'pass';
    };
    await Promise.all(names.slice(1).map((name) => take(backend, name)));
    expect(writes.reduce((a, b) => a + b)).toBe(9);
    // The proxy may read them in one piece, as TCP has no messages.
    expect(writes.length).toBeLessThanOrEqual(2);
  });

  it('to a Cluster send no command again whose connection was cut: what it may have taken is given back', async () => {
    await using node = await RedisServer.start({
      kind: 'cluster-node',
    });
    await using proxy = await TcpProxy.start(node.port);
    const direct = openInstance({ port: node.port });
    await direct.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383');
    await eventually(async () => String(await direct.cluster('INFO')).includes('cluster_state:ok'));
    const cluster = new Cluster([{ host: '127.0.0.1', port: proxy.port }], {
      // All nodes are reached through the proxy.
      natMap: { [`127.0.0.1:${node.port}`]: { host: '127.0.0.1', port: proxy.port } },
    });
    cluster.on('error', () => {});
    closables.push({ close: async () => cluster.disconnect() });
    const locker = openLocker(cluster, { ttl: '20s' });
    await locker.connect();
    await (await locker.acquire('warm')).release();
    const held = await locker.acquire('held');

    let cut = 0;
    proxy.onReply = (bytes) => {
      if (cut === 2 || !/^[$:]/.test(bytes.toString('latin1'))) return 'pass';
      cut += 1;
      return 'cut';
    };
    const error = await locker.tryAcquire('k').catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    await eventually(async () => (await recordOf(direct, 'lock:{k}'))?.state === 'f', {
      timeout: 5_000,
      message: 'what it had taken is given back long before its ttl',
    });
    const events: string[] = [];
    locker.on('lost', ({ reason }) => events.push(reason));
    // The clean-up's own reply was cut too: a command that could not be sent at all would prove nothing here.
    await eventually(
      async () => (await locker.inspect('held').catch(() => undefined)) !== undefined,
    );
    cut = 1;
    expect(await held.release()).toBe('unconfirmed');
    expect([cut, events]).toEqual([2, []]);
  });

  it('ask for the time anew where they are new: another server may be there now', async () => {
    const backend = openBackend();
    await take(backend, LockName.of('lock', 'before'));
    const asked = async () =>
      Number(/cmdstat_time:calls=(\d+)/.exec(await client.info('commandstats'))?.[1] ?? 0);
    await client.config('RESETSTAT');
    await take(backend, LockName.of('lock', 'known'));
    // (The scripts themselves ask for it, by the same command.)
    const usual = await asked();
    await client.call('CLIENT', 'KILL', 'TYPE', 'normal');
    await client.config('RESETSTAT');
    await eventually(() => take(backend, LockName.of('lock', 'anew')).catch(() => undefined));
    expect(await asked()).toBe(usual + 1);
  });

  it('are made from a URL, from options and from an instance, and closed with the backend', async () => {
    const instance = openInstance({});
    await instance.ping();
    const before = await connectionCount();
    for (const connection of [server.url, { port: server.port }, instance]) {
      const [a, b] = [openLocker(connection), openLocker(connection)];
      await expectHandOver(a, b);
      // Each has one for commands, and one on which it's told what concerns it as a holder or as a waiter.
      expect(await connectionCount()).toBe(before + 4);
      await Promise.all([a.close(), b.close()]);
      await eventually(async () => (await connectionCount()) === before, {
        message: 'all of ours are closed',
      });
    }
  });

  it("leave the caller's instance as it is", async () => {
    const instance = openInstance({ keyPrefix: 'app:' });
    await instance.ping();
    const seen = () => ({
      status: instance.status,
      mode: instance.mode,
      options: { ...instance.options },
      listeners: instance.eventNames().map((event) => [event, instance.listenerCount(event)]),
    });
    const before = seen();
    const [a, b] = [openLocker(instance), openLocker(instance)];
    await expectHandOver(a, b);
    expect(seen()).toEqual(before);
    await Promise.all([a.close(), b.close()]);
    expect(seen()).toEqual(before);
    expect(await instance.ping()).toBe('PONG');
  });

  it("are safe whatever the caller's settings are", async () => {
    const instance = openInstance({
      lazyConnect: true,
      enableOfflineQueue: true,
      enableAutoPipelining: true,
      stringNumbers: true,
      maxRetriesPerRequest: null,
      retryStrategy: () => null,
      readOnly: true,
      protocol: 3,
      replyMapping: 'resp3',
    });
    const [a, b] = [openLocker(instance), openLocker(instance)];
    await expectHandOver(a, b);
    expect(instance.status).toBe('wait');
  });

  it('listen again after a SUBSCRIBE that was answered late', async () => {
    await using proxy = await TcpProxy.start(server.port);
    let held = 0;
    proxy.onRequest = (bytes) => {
      if (!bytes.toString().toLowerCase().includes('subscribe') || held > 0) return 'pass';
      held += 1;
      return 'hold';
    };
    const backend = openBackend(proxy.url);
    await backend.wakeUp.subscribe();
    expect([held, backend.wakeUp.listening]).toEqual([1, false]);
    proxy.resume();
    await eventually(() => backend.wakeUp.listening, { timeout: 3_000, message: 'it listens' });
  });

  it('listen again after they were cut, and let every waiter look', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const backend = openBackend(proxy.url);
    await backend.wakeUp.subscribe();
    expect(backend.wakeUp.listening).toBe(true);
    const woken: unknown[] = [];
    backend.wakeUp.onWake((message) => woken.push(message));
    proxy.cutAll();
    await eventually(() => !backend.wakeUp.listening);
    await eventually(() => backend.wakeUp.listening);
    expect(woken).toEqual([{ kind: 'listening' }]);
  });

  it('find out when asked that their link is dead, though nobody has closed it', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const backend = openBackend(proxy.url);
    await backend.wakeUp.subscribe();
    const woken: unknown[] = [];
    backend.wakeUp.onWake((message) => woken.push(message));
    // A link that is alive stays as it is.
    const { connections } = proxy;
    backend.wakeUp.check();
    await backend.query(LockName.of('lock', 'k'));
    expect([backend.wakeUp.listening, proxy.connections]).toEqual([true, connections]);
    let held = 0;
    proxy.onRequest = (bytes) => {
      if (!bytes.toString().toLowerCase().includes('ping') || held > 0) return 'pass';
      held += 1;
      return 'hold';
    };
    backend.wakeUp.check();
    backend.wakeUp.check();
    await eventually(() => woken.length > 0, { timeout: 3_000, message: 'it listens anew' });
    expect([held, woken, backend.wakeUp.listening]).toEqual([1, [{ kind: 'listening' }], true]);
  });

  it('end a first call over a slow network within waitTimeout and one commandTimeout', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const locker = openLocker(proxy.url, { commandTimeout: 500 });
    await locker.connect();
    // Every command takes a little less than its timeout.
    proxy.delay(400, 'down');
    const start = performance.now();
    const outcome = await locker.acquire('k', { waitTimeout: 50 }).then(
      () => 'granted',
      (error: unknown) => error,
    );
    expect(performance.now() - start).toBeLessThan(50 + 500 + 100);
    expect(outcome).toBeDefined();
  });

  async function connectionCount(): Promise<number> {
    return ((await client.client('LIST')) as string).trim().split('\n').length;
  }
});

describe('a user with few rights', () => {
  const COMMANDS = ['+@all', '-@dangerous', '+info', '+client'];

  async function createUser(name: string, ...rules: string[]): Promise<string> {
    await client.call('ACL', 'SETUSER', name, 'reset', 'on', '>secret', '~lock:*', ...rules);
    return server.url.replace('redis://', `redis://${name}:secret@`);
  }

  it('needs only these: the keys and channels of its prefix', async () => {
    const url = await createUser('lean', '&lock:wake:*', ...COMMANDS);
    await expectHandOver(openLocker(url), openLocker(url));
  });

  it.each([
    ['the command', ['&*', ...COMMANDS, '-publish']],
    ['the channel', ['resetchannels', ...COMMANDS]],
  ])(
    'that may not PUBLISH (%s) takes and gives back; waiters get the lock all the same',
    async (_what, rules) => {
      const url = await createUser('mute', ...rules);
      const mute = openLocker(url);
      const listening = openLocker(server.url, { ttl: '2s' });
      // Its waiter listens, but isn't told: it looks for itself.
      await expectHandOver(mute, listening);
      await expectHandOver(listening, mute);
      await expectHandOver(mute, openLocker(url));
    },
  );

  it.each([
    ['the command', ['&*', ...COMMANDS, '-subscribe']],
    ['the channel', ['resetchannels', ...COMMANDS]],
  ])('that may not SUBSCRIBE (%s) waits by polling', async (_what, rules) => {
    const url = await createUser('deaf', ...rules);
    const [holder, waiter] = [openLocker(server.url), openLocker(url)];
    await expectHandOver(holder, waiter);
    // Once refused, it's known.
    const start = performance.now();
    await expectHandOver(holder, waiter, 'another');
    expect(performance.now() - start).toBeLessThan(1_500);
  });

  it('that may not run scripts is told so', async () => {
    const url = await createUser('poor', '+@all', '-@scripting');
    const outcome = await openLocker(url)
      .acquire('k')
      .catch((error: unknown) => error);
    expect(outcome).toMatchObject({
      code: 'LOCK_UNAVAILABLE',
      reason: 'refused',
      cause: expect.objectContaining({ message: expect.stringContaining('NOPERM') }),
    });
  });
});
