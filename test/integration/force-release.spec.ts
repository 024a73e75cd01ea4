/**
 * A lock that is released by force, over several processes: its holder learns it at once and by name, the next has it
 * at once, and no message of it ever hits whoever holds the key later.
 *
 * Model: a holder, a waiter and an administrator, each a process of its own, on one redis-server. Times are of one
 * monotonic clock.
 */
import { hostname } from 'node:os';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { lockerOptions, Observer, SLACK } from './support/faults.js';
import { monotonic, type RemoteLock, type RemoteLocker, Replica } from './support/replica.js';

/** So long that nothing which comes in time is owed to an expiry or to a renewal. */
const LONG = { ttl: 60_000, waitTimeout: 20_000 };

let server: RedisServer;
let observer: Observer;
let replicas: Replica[];
let key: string;
let tests = 0;

beforeAll(async () => {
  [server, replicas] = await Promise.all([RedisServer.start(), Replica.startMany(3)]);
  observer = new Observer(server.url);
});

afterAll(async () => {
  await Promise.all(replicas.map((replica) => replica.quit()));
  observer[Symbol.dispose]();
  await server.stop();
});

beforeEach(() => {
  tests += 1;
  key = `k${tests}`;
});

async function open(): Promise<[holder: RemoteLocker, waiter: RemoteLocker, admin: RemoteLocker]> {
  const lockers = await Promise.all(
    replicas.map((replica, index) =>
      replica.open(lockerOptions(server.url, { ...LONG, application: `app ${index}` })),
    ),
  );
  return lockers as [RemoteLocker, RemoteLocker, RemoteLocker];
}

/** Takes the key and waits until its process hears what is told to holders: it asks for its locks then. */
async function holdAndListen(holder: RemoteLocker): Promise<RemoteLock> {
  const lock = await holder.acquire(key);
  await eventually(async () => (await holder.namesOfEvents()).includes('renewed'), {
    message: 'the holder listens',
  });
  return lock;
}

describe('A lock that is released by force', () => {
  it('is lost by its holder at once, by name and reason, also where nobody has ever waited', async () => {
    const [holder, waiter, admin] = await open();
    const lock = await holdAndListen(holder);
    const forced = await admin.forceRelease(key, 'stuck');
    expect(forced.value).toMatchObject({
      kind: 'released',
      held: [
        {
          fencingToken: lock.fencingToken,
          pid: replicas[0]?.pid,
          host: hostname(),
          application: 'app 0',
        },
      ],
    });
    const loss = await lock.loss();
    expect(loss.at - forced.from).toBeLessThan(SLACK);
    expect(loss).toMatchObject({
      error: 'LockLostError',
      reason: 'forced',
      by: { host: hostname(), pid: replicas[2]?.pid, application: 'app 2', reason: 'stuck' },
    });
    expect((await lock.release()).value).toBe('lost');
    expect(await admin.namesOfEvents()).toEqual(['forced']);
    expect(await holder.namesOfEvents()).toEqual(['acquired', 'renewed', 'lost']);
    expect((await admin.forceRelease(key)).value).toEqual({ kind: 'not-held' });
    const next = await waiter.acquire(key);
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken + 9_999);
    await next.release();
    await Promise.all([holder, waiter, admin].map((locker) => locker.close()));
  });

  it('goes to the next waiter at once, whom no late message of it can hit', async () => {
    const [holder, waiter, admin] = await open();
    const lock = await holdAndListen(holder);
    const waiting = waiter.acquire(key);
    await eventually(async () => (await observer.waiting(key)) === 1);
    const written: { channel: string; message: string }[] = [];
    const listener = observer.redis.duplicate();
    await listener.psubscribe('*:wake:*');
    listener.on('pmessage', (_pattern, channel: string, message: string) =>
      written.push({ channel, message }),
    );
    const forced = await admin.forceRelease(key);
    const [loss, next] = [await lock.loss(), await waiting];
    expect(Math.max(loss.at, next.grantedAt) - forced.from).toBeLessThan(SLACK);
    // The same message again, to everybody: late, and twice.
    const told = await eventually(() => written.find(({ message }) => message.startsWith('!')));
    for (const channel of (await observer.redis.pubsub('CHANNELS', '*')) as string[]) {
      await observer.redis.publish(channel, told.message);
    }
    expect((await holder.inspect(key)).value.held).toMatchObject([
      { fencingToken: next.fencingToken },
    ]);
    await next.extend();
    expect(await next.state()).toBe('held');
    expect((await next.release()).value).toBe('released');
    // Nor does it hit the same process, once it holds the key again.
    const again = await holder.acquire(key);
    await observer.redis.publish(told.channel, told.message);
    await again.extend();
    expect(await again.state()).toBe('held');
    await again.release();
    listener.disconnect();
    await Promise.all([holder, waiter, admin].map((locker) => locker.close()));
  });

  it('is lost at the next renewal where its holder was not listening', async () => {
    const [, waiter, admin] = await open();
    const deaf = await (replicas[0] as Replica).open(
      lockerOptions(server.url, { ...LONG, ttl: 1_500, wakeUp: 'poll' }),
    );
    const lock = await deaf.acquire(key);
    const forced = await admin.forceRelease(key);
    expect(forced.value).toMatchObject({ kind: 'released' });
    const loss = await lock.loss();
    expect(loss).toMatchObject({ reason: 'taken' });
    expect(loss.at - forced.from).toBeLessThan(1_500 / 3 + SLACK);
    await Promise.all([deaf, waiter, admin].map((locker) => locker.close()));
  });

  it.each([true, false])(
    'is lost once its holder listens again, where it missed the message: renew %p',
    async (renew) => {
      await using proxy = await TcpProxy.start(server.port);
      const [, , admin] = await open();
      const holder = await (replicas[0] as Replica).open(lockerOptions(proxy.url, LONG));
      await holdAndListen(holder);
      const forced = await holder.acquire(`${key} forced`, { renew });
      const left = await holder.acquire(`${key} left`, { renew });
      // Deaf from here on; its connection for commands stays.
      proxy.refuse();
      await observer.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      expect((await admin.forceRelease(`${key} forced`)).value.kind).toBe('released');
      const remaining = await left.remaining();
      expect(await forced.state()).toBe('held');
      proxy.accept();
      const acceptedAt = monotonic();
      const loss = await forced.loss();
      expect(loss.reason).toBe('taken');
      // A renewal comes after 20 s.
      expect(loss.at - acceptedAt).toBeLessThan(5_000);
      expect(await left.state()).toBe('held');
      // Who doesn't renew, was promised its ttl and no more.
      expect(await left.remaining()).toBeLessThanOrEqual(renew ? LONG.ttl : remaining);
      await Promise.all([holder, admin].map((locker) => locker.close()));
    },
  );

  it.each([true, false])(
    'is lost once its holder listens for the first time, where it was released before: renew %p',
    async (renew) => {
      await using proxy = await TcpProxy.start(server.port);
      const [, , admin] = await open();
      const holder = await (replicas[0] as Replica).open(lockerOptions(proxy.url, LONG));
      // The connection for commands is there; that on which it's told of what is forced isn't opened yet.
      await holder.inspect(key);
      proxy.refuse();
      const lock = await holder.acquire(key, { renew });
      expect((await admin.forceRelease(key)).value.kind).toBe('released');
      expect(await lock.state()).toBe('held');
      proxy.accept();
      const acceptedAt = monotonic();
      const loss = await lock.loss();
      expect(loss.reason).toBe('taken');
      expect(loss.at - acceptedAt).toBeLessThan(5_000);
      await Promise.all([holder, admin].map((locker) => locker.close()));
    },
  );

  it('is free for the next also while its holder is frozen, which learns it when it wakes up', async () => {
    const [holder, waiter, admin] = await open();
    const lock = await holdAndListen(holder);
    const frozen = replicas[0] as Replica;
    frozen.pause();
    try {
      await admin.forceRelease(key, 'frozen');
      const next = await waiter.acquire(key);
      expect(next.took).toBeLessThan(SLACK);
      await next.release();
    } finally {
      frozen.resume();
    }
    expect(await lock.loss()).toMatchObject({ reason: 'forced', by: { reason: 'frozen' } });
    await Promise.all([holder, waiter, admin].map((locker) => locker.close()));
  });
});
