/**
 * What other libraries of this kind get wrong. Each flaw that can apply to us has a test, named by its number in the
 * comparison of peers, that shows we don't have it.
 *
 * Model: one redis-server for the file, flushed between the tests; those that break the server or the network start
 * their own. The application's side is a real Nest application, a `Locker` of this process, or, where a process might
 * die of it, a replica in a process of its own.
 *
 * | flaw | what went wrong elsewhere | here |
 * |---|---|---|
 * | 1-9 | decorators and modules | below; in depth in test/e2e/nest-*.spec.ts |
 * | 8, ESM build | extensionless imports | test/package: the packed tarball in an ESM and in a CommonJS project |
 * | 9, per-key state | a map entry for each key for ever | leaks.spec.ts: nothing grows over 10,000 keys |
 * | 9, quorum options | `quorum` accepted and never used; two nodes mean one | no such option yet: it's refused (below) |
 * | 10-13, 15, 17-21, 23 | engines | below; faults in depth in faults-*.spec.ts |
 * | 14 | a tie of an even number of nodes hangs | can't apply: one Redis decides, there is nothing to tie |
 * | 16 | a retry is rejected by the parts of its own earlier try | no parts of a quorum; one's own lost reply: below |
 * | 17, timers | a timer left behind by `using` | leaks.spec.ts |
 * | 19, one frozen node of three | every call takes seconds | can't apply: one Redis; frozen: faults-server.spec.ts |
 * | 19, statistics | unbounded arrays | can't apply: none are kept, events are handed on |
 * | 20, semaphore | `PEXPIRE` of the whole set, eviction by the caller's timeout | no semaphore yet; for a mutex: below |
 * | 22, several keys | partial acquires, `releaseAll` races | can't apply: one key a call; ABBA by nesting: below |
 */
import 'reflect-metadata';

import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Get, Injectable, NotFoundException, Param } from '@nestjs/common';
import { Cron, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { Redis } from 'ioredis';

import { acquireScript } from '../../lib/core/redis/scripts.generated.js';
import {
  CurrentLock,
  DistributedLock,
  type Lock,
  LockConfigError,
  Locker,
  type LockerOptions,
  LockKeyError,
  LockLostError,
  LockTimeoutError,
  LockUnavailableError,
} from '../../lib/index.js';
import { eventually } from '../support/eventually.js';
import { NestApp } from '../support/nest-app.js';
import { recordOf } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import {
  COMMAND_TIMEOUT,
  lockerOptions,
  LONGEST_RECONNECT,
  Observer,
  SLACK,
} from './support/faults.js';
import { Replica } from './support/replica.js';

let server: RedisServer;
let observer: Observer;
let replica: Replica;
const open: Locker[] = [];

beforeAll(async () => {
  server = await RedisServer.start();
  observer = new Observer(server.url);
  replica = await Replica.start();
});

afterEach(async () => {
  await Promise.all(open.splice(0).map((locker) => locker.close()));
  await observer.redis.flushall();
});

afterAll(async () => {
  await replica.quit();
  observer[Symbol.dispose]();
  await server.stop();
});

/** A locker of this process, closed after the test. */
function newLocker(options: Partial<LockerOptions> = {}): Locker {
  const locker = new Locker(lockerOptions(server.url, options));
  open.push(locker);
  return locker;
}

/** How a call fails, and how long it takes to. */
async function failureOf(call: Promise<unknown>): Promise<{ error: unknown; took: number }> {
  const since = performance.now();
  try {
    await call;
  } catch (error) {
    return { error, took: performance.now() - since };
  }
  throw new Error('The call was expected to fail.');
}

/** Counts how many are inside at once. */
class Room {
  inside = 0;
  most = 0;

  async stay(ms: number): Promise<void> {
    this.inside += 1;
    this.most = Math.max(this.most, this.inside);
    await pause(ms);
    this.inside -= 1;
  }
}

@Controller()
class Shop {
  readonly room = new Room();
  readonly ran: string[] = [];

  @DistributedLock('route')
  @Get('above')
  async above(): Promise<string> {
    return 'answered';
  }

  @DistributedLock('job')
  @Cron('* * * * * *', { name: 'above' })
  async job(): Promise<void> {
    this.ran.push('job');
  }

  @Get('missing/:id')
  @DistributedLock('missing:{0}')
  async missing(@Param('id') _id: string): Promise<void> {
    throw new NotFoundException('no such order');
  }
}

@Injectable()
class Warehouse {
  readonly room = new Room();

  @DistributedLock('long', { ttl: 600 })
  async longerThanTtl(): Promise<string> {
    await this.room.stay(1_000);
    return 'done';
  }

  @DistributedLock('long', { ttl: 600, onBusy: 'throw' })
  async orThrow(): Promise<void> {}

  @DistributedLock('user:{0.user.id}')
  async byUser(_request: { user?: { id?: unknown } }): Promise<void> {
    await this.room.stay(0);
  }

  @DistributedLock('outer')
  async outer(): Promise<string> {
    return this.inner();
  }

  @DistributedLock('outer')
  async inner(): Promise<string> {
    return 'entered again';
  }

  @DistributedLock('lost', { ttl: 200, maxHold: 300 })
  async untilLost(@CurrentLock() lock?: Lock): Promise<unknown> {
    const { signal } = lock as Lock;
    await new Promise((resolve) => {
      signal.addEventListener('abort', resolve);
    });
    throw signal.reason;
  }
}

describe('Decorators and modules', () => {
  it('flaw 1: a job below @DistributedLock is scheduled, and a route below it answers', async () => {
    await using app = await NestApp.start({
      locks: lockerOptions(server.url),
      imports: [ScheduleModule.forRoot()],
      controllers: [Shop],
    });
    expect([...app.app.get(SchedulerRegistry).getCronJobs().keys()]).toEqual(['above']);
    await eventually(() => app.get(Shop).ran.includes('job'));
    const response = await app.fetch('/above');
    expect([response.status, await response.text()]).toEqual([200, 'answered']);
  });

  it("flaw 2: a handler's exception keeps its HTTP status", async () => {
    await using app = await NestApp.start({
      locks: lockerOptions(server.url),
      controllers: [Shop],
    });
    expect((await app.fetch('/missing/7')).status).toBe(404);
  });

  it('flaws 3 and 6: a method that works for longer than its ttl excludes the others, and keeps its result', async () => {
    await using app = await NestApp.start({
      locks: lockerOptions(server.url, { waitTimeout: '10s' }),
      providers: [Warehouse],
    });
    const warehouse = app.get(Warehouse);
    const calls = [1, 2, 3].map(() => warehouse.longerThanTtl());
    await eventually(() => observer.isTaken('long'));
    await expect(warehouse.orThrow()).rejects.toMatchObject({ code: 'LOCK_BUSY' });
    expect(await Promise.all(calls)).toEqual(['done', 'done', 'done']);
    expect(warehouse.room.most).toBe(1);
  });

  it('flaws 3 and 6: without Redis the boot does not hang, no process ends, and a call says that it is unavailable, not busy', async () => {
    await using down = await RedisServer.start();
    await down.kill();
    const since = performance.now();
    await using app = await NestApp.start({
      locks: lockerOptions(down.url),
      providers: [Warehouse],
    });
    expect(performance.now() - since).toBeLessThan(COMMAND_TIMEOUT + 2_000);
    await expect(app.get(Warehouse).orThrow()).rejects.toBeInstanceOf(LockUnavailableError);
  });

  it("flaw 4: a waiter that times out leaves the holder's lock alone, also within one process", async () => {
    const locker = newLocker();
    const lock = await locker.acquire('k');
    await expect(locker.acquire('k', { waitTimeout: 100 })).rejects.toBeInstanceOf(
      LockTimeoutError,
    );
    expect(await locker.tryAcquire('k')).toBeNull();
    expect(await newLocker().tryAcquire('k')).toBeNull();
    lock.assertHeld();
    // What the waiter left is cleaned up by now, and the release is awaited: the key is free when it's done.
    expect(await lock.release()).toBe('released');
    expect(await observer.isTaken('k')).toBe(false);
  });

  it.each([{}, { user: {} }, { user: { id: { nested: 1 } } }, { user: { id: null } }])(
    'flaw 5: a key from %j is an error, never one lock for all, and the method does not run',
    async (request) => {
      await using app = await NestApp.start({
        locks: lockerOptions(server.url),
        providers: [Warehouse],
      });
      await expect(app.get(Warehouse).byUser(request)).rejects.toBeInstanceOf(LockKeyError);
      expect(app.get(Warehouse).room.most).toBe(0);
    },
  );

  it('flaw 6: a method may call another on the same key', async () => {
    await using app = await NestApp.start({
      locks: lockerOptions(server.url),
      providers: [Warehouse],
    });
    expect(await app.get(Warehouse).outer()).toBe('entered again');
  });

  it("flaw 6: the settings of the application's client stay as they are", async () => {
    const own = new Redis(server.url, { retryStrategy: () => 77, commandTimeout: 5_000 });
    const { retryStrategy } = own.options;
    await (await newLocker({ connection: own }).acquire('k')).release();
    expect(own.options).toMatchObject({ retryStrategy, commandTimeout: 5_000 });
    expect(own.options.enableOfflineQueue).toBe(true);
    own.disconnect();
  });

  it('flaw 7: inside an outer lock, siblings on one inner key exclude each other, and none ends the lock of another', async () => {
    const locker = newLocker();
    const inner = new Room();
    await locker.using('outer', async () => {
      const sibling = () =>
        locker.using('inner', async (lock) => {
          await inner.stay(50);
          lock.assertHeld();
        });
      await Promise.all([sibling(), sibling(), sibling()]);
    });
    expect(inner.most).toBe(1);

    const again = new Room();
    await locker.using('outer', () =>
      Promise.all([1, 2, 3].map(() => locker.using('outer', () => again.stay(20)))),
    );
    expect(again.most).toBe(1);
  });

  it('flaw 7: what a call has started for all (timers, connections) is not inside its lock', async () => {
    const locker = newLocker();
    const inside: boolean[] = [];
    locker.on('renewed', () => {
      // Whoever armed the timer of the renewals, this listener works under nobody's lock.
      void locker.tryAcquire('a').then((lock) => inside.push(lock !== null));
    });
    await locker.using('a', () =>
      locker.using('b', { ttl: 150 }, () => eventually(() => inside.length > 1)),
    );
    expect(new Set(inside)).toEqual(new Set([false]));
  });

  it('flaw 7: the method itself learns that its lock is lost', async () => {
    await using app = await NestApp.start({
      locks: lockerOptions(server.url),
      providers: [Warehouse],
    });
    await expect(app.get(Warehouse).untilLost()).rejects.toMatchObject({
      code: 'LOCK_LOST',
      reason: 'max-hold',
    });
  });

  it.each(['', [], ['a', 7], undefined, null])(
    'flaw 8: with the key %j nothing runs unlocked',
    async (key) => {
      const locker = newLocker();
      let ran = false;
      const released: string[] = [];
      locker.on('released', (event) => released.push(event.key));
      const call = locker.using(key as string, () => {
        ran = true;
      });
      await expect(call).rejects.toBeInstanceOf(LockKeyError);
      expect([ran, released]).toEqual([false, []]);
    },
  );

  it('flaw 8: nobody is told of a release where nothing was held', async () => {
    const locker = newLocker();
    const told: string[] = [];
    locker.on('released', ({ key }) => told.push(key));
    const lock = await locker.acquire('k');
    await expect(locker.using('k', { onBusy: 'throw' }, () => {})).rejects.toMatchObject({
      code: 'LOCK_BUSY',
    });
    expect(await locker.using('k', { onBusy: 'skip' }, () => 'ran')).toBeUndefined();
    expect(told).toEqual([]);
    await lock.release();
    await lock.release();
    expect(told).toEqual(['k']);
  });

  it.each([{ quorum: 7 }, { nodes: [] }, { connection: ['redis://one', 'redis://two'] }])(
    'flaw 9: %j, which would have no effect, is refused',
    (options) => {
      const given = { ...lockerOptions(server.url), ...options } as LockerOptions;
      expect(() => new Locker(given)).toThrow(LockConfigError);
    },
  );

  it("flaw 9: closing lets holders finish, and leaves the application's client open", async () => {
    const own = new Redis(server.url);
    const locker = new Locker(lockerOptions(server.url, { connection: own, drainTimeout: '5s' }));
    let finished = false;
    const work = locker.using('k', async (lock) => {
      await pause(300);
      lock.assertHeld();
      finished = true;
    });
    await eventually(() => observer.isTaken('k'));
    await locker.close();
    expect(finished).toBe(true);
    await work;
    expect(await own.ping()).toBe('PONG');
    expect(own.status).toBe('ready');
    own.disconnect();
  });
});

describe('Engines', () => {
  it.each([400, 800, 1_250])(
    'flaw 10: a lock with a ttl of %i ms is renewed three times a ttl, not in a hot loop',
    async (ttl) => {
      const locker = newLocker({ ttl });
      const lock = await locker.acquire('k');
      await observer.redis.config('RESETSTAT');
      const since = performance.now();
      await pause(1_000);
      const beats = (performance.now() - since) / (ttl / 3);
      const scripts = (await observer.calls('evalsha')) + (await observer.calls('eval'));
      expect(scripts).toBeLessThanOrEqual(Math.ceil(beats) + 1);
      expect(lock.isHeld).toBe(true);
      await lock.release();
    },
  );

  it('flaw 11: a loss is told by the clock, while Redis still says nothing', async () => {
    await using frozen = await RedisServer.start();
    await using locker = await replica.open(lockerOptions(frozen.url));
    const lock = await locker.acquire('k', { ttl: 1_000 });
    frozen.pause();
    const loss = await lock.loss();
    expect(loss.reason).toBe('expired');
    expect(loss.at - lock.grantedAt).toBeLessThan(1_000 + 1_000 / 3 + SLACK);
    expect(await lock.state()).toBe('lost');
  });

  it('flaw 12: a renewal that Redis refuses ends the lock and not the process', async () => {
    await using own = await RedisServer.start();
    using admin = new Observer(own.url);
    await using watched = await Replica.start();
    const locker = await watched.open(lockerOptions(own.url, { ttl: 500 }));
    const lock = await locker.acquire('k');
    await admin.redis.acl('SETUSER', 'default', '-evalsha', '-eval');
    expect((await lock.loss()).reason).toBe('expired');
    expect(await locker.namesOfEvents()).toContain('jeopardy');
    await watched.quit();
  });

  it('flaw 13: with nothing listening, nothing answering, or answers that never come, a call ends within its bound', async () => {
    await using gone = await RedisServer.start();
    await gone.kill();
    await using mute = await TcpProxy.start(server.port);
    mute.hold();
    for (const url of [gone.url, mute.url]) {
      const locker = newLocker({ connection: url, waitTimeout: 300 });
      const calls = [
        () => locker.acquire('k'),
        () => locker.tryAcquire('k'),
        () => locker.inspect('k'),
        () => locker.using('k', () => {}),
      ];
      const failures = await Promise.all(calls.map((call) => failureOf(call())));
      for (const { error, took } of failures) {
        expect(error).toBeInstanceOf(LockUnavailableError);
        expect(took).toBeLessThan(300 + COMMAND_TIMEOUT + SLACK);
      }
    }
  });

  it('flaw 15: a lock that was waited for is valid for its whole ttl', async () => {
    const holder = newLocker();
    const lock = await holder.acquire('k');
    const waiting = newLocker().acquire('k', { ttl: 1_000, waitTimeout: 5_000, renew: false });
    await pause(1_200);
    await lock.release();
    const taken = await waiting;
    expect(taken.remaining).toBeGreaterThan(1_000 - SLACK);
    expect(taken.signal.aborted).toBe(false);
    await taken.release();
  });

  it('flaw 16: a try whose reply was lost does not block the next try of the same caller', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const locker = newLocker({ connection: proxy.url, ttl: 20_000 });
    await (await locker.acquire('warm')).release();
    proxy.onRequest = (bytes) => {
      if (!bytes.includes(acquireScript.sha1)) return 'pass';
      proxy.onRequest = () => 'pass';
      return 'cut-after-reply';
    };
    await expect(locker.acquire('k')).rejects.toBeInstanceOf(LockUnavailableError);
    const lock = await eventually(() => locker.acquire('k', { waitTimeout: 2_000 }), {
      timeout: LONGEST_RECONNECT + 4_000,
    });
    expect(await lock.release()).toBe('released');
  });

  it('flaw 17: `using` of a lock that was lost rejects at once with LockLostError', async () => {
    const locker = newLocker();
    let doneAt = 0;
    const call = locker.using('k', async (lock) => {
      await observer.redis.del('lock:{k}');
      await expect(lock.extend()).rejects.toBeInstanceOf(LockLostError);
      doneAt = performance.now();
      return 'result';
    });
    await expect(call).rejects.toBeInstanceOf(LockLostError);
    expect(performance.now() - doneAt).toBeLessThan(SLACK);
  });

  it("flaw 17: the work's own error comes through, lost lock or not, and so does its result when the release fails", async () => {
    const locker = newLocker();
    const own = new Error('my own');
    await expect(
      locker.using('k', async (lock) => {
        await observer.redis.del('lock:{k}');
        await lock.extend().catch(() => {});
        throw own;
      }),
    ).rejects.toBe(own);
    await expect(
      locker.using('k', () => {
        throw own;
      }),
    ).rejects.toBe(own);
    // Lost without anybody knowing: the release finds it gone.
    const result = locker.using('k', async () => {
      await observer.redis.del('lock:{k}');
      return 'result';
    });
    expect(await result).toBe('result');
  });

  it('flaw 18: a client on another database locks there, and is not moved', async () => {
    const own = new Redis(server.url, { db: 5 });
    const there = newLocker({ connection: own });
    const alsoThere = newLocker({ connection: `${server.url}/5` });
    const lock = await there.acquire('k');
    expect(await alsoThere.tryAcquire('k')).toBeNull();
    expect(await observer.redis.dbsize()).toBe(0);
    expect(await recordOf(own, 'lock:{k}')).toMatchObject({ state: 'h' });
    // Another database is another lock.
    const elsewhere = await newLocker().tryAcquire('k');
    expect(elsewhere?.isHeld).toBe(true);
    await lock.extend();
    expect(await lock.release()).toBe('released');
    expect(await recordOf(own, 'lock:{k}')).toMatchObject({ state: 'f' });
    own.disconnect();
  });

  it('flaw 19: an acquire that timed out leaves no orphan', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const locker = newLocker({ connection: proxy.url, ttl: 20_000 });
    await (await locker.acquire('warm')).release();
    proxy.hold('down');
    await observer.redis.config('RESETSTAT');
    await expect(locker.acquire('k', { waitTimeout: 100 })).rejects.toBeInstanceOf(
      LockUnavailableError,
    );
    // It ran: for a while somebody held the key who is no longer there.
    expect(await observer.calls('evalsha')).toBeGreaterThan(0);
    proxy.resume();
    await eventually(async () => !(await observer.isTaken('k')));
  });

  it('flaw 19: a server that has lost its scripts is sent them, again and again', async () => {
    const locker = newLocker();
    const released: string[] = [];
    for (let round = 0; round < 30; round += 1) {
      const lock = await locker.acquire(`k${round % 3}`);
      await observer.redis.script('FLUSH');
      released.push(await lock.release());
    }
    expect(new Set(released)).toEqual(new Set(['released']));
  });

  it("flaw 20: a caller's shorter ttl neither takes the key from its holder nor shortens its lease", async () => {
    const lock = await newLocker().acquire('k', { ttl: 10_000, renew: false });
    const rival = newLocker();
    await expect(rival.acquire('k', { ttl: 100, waitTimeout: 500 })).rejects.toBeInstanceOf(
      LockTimeoutError,
    );
    expect(await rival.tryAcquire('k', { ttl: 100 })).toBeNull();
    expect((await rival.inspect('k')).held[0]?.remaining).toBeGreaterThan(9_000);
    expect(await lock.release()).toBe('released');
  });

  it('flaw 20: 50 waiters cost a handful of commands, not thousands', async () => {
    const lock = await newLocker({ ttl: 10_000 }).acquire('k');
    const waiting = newLocker({ ttl: 10_000, waitTimeout: '20s' });
    const controls = Array.from({ length: 50 }, () => new AbortController());
    const calls = controls.map(({ signal }) => waiting.acquire('k', { signal }));
    await eventually(async () => (await observer.waiting('k')) === 1);
    await observer.redis.config('RESETSTAT');
    await pause(2_000);
    const scripts = (await observer.calls('evalsha')) + (await observer.calls('eval'));
    expect(scripts).toBeLessThan(5);
    for (const control of controls) control.abort();
    expect((await Promise.allSettled(calls)).every(({ status }) => status === 'rejected')).toBe(
      true,
    );
    await lock.release();
  });

  it('flaw 21: after a renewal that failed, the lock is renewed on, and so is the next of its name', async () => {
    await using proxy = await TcpProxy.start(server.port);
    const locker = newLocker({ connection: proxy.url, ttl: 2_000 });
    const events: string[] = [];
    for (const name of ['jeopardy', 'renewed', 'lost'] as const) {
      locker.on(name, () => events.push(name));
    }
    const lock = await locker.acquire('k');
    proxy.cutAll();
    await eventually(() => events.includes('renewed'), { timeout: 2_000 });
    expect(await lock.release()).toBe('released');
    events.length = 0;
    const next = await locker.acquire('k');
    await eventually(() => events.includes('renewed'), { timeout: 2_000 });
    expect(events).not.toContain('lost');
    expect(await next.release()).toBe('released');
  });

  it('flaw 21: no wake-up is missed, whenever the release comes', async () => {
    const [holder, waiter] = [newLocker({ ttl: 20_000 }), newLocker({ ttl: 20_000 })];
    const slowest = { wait: 0 };
    for (let round = 0; round < 60; round += 1) {
      const lock = await holder.acquire('k');
      const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
      // From before the waiter's first command up to after it is queued.
      await pause(round % 6);
      const since = performance.now();
      await lock.release();
      const taken = await waiting;
      slowest.wait = Math.max(slowest.wait, performance.now() - since);
      await taken.release();
    }
    // Of one that missed its wake-up, half a ttl would pass until it looks for itself.
    expect(slowest.wait).toBeLessThan(5_000);
  });

  it("flaw 21: one waiter's end does not silence the others", async () => {
    const holder = newLocker({ ttl: 20_000 });
    const waiter = newLocker({ ttl: 20_000, waitTimeout: '15s' });
    const [a, b] = await Promise.all([holder.acquire('a'), holder.acquire('b')]);
    const control = new AbortController();
    const quitting = waiter.acquire('a', { signal: control.signal });
    const [sameKey, otherKey] = [waiter.acquire('a'), waiter.acquire('b')];
    await eventually(async () => (await observer.waiting('b')) === 1);
    control.abort();
    await expect(quitting).rejects.toMatchObject({ name: 'AbortError' });
    const since = performance.now();
    await Promise.all([a.release(), b.release()]);
    await Promise.all([sameKey, otherKey]);
    expect(performance.now() - since).toBeLessThan(5_000);
  });

  it('flaw 22: locks taken in opposite order end by timeout, with an error that names both keys', async () => {
    const [one, other] = [newLocker(), newLocker()];
    let inside = 0;
    const both = async () => {
      inside += 1;
      await eventually(() => inside === 2);
    };
    const results = await Promise.allSettled([
      one.using('a', async () => {
        await both();
        await one.using('b', { waitTimeout: 500 }, () => {});
      }),
      other.using('b', async () => {
        await both();
        await other.using('a', { waitTimeout: 3_000 }, () => {});
      }),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled']);
    const { reason } = results[0] as PromiseRejectedResult;
    expect(reason).toBeInstanceOf(LockTimeoutError);
    expect(reason).toMatchObject({ key: 'b', heldKeys: ['a'] });
    expect((reason as Error).message).toMatch(/"b".*"a"/);
  });

  it('flaw 22: `using` rejects if the lock was lost, though the job has returned', async () => {
    const call = newLocker().using('k', { ttl: 200, renew: false }, () => pause(400));
    await expect(call).rejects.toMatchObject({ code: 'LOCK_LOST', reason: 'expired' });
  });

  it.each([250, 1_500.6, 10_000 / 3, '1.2345s', '0.5s'] as const)(
    'flaw 23: a ttl of %s is kept to the millisecond, also by a renewal',
    async (ttl) => {
      const ms = Math.round(typeof ttl === 'number' ? ttl : Number.parseFloat(ttl) * 1_000);
      const lock = await newLocker().acquire('k', { ttl, renew: false });
      const left = async () => (await newLocker().inspect('k')).held[0]?.remaining;
      const first = await left();
      await lock.extend();
      const renewed = await left();
      for (const remaining of [first, renewed]) {
        expect(remaining).toBeLessThanOrEqual(ms);
        expect(remaining).toBeGreaterThan(ms - 200);
      }
      expect(lock.remaining).toBeLessThanOrEqual(ms * 0.99);
      expect(await lock.release()).toBe('released');
    },
  );
});
