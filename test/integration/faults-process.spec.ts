/**
 * P1, P2, P5, P6, P7 when a process of the application fails: killed, stopped, its event loop blocked, its wall clock
 * wrong.
 *
 * Model: each replica is a process of its own, on one redis-server. Those that a test kills or stops are started by
 * the test; the others live for the whole file. Waiters enter the queue one by one, so that their order is known.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { FENCE_RANGE } from '../../lib/core/backend/lock-backend.js';
import { eventually } from '../support/eventually.js';
import { freeRecord } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import {
  CLAIM_WINDOW,
  COMMAND_TIMEOUT,
  lockerOptions,
  Observer,
  SLACK,
  TTL,
} from './support/faults.js';
import { monotonic, type RemoteLock, type RemoteLocker, Replica } from './support/replica.js';

/** Long: what must not take as long as a ttl is told apart from what may. */
const LONG_TTL = 20_000;
const LONG_WAIT = { waitTimeout: 20_000 };

let server: RedisServer;
let observer: Observer;
let one: Replica;
let other: Replica;

beforeAll(async () => {
  server = await RedisServer.start();
  observer = new Observer(server.url);
  [one, other] = (await Replica.startMany(2)) as [Replica, Replica];
});

afterEach(async () => {
  expect([await one.warnings(), await other.warnings()]).toEqual([[], []]);
  await observer.redis.flushall();
});

afterAll(async () => {
  await Promise.all([one.quit(), other.quit()]);
  observer[Symbol.dispose]();
  await server.stop();
});

/** Begins to wait for `k`, and comes back when it stands in the queue. */
async function queueUp(
  locker: RemoteLocker,
  options = LONG_WAIT,
): Promise<{ granted: Promise<RemoteLock> }> {
  const before = await observer.waiting('k');
  const granted = locker.acquire('k', options);
  granted.catch(() => {});
  await eventually(async () => (await observer.waiting('k')) === before + 1);
  return { granted };
}

/** The server's numbers of all connections that are open. */
async function clientIds(): Promise<string[]> {
  const clients = (await observer.redis.client('LIST')) as string;
  return [...clients.matchAll(/^id=(\d+)/gm)].map(([, id = '']) => id).toSorted();
}

describe('the holder', () => {
  it('is killed: a waiter has the key within the ttl', async () => {
    await using doomed = await Replica.start();
    const holder = await doomed.open(lockerOptions(server.url));
    await using rival = await other.open(lockerOptions(server.url));
    const lock = await holder.acquire('k');
    const { granted } = await queueUp(rival);
    await doomed.kill();
    const killedAt = monotonic();

    const taken = await granted;
    expect(taken.grantedAt - killedAt).toBeLessThan(TTL + SLACK);
    expect(taken.fencingToken).toBeGreaterThan(lock.fencingToken);
  });

  it('is killed, and the waiters ask for longer leases: the first has the key within the ttl of the dead', async () => {
    await using doomed = await Replica.start();
    const holder = await doomed.open(lockerOptions(server.url));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await holder.acquire('k');
    const { granted } = await queueUp(rival);
    await doomed.kill();
    const killedAt = monotonic();
    expect((await granted).grantedAt - killedAt).toBeLessThan(TTL + SLACK);
  });

  it('is stopped for longer than the ttl: on waking it holds nothing, and harms nobody', async () => {
    await using sleeper = await Replica.start();
    await using holder = await sleeper.open(lockerOptions(server.url));
    await using rival = await other.open(lockerOptions(server.url));
    const lock = await holder.acquire('k');
    const { granted } = await queueUp(rival);
    sleeper.pause();
    const taken = await granted;
    const record = await observer.redis.get('lock:{k}');
    sleeper.resume();

    await expect(lock.assertHeld()).rejects.toMatchObject({ code: 'LOCK_LOST', reason: 'expired' });
    expect((await lock.loss()).error).toBe('LockLostError');
    expect((await lock.release()).value).toBe('lost');
    // Whatever it had under way or sent on waking is behind this.
    await (await holder.acquire('behind')).release();
    expect(await observer.redis.get('lock:{k}')).toBe(record);
    await taken.extend();
    expect((await taken.release()).value).toBe('released');
    await sleeper.quit();
  });

  it('keeps the key for holdAtLeast after its release: a waiter has it then, not later', async () => {
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k', { holdAtLeast: 800 });
    const { granted } = await queueUp(rival);
    expect((await lock.release()).value).toBe('released');
    const taken = await granted;
    const since = taken.grantedAt - lock.grantedAt;
    expect(since).toBeGreaterThan(790);
    expect(since).toBeLessThan(800 + SLACK);
  });
});

describe('waiters', () => {
  it('of several processes are served in the order in which they came', async () => {
    await using third = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k');
    const order: string[] = [];
    const served: Promise<void>[] = [];
    for (const [name, replica] of Object.entries({ a: one, b: other, c: third })) {
      const waiter = await replica.open(lockerOptions(server.url, { ttl: LONG_TTL }));
      const { granted } = await queueUp(waiter);
      served.push(
        granted.then(async (taken) => {
          order.push(name);
          await taken.release();
        }),
      );
    }
    await lock.release();
    await Promise.all(served);
    expect(order).toEqual(['a', 'b', 'c']);
    expect(await observer.remains()).toEqual([]);
    await third.quit();
  });

  it('have the key if it becomes free without a word: nobody who comes along jumps the queue', async () => {
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await holder.acquire('k');
    const { granted } = await queueUp(rival);
    const freedAt = monotonic();
    await observer.redis.del('lock:{k}');
    expect(await holder.tryAcquire('k')).toBeNull();
    expect((await granted).grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW);
  });

  it('the first is killed: the next is served as soon as the key is free', async () => {
    await using doomed = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k');
    await queueUp(await doomed.open(lockerOptions(server.url, { ttl: LONG_TTL })));
    const { granted } = await queueUp(rival);
    await doomed.kill();
    const freedAt = monotonic();
    await lock.release();
    expect((await granted).grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW);
  });

  it('the first is stopped: the next is served when the claim window is over', async () => {
    await using sleeper = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k');
    await queueUp(await sleeper.open(lockerOptions(server.url, { ttl: LONG_TTL })));
    const { granted } = await queueUp(rival);
    sleeper.pause();
    const freedAt = monotonic();
    await lock.release();
    expect((await granted).grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW + SLACK);
  });

  it('the first two are stopped: each delays the next by one claim window', async () => {
    await using sleeper = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k');
    await queueUp(await sleeper.open(lockerOptions(server.url, { ttl: LONG_TTL })));
    await queueUp(await sleeper.open(lockerOptions(server.url, { ttl: LONG_TTL })));
    const { granted } = await queueUp(rival);
    sleeper.pause();
    const freedAt = monotonic();
    await lock.release();
    expect((await granted).grantedAt - freedAt).toBeLessThan(2 * CLAIM_WINDOW + SLACK);
  });

  it('the first is stopped and goes on later: it keeps a place and is served', async () => {
    await using sleeper = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url));
    await using rival = await other.open(lockerOptions(server.url));
    const lock = await holder.acquire('k');
    const slow = await queueUp(await sleeper.open(lockerOptions(server.url)));
    const { granted } = await queueUp(rival);
    sleeper.pause();
    await lock.release();
    const taken = await granted;
    sleeper.resume();
    await eventually(async () => (await observer.waiting('k')) === 1);
    await taken.release();
    const last = await slow.granted;
    expect(last.fencingToken).toBeGreaterThan(taken.fencingToken);
    await last.release();
    await sleeper.quit();
  });

  it('a killed one leaves nothing in Redis for longer than its ttl', async () => {
    await using doomed = await Replica.start();
    await using holder = await one.open(lockerOptions(server.url));
    const lock = await holder.acquire('k');
    await queueUp(await doomed.open(lockerOptions(server.url)));
    await doomed.kill();
    expect(await observer.remains()).toContain('lock:{k}:q');
    await eventually(async () => (await observer.waiting('k')) === 0, { timeout: TTL + SLACK });
    await lock.release();
    expect(await observer.remains()).toEqual([]);
  });

  it('those who give up, by timeout or by signal, leave nothing in Redis', async () => {
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await holder.acquire('k');
    const timedOut = rival.acquire('k', { waitTimeout: 200 });
    const aborted = rival.acquire('k', { waitTimeout: 20_000 }, 'abort');
    await expect(timedOut).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' });
    expect(await observer.waiting('k')).toBe(1);
    await rival.abort('abort');
    await expect(aborted).rejects.toMatchObject({ name: 'AbortError' });
    await eventually(async () => (await observer.remains()).length === 1);
    expect(await observer.remains()).toEqual(['lock:{k}']);
  });

  it('one who gives up at the moment when the key is handed to it passes it on', async () => {
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using quitter = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using last = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    for (let round = 0; round < 10; round += 1) {
      const lock = await holder.acquire('k');
      const first = quitter.acquire('k', LONG_WAIT, 'quit').then(
        (taken) => taken.release(),
        () => {},
      );
      await eventually(async () => (await observer.waiting('k')) === 1);
      const { granted } = await queueUp(last);
      const freedAt = monotonic();
      await Promise.all([lock.release(), quitter.abort('quit'), first]);
      const taken = await granted;
      expect(taken.grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW);
      await taken.release();
    }
  });
});

describe('the event loop is blocked', () => {
  it('for longer than the ttl: assertHeld() throws right after, `using` rejects, the signal has aborted', async () => {
    await using locker = await one.open(lockerOptions(server.url));
    await using rival = await other.open(lockerOptions(server.url));
    const using = locker.usingBlocked('k', {}, TTL + 500);
    await eventually(() => observer.isTaken('k'));
    const taken = await rival.acquire('k', { waitTimeout: TTL + SLACK });

    expect((await using).value).toEqual({
      assertHeld: 'LockLostError',
      abortedAtOnce: true,
      outcome: 'LockLostError',
    });
    // It was another's by then, and what the blocked one did on waking didn't change that.
    await (await locker.acquire('behind')).release();
    await taken.extend();
    expect((await taken.release()).value).toBe('released');
  });

  it('for less than the ttl: the lock stays held', async () => {
    await using locker = await one.open(lockerOptions(server.url));
    const { value } = await locker.usingBlocked('k', {}, TTL / 2);
    expect(value).toEqual({ assertHeld: 'passed', abortedAtOnce: false, outcome: 'resolved' });
  });

  it('for longer than the command timeout, with commands under way: a healthy connection is not dropped', async () => {
    await using locker = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await rival.acquire('k');
    // So that there's a subscriber connection as well.
    const { granted } = await queueUp(locker);
    const connections = await clientIds();
    for (let round = 0; round < 3; round += 1) {
      // Sent before the block, answered meanwhile, and timed out when it ends: whatever becomes of the call.
      const asked = locker.acquire(`asked ${round}`).catch(() => {});
      await Promise.all([asked, one.block(COMMAND_TIMEOUT + 500)]);
      await (await locker.acquire('next')).release();
    }
    expect(await clientIds()).toEqual(connections);
    expect(await locker.namesOfEvents()).not.toContain('unavailable');
    const freedAt = monotonic();
    await lock.release();
    const taken = await granted;
    expect(taken.grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW);
    await taken.release();
  });

  it('without `using`, and the signal not asked for before: it has aborted when it is read', async () => {
    await using locker = await one.open(lockerOptions(server.url));
    const lock = await locker.acquire('k');
    const [, asserted] = await Promise.allSettled([one.block(TTL + 500), lock.assertHeld()]);
    expect(asserted).toMatchObject({ reason: { code: 'LOCK_LOST', reason: 'expired' } });
    expect(await lock.loss()).toMatchObject({ error: 'LockLostError', reason: 'expired' });
  });

  it('of a waiter, when the key is handed to it: the next is served meanwhile, and it comes later', async () => {
    await using holder = await one.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    await using busy = await Replica.start();
    await using rival = await other.open(lockerOptions(server.url, { ttl: LONG_TTL }));
    const lock = await holder.acquire('k');
    const blocked = await queueUp(await busy.open(lockerOptions(server.url, { ttl: LONG_TTL })));
    const { granted } = await queueUp(rival);
    const block = busy.block(CLAIM_WINDOW + 1_000);
    const freedAt = monotonic();
    await lock.release();
    const taken = await granted;
    expect(taken.grantedAt - freedAt).toBeLessThan(CLAIM_WINDOW + SLACK);
    await block;
    await taken.release();
    const last = await blocked.granted;
    expect(last.fencingToken).toBeGreaterThan(taken.fencingToken);
    await last.release();
    await busy.quit();
  });
});

describe('wall clocks', () => {
  it.each([-3_600_000, 3_600_000])(
    'one process is off by %i ms: leases, waiting and fencing tokens are right all the same',
    async (skew) => {
      await using skewed = await Replica.start();
      await using before = await skewed.open(lockerOptions(server.url));
      await before.connect();
      // After connecting: a clock that is set while all is running.
      await skewed.skewWallClock(skew);
      await using after = await skewed.open(lockerOptions(server.url));
      await using rival = await other.open(lockerOptions(server.url));
      let last = 0;
      for (const locker of [before, rival, after, rival]) {
        const lock = await locker.acquire('k');
        expect(lock.fencingToken).toBeGreaterThan(last);
        last = lock.fencingToken;
        const { granted } = await queueUp(locker === rival ? before : rival);
        expect(await after.tryAcquire('k')).toBeNull();
        expect(await lock.remaining()).toBeGreaterThan(TTL / 2);
        await lock.release();
        const taken = await granted;
        expect(taken.fencingToken).toBeGreaterThan(last);
        last = taken.fencingToken;
        await taken.release();
      }
      // It renews: held for longer than the ttl.
      const lock = await before.acquire('k');
      await expect(rival.acquire('k', { waitTimeout: TTL + 500 })).rejects.toMatchObject({
        code: 'LOCK_TIMEOUT',
      });
      await lock.assertHeld();
      await skewed.quit();
    },
  );

  it('of the server, set back: fencing tokens go on from the last, also after an expiry', async () => {
    // A record ahead of the clock is what a clock that was set back by an hour leaves behind.
    const ahead = (Date.now() + 3_600_000) * 1_000;
    await observer.redis.set('lock:{k}', freeRecord(ahead), 'PX', 5_000);
    await using locker = await one.open(lockerOptions(server.url));
    const first = await locker.acquire('k');
    expect(first.fencingToken).toBe(ahead + 1);
    await first.release();
    const second = await locker.acquire('k', { ttl: 200, renew: false });
    expect(second.fencingToken).toBe(ahead + 2);
    await second.loss();
    const third = await locker.acquire('k');
    // Its process tells how far it came with its tokens, if it is in time for that. Else the server can't know.
    expect([ahead + 3, ahead + 2 + FENCE_RANGE]).toContain(third.fencingToken);
    await third.release();
    // And it's remembered until the server's clock has passed it.
    expect(await observer.redis.pttl('lock:{k}')).toBeGreaterThan(3_500_000);
  });
});
