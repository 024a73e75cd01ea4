/**
 * P1, P2, P4, P5, P6 when the network fails: a reply is lost after its command ran, a command arrives late, a
 * connection is cut, hangs or is slow, a message is lost.
 *
 * Model: a proxy stands between replica `one` and the server; `other` and the observer are connected directly, and see
 * what the server really did. A command is recognized by the digest of its script.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import {
  acquireScript,
  extendScript,
  releaseScript,
} from '../../lib/core/redis/scripts.generated.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy, type Verdict } from '../support/tcp-proxy.js';
import {
  CLAIM_WINDOW,
  COMMAND_TIMEOUT,
  lockerOptions,
  LONGEST_RECONNECT,
  Observer,
  sendRaw,
  SLACK,
  TTL,
} from './support/faults.js';
import { failureOf, monotonic, type RemoteLocker, Replica } from './support/replica.js';

const RECOVERY = LONGEST_RECONNECT + 1_000;

let one: Replica;
let other: Replica;

beforeAll(async () => {
  [one, other] = (await Replica.startMany(2)) as [Replica, Replica];
});

afterEach(async () => {
  expect([await one.warnings(), await other.warnings()]).toEqual([[], []]);
});

afterAll(async () => {
  await Promise.all([one.quit(), other.quit()]);
});

/** Has every script known to the server, and the server's clock to the locker, so that a call is one command. */
async function warmUp(locker: RemoteLocker): Promise<void> {
  const lock = await locker.acquire('warm');
  await lock.extend();
  await lock.release();
}

/** Does this to the first command of a script, and lets all else pass. */
function onceOn(proxy: TcpProxy, script: { readonly sha1: string }, verdict: Verdict): void {
  proxy.onRequest = (bytes) => {
    if (!bytes.includes(script.sha1)) return 'pass';
    proxy.onRequest = () => 'pass';
    return verdict;
  };
}

describe('the connection is cut after the command ran and before its reply', () => {
  it('acquire: the call fails in time, and what it had taken is given back long before its ttl', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using locker = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    await warmUp(locker);
    onceOn(proxy, acquireScript, 'cut-after-reply');
    await observer.redis.config('RESETSTAT');

    const failure = await failureOf(locker.acquire('k'));
    expect(failure).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
    expect(failure.took).toBeLessThan(COMMAND_TIMEOUT + SLACK);
    expect(await observer.calls('evalsha')).toBeGreaterThan(0);
    await eventually(async () => !(await observer.isTaken('k')), { timeout: RECOVERY });
    expect(await observer.remains()).toEqual([]);
  });

  it('acquire of a waiter: it goes on waiting, and is not blocked by its own lost grant', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    const lock = await holder.acquire('k');
    const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
    await eventually(async () => (await observer.waiting('k')) === 1);
    // Its next acquire is the claim, when it has been woken: the grant gets lost.
    onceOn(proxy, acquireScript, 'cut-after-reply');
    await lock.release();

    const taken = await waiting;
    expect(taken.fencingToken).toBeGreaterThan(lock.fencingToken);
    expect((await taken.release()).value).toBe('released');
    await eventually(async () => (await observer.remains()).length === 0);
  });

  it('release: the call says that it is not confirmed, and the key is free', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using locker = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    await using rival = await other.open(lockerOptions(server.url));
    await warmUp(locker);
    const lock = await locker.acquire('k');
    onceOn(proxy, releaseScript, 'cut-after-reply');

    const released = await lock.release();
    expect(released.value).toBe('unconfirmed');
    expect(released.took).toBeLessThan(COMMAND_TIMEOUT + SLACK);
    // The retry in the background must not take it from the next holder.
    const taken = await rival.acquire('k', { waitTimeout: 500 });
    await eventually(() => locker.tryAcquire('reconnected'), { timeout: RECOVERY });
    await taken.extend();
    expect((await taken.release()).value).toBe('released');
    expect(await observer.isTaken('k')).toBe(false);
  });

  it('extend: the call fails in time, the lock stays held, and the next renewal succeeds', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    await using locker = await one.open(lockerOptions(proxy.url));
    await warmUp(locker);
    const lock = await locker.acquire('k', { renew: false, ttl: 10_000 });
    onceOn(proxy, extendScript, 'cut-after-reply');

    const failure = await failureOf(lock.extend());
    expect(failure).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
    expect(failure.took).toBeLessThan(COMMAND_TIMEOUT + SLACK);
    await lock.assertHeld();
    await eventually(() => lock.extend().then(() => true), { timeout: RECOVERY });
    expect((await lock.release()).value).toBe('released');
  });

  it('renewal: it is in jeopardy, then held again, and never lost', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    await using locker = await one.open(lockerOptions(proxy.url, { ttl: 3_000 }));
    await warmUp(locker);
    const lock = await locker.acquire('k');
    const told = async () =>
      (await locker.events()).filter(({ key }) => key === 'k').map(({ name }) => name);
    const renewals = async () => (await told()).filter((name) => name === 'renewed').length;
    // The first may come as soon as its process hears what is told to holders.
    await eventually(async () => (await renewals()) === 1, { timeout: 3_000 });
    onceOn(proxy, extendScript, 'cut-after-reply');

    await eventually(async () => (await renewals()) === 2, { timeout: 3_000 });
    expect(await told()).toEqual(['acquired', 'renewed', 'jeopardy', 'renewed']);
    expect(await lock.state()).toBe('held');
    expect((await lock.release()).value).toBe('released');
  });
});

describe('a command arrives late', () => {
  it('an acquire that the network delays past its deadline never takes the lock', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    using listener = new Observer(server.url);
    await using locker = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    await warmUp(locker);
    await observer.redis.config('SET', 'notify-keyspace-events', 'KEA');
    const written: string[] = [];
    await listener.redis.subscribe('__keyspace@0__:lock:{k}');
    listener.redis.on('message', (_channel, event: string) => written.push(event));
    proxy.hold('up');

    const failure = await failureOf(locker.acquire('k', { waitTimeout: 100 }));
    expect(failure).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
    expect(failure.took).toBeLessThan(100 + COMMAND_TIMEOUT + SLACK);
    proxy.resume();
    await locker.acquire('later', { waitTimeout: 5_000 });
    await observer.redis.ping();
    expect(written).toEqual([]);
  });

  it('not even where nothing follows that would undo it: the very bytes, sent after the deadline', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using locker = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    await warmUp(locker);
    let command = Buffer.alloc(0);
    proxy.onRequest = (bytes) => {
      if (!bytes.includes(acquireScript.sha1)) return 'pass';
      command = Buffer.from(bytes);
      return 'cut';
    };
    const since = monotonic();
    await failureOf(locker.acquire('k', { waitTimeout: 200 }));
    expect(command.includes('lock:{k}')).toBe(true);

    // In time the bytes would have been good: the same ones, sent at once, take the key.
    expect(await sendRaw(server.port, command)).toMatch(/^\$16\r\n\d{16}\r\n$/);
    await observer.redis.del('lock:{k}');
    await eventually(() => monotonic() > since + 200 + 5);
    expect(await sendRaw(server.port, command)).toContain('late');
    expect(await observer.isTaken('k')).toBe(false);
  });

  it('a release and a renewal that arrive when another holds the key do nothing to it', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await one.open(lockerOptions(proxy.url));
    await using rival = await other.open(lockerOptions(server.url));
    await warmUp(holder);
    const commands: Buffer[] = [];
    proxy.onRequest = (bytes) => {
      const late = bytes.includes(extendScript.sha1) || bytes.includes(releaseScript.sha1);
      if (late) commands.push(Buffer.from(bytes));
      return late ? 'cut' : 'pass';
    };
    const lock = await holder.acquire('k');
    await failureOf(lock.extend());
    await eventually(async () => (await holder.namesOfEvents()).includes('available'));
    await lock.release();
    expect(commands).toHaveLength(2);
    await eventually(async () => !(await observer.isTaken('k')), { timeout: RECOVERY });

    const taken = await rival.acquire('k', { ttl: 20_000, renew: false });
    const record = await observer.redis.get('lock:{k}');
    const ends = await observer.redis.pexpiretime('lock:{k}');
    for (const command of commands) expect(await sendRaw(server.port, command)).toMatch(/^[:*]/);
    expect(await observer.redis.get('lock:{k}')).toBe(record);
    expect(await observer.redis.pexpiretime('lock:{k}')).toBe(ends);
    await taken.assertHeld();
  });
});

describe('a connection hangs or is cut', () => {
  it.each([1_000, 3_000])(
    'the holder is cut off (ttl %i ms): it knows before the waiter gets the key, and harms it no more',
    async (ttl) => {
      await using server = await RedisServer.start();
      await using proxy = await TcpProxy.start(server.port);
      await using holder = await one.open(lockerOptions(proxy.url, { ttl }));
      await using rival = await other.open(lockerOptions(server.url, { ttl }));
      const lock = await holder.acquire('k');
      const waiting = rival.acquire('k', { waitTimeout: 10_000 });
      await eventually(async () => (await rival.inspect('k')).value.pending.length === 1);
      proxy.hold();
      const cutAt = monotonic();

      const [loss, taken] = await Promise.all([lock.loss(), waiting]);
      expect(loss).toMatchObject({ error: 'LockLostError', reason: 'expired' });
      expect(loss.at).toBeLessThan(taken.grantedAt);
      expect(loss.at - cutAt).toBeLessThan(ttl);
      expect(taken.grantedAt - cutAt).toBeLessThan(ttl + SLACK);
      expect((await lock.release()).value).toBe('lost');
      proxy.resume();
      await eventually(() => holder.tryAcquire('reconnected'), { timeout: RECOVERY });
      await taken.extend();
      expect((await taken.release()).value).toBe('released');
    },
  );

  it('the holder is cut off before the reply to its acquire: a grant that comes too late is none', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    // The command timeout is longer than the ttl, so that the reply is still awaited when the lease has ended.
    const options = { ttl: 200, commandTimeout: 2_000 };
    await using locker = await one.open(lockerOptions(proxy.url, options));
    await warmUp(locker);
    proxy.delay(300, 'down');
    const failure = await failureOf(locker.acquire('k', { waitTimeout: 500 }));
    expect(failure.name).toMatch(/^Lock(Timeout|Unavailable)Error$/);
    expect(failure.took).toBeLessThan(500 + 2_000 + SLACK);
    expect(await locker.namesOfEvents()).not.toContain('lost');
    proxy.delay(0);
    await eventually(async () => (await observer.remains()).length === 0);
  });

  it('all connections of a waiter are cut: it is served all the same', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    const lock = await holder.acquire('k');
    const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
    await eventually(async () => (await observer.waiting('k')) === 1);
    proxy.cutAll();
    await eventually(() => proxy.connections === 2, { timeout: RECOVERY });
    const freedAt = monotonic();
    await lock.release();
    const taken = await waiting;
    // Not only by its rare look for itself, after half its ttl.
    expect(taken.grantedAt - freedAt).toBeLessThan(5_000);
  });

  it('a short outage: those who have waited stay in line, and are served in their order afterwards', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    // They look for themselves, in vain, every half of this.
    const ttl = 2_000;
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using cut = await one.open(lockerOptions(proxy.url, { ttl }));
    await using alsoCut = await one.open(lockerOptions(proxy.url, { ttl }));
    await using spared = await other.open(lockerOptions(server.url, { ttl }));
    const lock = await holder.acquire('k');
    const order: string[] = [];
    const wait = async (locker: RemoteLocker, name: string) => {
      const taken = await locker.acquire('k', { waitTimeout: 15_000 });
      order.push(name);
      expect((await taken.release()).value).toBe('released');
    };
    const waits: Promise<void>[] = [];
    for (const [name, locker] of Object.entries({ cut, spared, alsoCut })) {
      waits.push(wait(locker, name));
      await eventually(async () => (await observer.waiting('k')) === waits.length);
    }
    waits.push(wait(cut, 'cut, second caller'));

    proxy.refuse();
    proxy.cutAll();
    const cutAt = monotonic();
    await eventually(() => monotonic() > cutAt + ttl / 2 + 100);
    proxy.accept();
    for (const locker of [cut, alsoCut]) {
      await eventually(async () => (await locker.namesOfEvents()).includes('available'), {
        timeout: RECOVERY,
      });
    }
    await eventually(
      async () =>
        (await holder.inspect('k')).value.pending.length === 3 &&
        ((await observer.redis.pubsub('CHANNELS', 'lock:wake:*')) as string[]).length === 4,
      { timeout: RECOVERY, message: 'all are in line, and listen' },
    );
    const freedAt = monotonic();
    await lock.release();
    await Promise.all(waits);
    expect(monotonic() - freedAt).toBeLessThan(CLAIM_WINDOW);
    expect(order.filter((name) => name in { cut, spared, alsoCut })).toEqual([
      'cut',
      'spared',
      'alsoCut',
    ]);
    expect(order.indexOf('cut, second caller')).toBeGreaterThan(order.indexOf('cut'));
  });

  it('the release is published while a waiter is not subscribed: it is served when it is again', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 20_000 }));
    const lock = await holder.acquire('k');
    const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
    await eventually(async () => (await observer.waiting('k')) === 1);
    proxy.refuse();
    await observer.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await lock.release();
    expect(await observer.isTaken('k')).toBe(false);
    const acceptedAt = monotonic();
    proxy.accept();
    const taken = await waiting;
    expect(taken.grantedAt - acceptedAt).toBeLessThan(5_000);
  });

  it('the subscriber connection never comes back: a waiter looks for itself', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 2_000 }));
    const lock = await holder.acquire('k');
    const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
    await eventually(async () => (await observer.waiting('k')) === 1);
    proxy.refuse();
    await observer.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    const freedAt = monotonic();
    await lock.release();
    const taken = await waiting;
    expect(taken.grantedAt - freedAt).toBeLessThan(2_000 / 2 + SLACK);
  });

  it('SUBSCRIBE gets no answer in time: the process is woken by messages later, and does not poll for good', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 30_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 30_000 }));
    await holder.acquire('k');
    proxy.onRequest = (bytes) => (/subscribe/i.test(bytes.toString('latin1')) ? 'hold' : 'pass');
    const failure = await failureOf(waiter.acquire('k', { waitTimeout: COMMAND_TIMEOUT + 500 }));
    expect(failure.code).toBe('LOCK_TIMEOUT');
    proxy.onRequest = () => 'pass';
    proxy.resume();

    const waiting = failureOf(waiter.acquire('k', { waitTimeout: 4_000 }));
    // Its record tells the channel by which it's woken; that of a waiter that polls tells none.
    await eventually(
      async () => /^\d+ \S+ \S+$/.test((await observer.redis.hvals('lock:{k}:w'))[0] ?? ''),
      { timeout: 3_500, message: 'a waiter is queued with its channel' },
    );
    expect((await waiting).code).toBe('LOCK_TIMEOUT');
  });

  it('the subscriber connection has gone silent for good: it is given up for a new one', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using holder = await other.open(lockerOptions(server.url, { ttl: 20_000 }));
    await using waiter = await one.open(lockerOptions(proxy.url, { ttl: 2_000 }));
    await holder.acquire('k');
    let subscriptions = 0;
    proxy.onRequest = (bytes) => {
      const text = bytes.toString('latin1');
      if (/subscribe/i.test(text)) subscriptions += 1;
      // From the first time on that it asks whether the line is alive, nothing gets through.
      return /ping/i.test(text) && subscriptions === 1 ? 'hold' : 'pass';
    };
    const waiting = waiter.acquire('k', { waitTimeout: 15_000 });
    await eventually(async () => (await observer.waiting('k')) === 1);
    // It notices when it looks at the key for itself, after half its ttl.
    await eventually(() => subscriptions === 2, { timeout: 2_000 + COMMAND_TIMEOUT + RECOVERY });
    await eventually(async () => (await observer.redis.hvals('lock:{k}:w')).length === 1);
    // The holder's own, and one of the waiter's.
    expect((await observer.redis.pubsub('CHANNELS', 'lock:wake:*')) as string[]).toHaveLength(2);
    await holder.close();
    await waiting;
  });

  it('a connection that has gone silent for good is given up for a new one', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    await using locker = await one.open(lockerOptions(proxy.url));
    await warmUp(locker);
    // As when a firewall forgets a connection: what is sent on it goes nowhere, a new one would work.
    let silent = true;
    proxy.onRequest = () => {
      const verdict = silent ? 'hold' : 'pass';
      silent = false;
      return verdict;
    };
    expect(await failureOf(locker.acquire('k'))).toMatchObject({ reason: 'no-answer' });
    await eventually(() => locker.tryAcquire('k'), {
      timeout: 8_000,
      interval: 100,
      message: 'the locker works again',
    });
  });
});

describe('the network is slow', () => {
  it('replies that each come just in time do not stretch a call beyond its bound', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    using observer = new Observer(server.url);
    await using locker = await one.open(lockerOptions(proxy.url));
    await locker.connect();
    await observer.redis.script('FLUSH');
    proxy.delay(COMMAND_TIMEOUT - 100, 'down');

    // A fresh connection has to ask for the server's time, and a server that doesn't know the script for its source.
    const outcome = locker.acquire('k', { waitTimeout: 50 }).then(
      ({ took }) => took,
      ({ took }: { took: number }) => took,
    );
    expect(await outcome).toBeLessThan(50 + COMMAND_TIMEOUT + SLACK / 2);
  });

  it('a lease counts from before its command, not from the reply', async () => {
    await using server = await RedisServer.start();
    await using proxy = await TcpProxy.start(server.port);
    await using locker = await one.open(lockerOptions(proxy.url));
    await warmUp(locker);
    proxy.delay(300, 'down');
    const lock = await locker.acquire('k', { renew: false });
    expect(await lock.remaining()).toBeLessThan(TTL - 300);
  });
});
