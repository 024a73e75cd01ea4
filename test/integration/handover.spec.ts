/**
 * P1, P4, P5, P7 while a key passes from one process to the next: everything that can fail between "the holder releases"
 * and "the waiter knows that it holds".
 *
 *     held ──release──▶ reserved for the first waiter, message published ──message──▶ claim sent ──▶ granted ──reply──▶ held
 *
 * Model: each contender is a `Locker` with connections and a place of its own, in this process or, where it is to be
 * killed or stopped, in a replica. A proxy holds or loses what is on its way at the very step that a test is about.
 *
 * Every test ends alike: no two ever believed to hold the key at the same time, those who held it had rising fencing
 * tokens, nobody stands in the queue, nobody holds, and the key can be had at once (so that nothing is reserved).
 *
 * Elsewhere: faults-process.spec.ts (the holder killed with one waiter, or stopped; the first waiters killed or stopped
 * before the release; an abort that races the release; a blocked event loop), faults-network.spec.ts (a claim whose
 * reply is lost; all connections cut; a release while the waiter isn't subscribed; a subscriber that never comes back or
 * has gone silent), redis-scripts.spec.ts (users who may not PUBLISH or SUBSCRIBE), conformance/ (each step at a backend).
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { type AcquireOptions, Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { Beliefs, contradictions } from './support/beliefs.js';
import {
  CLAIM_WINDOW,
  COMMAND_TIMEOUT,
  lockerOptions,
  LONGEST_RECONNECT,
  Observer,
  SLACK,
  TTL,
} from './support/faults.js';
import { monotonic, Replica } from './support/replica.js';

/** The ways in which a process may hand over; all must survive the same. */
const WAYS: readonly { title: string; options: Partial<LockerOptions> }[] = [
  { title: 'passing leases on', options: { localHandover: true } },
  { title: 'without local hand-over', options: { localHandover: false } },
];

/** Long: what must not take as long as a ttl is told apart from what may. */
const LONG_TTL = 20_000;
/** Whoever waits refreshes its place, and looks for itself, every half of this. */
const LOOKING_TTL = 2_000;
/** By a message, and not by looking for itself when the claim window of another is over. */
const AT_ONCE = CLAIM_WINDOW / 2;

/** What a test needs of a granted lock, here or in a replica. */
interface Turn {
  readonly fencingToken: number;
  readonly grantedAt: number;
  release(): Promise<unknown>;
}

interface Contender {
  readonly name: string;
  acquire(key: string, options?: AcquireOptions): Promise<Turn>;
}

interface LocalContender extends Contender {
  readonly locker: Locker;
}

interface Waiting {
  readonly name: string;
  readonly granted: Promise<Turn>;
}

describe.each(WAYS)('A hand-over, $title,', ({ options: way }) => {
  let server: RedisServer;
  let observer: Observer;
  let asker: Locker;
  let key: string;
  let keys = 0;
  let beliefs: Beliefs;
  let lockers: Locker[];
  let replicas: Replica[];
  let proxies: TcpProxy[];

  beforeAll(async () => {
    server = await RedisServer.start();
    observer = new Observer(server.url);
    asker = new Locker(lockerOptions(server.url));
    await asker.connect();
  });

  afterAll(async () => {
    await asker.close();
    observer[Symbol.dispose]();
    await server.stop();
  });

  beforeEach(() => {
    keys += 1;
    key = `k${keys}`;
    beliefs = new Beliefs();
    [lockers, replicas, proxies] = [[], [], []];
  });

  afterEach(async () => {
    try {
      await eventually(async () => (await remains()).length === 0, {
        timeout: TTL + SLACK,
        message: 'nobody holds or waits',
      });
      const last = await asker.tryAcquire(key);
      expect(last?.isHeld).toBe(true);
      await last?.release();
      const alive = replicas.filter((replica) => replica.alive);
      const remote = await Promise.all(alive.map((replica) => replica.beliefs()));
      expect(contradictions([...beliefs.all, ...remote.flat()])).toEqual([]);
      await Promise.all(alive.map((replica) => replica.quit()));
    } finally {
      await Promise.all(lockers.map((locker) => locker.close()));
      await Promise.all(replicas.map((replica) => replica.kill()));
      await Promise.all(proxies.map((proxy) => proxy.close()));
    }
  });

  async function remains(): Promise<unknown[]> {
    const { held, pending } = await asker.inspect(key);
    const queues = await observer.redis.exists(`lock:{${key}}:q`, `lock:{${key}}:w`);
    return [...held, ...pending, ...Array.from({ length: queues }, () => 'a queue')];
  }

  async function openProxy(): Promise<TcpProxy> {
    const proxy = await TcpProxy.start(server.port);
    proxies.push(proxy);
    return proxy;
  }

  function optionsOf(name: string, url: string, more: Partial<LockerOptions>): LockerOptions {
    const waitTimeout = '20s';
    return lockerOptions(url, { ttl: LONG_TTL, waitTimeout, ...way, ...more, application: name });
  }

  function open(name: string, url = server.url, more: Partial<LockerOptions> = {}): LocalContender {
    const locker = new Locker(optionsOf(name, url, more));
    lockers.push(locker);
    const acquire = async (of: string, options?: AcquireOptions): Promise<Turn> => {
      const lock = await locker.acquire(of, options);
      const grantedAt = monotonic();
      beliefs.watch(lock);
      return { fencingToken: lock.fencingToken, grantedAt, release: () => lock.release() };
    };
    return { name, locker, acquire };
  }

  /** In a process of its own. */
  async function openRemote(
    name: string,
    url = server.url,
    more: Partial<LockerOptions> = {},
  ): Promise<Contender & { readonly replica: Replica }> {
    const replica = await Replica.start();
    replicas.push(replica);
    const locker = await replica.open(optionsOf(name, url, more));
    return { name, replica, acquire: (of, options) => locker.acquire(of, options) };
  }

  async function queued(count: number): Promise<void> {
    await eventually(async () => (await asker.inspect(key)).pending.length === count, {
      message: `${count} stand in the queue`,
    });
  }

  async function heldBy(name: string): Promise<void> {
    await eventually(async () => (await holders()).includes(name), {
      message: `the server says that ${name} holds the key`,
    });
  }

  async function holders(): Promise<(string | undefined)[]> {
    return (await asker.inspect(key)).held.map(({ application }) => application);
  }

  function begin(contender: Contender, options?: AcquireOptions): Waiting {
    const granted = contender.acquire(key, options);
    granted.catch(() => {});
    return { name: contender.name, granted };
  }

  /** Begins to wait, and comes back when it stands in the queue: for the first caller of a contender. */
  async function queueUp(contender: Contender, options?: AcquireOptions): Promise<Waiting> {
    const before = (await asker.inspect(key)).pending.length;
    const waiting = begin(contender, options);
    await queued(before + 1);
    return waiting;
  }

  /** Begins to wait behind another caller of the same contender. */
  async function lineUp(contender: LocalContender): Promise<Waiting> {
    const announced = new Promise((resolve) => {
      contender.locker.on('waiting', resolve);
    });
    const waiting = begin(contender);
    await announced;
    return waiting;
  }

  /** Waits for its grant: in time, and the server names the same holder. */
  async function expectServed(
    { name, granted }: Waiting,
    since: number,
    within: number,
  ): Promise<Turn> {
    const turn = await granted;
    expect(await holders()).toEqual([name]);
    expect(turn.grantedAt - since).toBeLessThan(within);
    return turn;
  }

  /** All of them in this order, each giving the key back at once. */
  async function expectServedInOrder(all: readonly Waiting[], since: number, each: number) {
    let from = since;
    for (const waiting of all) {
      const turn = await expectServed(waiting, from, each);
      from = monotonic();
      await turn.release();
    }
  }

  /** Resolves when bytes with this text come by, and does with them, and with each such after them, as it's told. */
  function onRequest(proxy: TcpProxy, text: string, verdict: 'hold' | 'pass'): Promise<void> {
    return new Promise((resolve) => {
      proxy.onRequest = (bytes) => {
        if (!bytes.includes(text)) return 'pass';
        resolve();
        return verdict;
      };
    });
  }

  function onReply(proxy: TcpProxy, text: string, verdict: 'hold' | 'swallow'): Promise<void> {
    return new Promise((resolve) => {
      proxy.onReply = (bytes) => {
        if (!bytes.includes(text)) return 'pass';
        resolve();
        return verdict;
      };
    });
  }

  /** Lets the next command for the key pass, and holds its reply and all that come after it. */
  function holdReplyTo(proxy: TcpProxy): Promise<void> {
    return onRequest(proxy, `{${key}}`, 'pass').then(() => {
      proxy.onReply = () => 'hold';
    });
  }

  function letPass(proxy: TcpProxy): void {
    proxy.onRequest = () => 'pass';
    proxy.onReply = () => 'pass';
    proxy.resume();
  }

  /** Throws all subscribers out; how many they were. */
  async function cutSubscribers(): Promise<number> {
    return (await observer.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')) as number;
  }

  async function subscribers(): Promise<string[]> {
    return (await observer.redis.pubsub('CHANNELS', 'lock:wake:*')) as string[];
  }

  describe('the waiter aborts', () => {
    type Release = () => Promise<unknown>;
    /** Brings the hand-over to the point at which the waiter aborts. */
    const points: Record<string, (proxy: TcpProxy, release: Release) => Promise<unknown>> = {
      'before the key is reserved for it': async () => {},
      'after that, its wake-up on the way': async (proxy, release) => {
        const message = onReply(proxy, 'message', 'hold');
        await release();
        await message;
      },
      'when it was woken, its claim on the way': async (proxy, release) => {
        const claim = onRequest(proxy, `{${key}}`, 'hold');
        await release();
        await claim;
      },
      'when its claim was granted, the reply on the way': async (proxy, release) => {
        const claim = holdReplyTo(proxy);
        await release();
        await claim;
        await heldBy('quitter');
      },
    };

    it.each(
      Object.keys(points).flatMap((point) => [
        { point, where: 'another process' },
        { point, where: 'its own process' },
      ]),
    )('$point: the next, in $where, is served at once', async ({ point, where }) => {
      const proxy = await openProxy();
      const holder = open('holder');
      const quitter = open('quitter', proxy.url);
      const turn = await holder.acquire(key);
      const abort = new AbortController();
      const aborted = await queueUp(quitter, { signal: abort.signal });
      const next = await (where === 'its own process' ? lineUp(quitter) : queueUp(open('next')));
      let released: Promise<unknown> | undefined;
      const release: Release = () => (released = turn.release());

      await points[point]?.(proxy, release);
      abort.abort();
      await expect(aborted.granted).rejects.toMatchObject({ name: 'AbortError' });
      if (released === undefined) await queued(1);
      const since = monotonic();
      letPass(proxy);
      await (released ?? release());
      await expectServedInOrder([next], since, AT_ONCE);
    });
  });

  describe("the waiter's process", () => {
    it('is killed when the key was reserved for it: the next is served when the claim window is over', async () => {
      const doomed = await openRemote('doomed');
      const turn = await open('holder').acquire(key);
      await queueUp(doomed);
      const next = await queueUp(open('next'));
      // Stopped first: so the message finds its connection, and it can't claim.
      doomed.replica.pause();
      const freedAt = monotonic();
      await turn.release();
      expect(await holders()).toEqual([]);
      expect((await asker.inspect(key)).pending).toHaveLength(1);
      await doomed.replica.kill();
      await expectServedInOrder([next], freedAt, CLAIM_WINDOW + SLACK);
    });

    it('is killed when its claim was granted, before it knew: the next is served when that lease is over', async () => {
      const proxy = await openProxy();
      const doomed = await openRemote('doomed', proxy.url, { ttl: TTL });
      const turn = await open('holder').acquire(key);
      await queueUp(doomed);
      const next = await queueUp(open('next'));
      const claim = holdReplyTo(proxy);
      await turn.release();
      await claim;
      await heldBy('doomed');
      await doomed.replica.kill();
      await expectServedInOrder([next], monotonic(), TTL + SLACK);
    });

    it('is stopped when the key is reserved for it, and goes on late: it does not hold, and is served later', async () => {
      const sleeper = await openRemote('sleeper');
      const turn = await open('holder').acquire(key);
      const late = await queueUp(sleeper);
      const second = await queueUp(open('second'));
      const third = await queueUp(open('third'));
      sleeper.replica.pause();
      const freedAt = monotonic();
      await turn.release();
      await expectServedInOrder([second], freedAt, CLAIM_WINDOW + SLACK);
      const last = await expectServed(third, monotonic(), AT_ONCE);

      // It finds the message that woke it, long ago, and asks.
      sleeper.replica.resume();
      await queued(1);
      expect(await sleeper.replica.beliefs()).toEqual([]);
      expect(await holders()).toEqual(['third']);
      const since = monotonic();
      await last.release();
      await expectServedInOrder([late], since, AT_ONCE);
    });

    it('is stopped when its claim was granted, and goes on after that lease: it does not hold, and is served later', async () => {
      const proxy = await openProxy();
      // Its command doesn't time out before: the grant itself must be found too old.
      const sleeper = await openRemote('sleeper', proxy.url, { ttl: TTL, commandTimeout: '20s' });
      const turn = await open('holder').acquire(key);
      const late = await queueUp(sleeper);
      const next = await queueUp(open('next'));
      const claim = holdReplyTo(proxy);
      await turn.release();
      await claim;
      await heldBy('sleeper');
      sleeper.replica.pause();
      const last = await expectServed(next, monotonic(), TTL + SLACK);

      // It finds the reply that says "granted", long ago.
      letPass(proxy);
      sleeper.replica.resume();
      await queued(1);
      expect(await sleeper.replica.beliefs()).toEqual([]);
      expect(await holders()).toEqual(['next']);
      const since = monotonic();
      await last.release();
      await expectServedInOrder([late], since, AT_ONCE);
    });
  });

  describe("the waiter's subscriber connection", () => {
    it('is cut and comes back before the release: it is woken over the new one', async () => {
      const turn = await open('holder').acquire(key);
      const first = await queueUp(open('first'));
      // The holders' as well.
      const count = await cutSubscribers();
      expect(count).toBeGreaterThan(1);
      expect(await subscribers()).toEqual([]);
      await eventually(async () => (await subscribers()).length === count);
      const freedAt = monotonic();
      await turn.release();
      await expectServedInOrder([first], freedAt, AT_ONCE);
    });

    it('is cut between the release and the claim, and the message with it: it keeps its turn', async () => {
      const proxy = await openProxy();
      const turn = await open('holder').acquire(key);
      const first = await queueUp(open('first', proxy.url));
      const second = await queueUp(open('second'));
      const message = onReply(proxy, 'message', 'swallow');
      const freedAt = monotonic();
      await turn.release();
      await message;
      expect(await cutSubscribers()).toBeGreaterThan(2);
      letPass(proxy);
      await expectServedInOrder([first, second], freedAt, CLAIM_WINDOW);
    });
  });

  describe('the wake-up', () => {
    it.each([
      { ack: 'late', bound: AT_ONCE },
      { ack: 'never', bound: COMMAND_TIMEOUT + SLACK },
    ])(
      'would come before the first SUBSCRIBE is acknowledged ($ack): nobody sleeps through it',
      async ({ ack, bound }) => {
        const proxy = await openProxy();
        const turn = await open('holder').acquire(key);
        const acknowledged = onReply(proxy, 'subscribe', 'hold');
        const first = begin(open('first', proxy.url));
        await acknowledged;
        const freedAt = monotonic();
        await turn.release();
        if (ack === 'late') letPass(proxy);
        await expectServedInOrder([first], freedAt, bound);
        letPass(proxy);
      },
    );

    it.each([
      { ack: 'late', bound: AT_ONCE },
      // After its timeout another connection is made, over which it looks.
      { ack: 'never', bound: COMMAND_TIMEOUT + LONGEST_RECONNECT + CLAIM_WINDOW },
    ])(
      'comes before a renewed SUBSCRIBE is acknowledged ($ack): it is served all the same',
      async ({ ack, bound }) => {
        const proxy = await openProxy();
        const turn = await open('holder').acquire(key);
        const first = await queueUp(open('first', proxy.url));
        const acknowledged = onReply(proxy, 'subscribe', 'hold');
        const count = await cutSubscribers();
        await acknowledged;
        // The server counts it as a listener: it will publish, and reserve.
        await eventually(async () => (await subscribers()).length === count);
        proxy.onReply = () => 'pass';
        const freedAt = monotonic();
        await turn.release();
        if (ack === 'late') letPass(proxy);
        await expectServedInOrder([first], freedAt, bound);
        letPass(proxy);
      },
    );

    it('never comes: the next is served when the claim window is over, and the deaf one when it looks for itself', async () => {
      const proxy = await openProxy();
      const turn = await open('holder').acquire(key);
      const queuedAt = monotonic();
      const deaf = await queueUp(open('deaf', proxy.url, { ttl: 2 * LOOKING_TTL }));
      const next = await queueUp(open('next'));
      const message = onReply(proxy, 'message', 'swallow');
      const freedAt = monotonic();
      await turn.release();
      await message;
      await expectServedInOrder([next], freedAt, CLAIM_WINDOW + SLACK);
      await expectServedInOrder([deaf], queuedAt, LOOKING_TTL + SLACK);
    });

    it.each(['twice', 'to all who wait'])(
      'comes %s while the key is held: nobody gets it, and the order stays',
      async (which) => {
        const turn = await open('holder').acquire(key);
        const all: Waiting[] = [];
        for (const name of ['a', 'b', 'c']) all.push(await queueUp(open(name)));
        const tokens = await observer.redis.zrange(`lock:{${key}}:q`, '0', '-1');
        expect(tokens).toHaveLength(3);
        await observer.redis.config('RESETSTAT');
        const woken = which === 'twice' ? [tokens[0], tokens[0]] : tokens;
        for (const token of woken) await publish(token as string);
        // Each looks at the key.
        await eventually(async () => (await observer.calls('evalsha')) >= new Set(woken).size);
        expect(await holders()).toEqual(['holder']);
        expect((await asker.inspect(key)).pending).toHaveLength(3);
        const freedAt = monotonic();
        await turn.release();
        await expectServedInOrder(all, freedAt, AT_ONCE);
      },
    );

    it('comes to those whose turn it is not, while the key is reserved for the first: they do not get it', async () => {
      const proxy = await openProxy();
      const turn = await open('holder').acquire(key);
      const a = await queueUp(open('a', proxy.url));
      const b = await queueUp(open('b'));
      const c = await queueUp(open('c'));
      const tokens = await observer.redis.zrange(`lock:{${key}}:q`, '0', '-1');
      const message = onReply(proxy, 'message', 'hold');
      const freedAt = monotonic();
      await turn.release();
      await message;
      await observer.redis.config('RESETSTAT');
      for (const token of [...tokens, ...tokens]) await publish(token);
      await eventually(async () => (await observer.calls('evalsha')) >= 2);
      expect(await holders()).toEqual([]);
      expect((await asker.inspect(key)).pending).toHaveLength(2);
      // The first is told three times by now.
      letPass(proxy);
      await expectServedInOrder([a, b, c], freedAt, CLAIM_WINDOW);
    });

    it('comes again to one that holds, and to one that is done: nothing happens', async () => {
      const turn = await open('holder').acquire(key);
      const a = await queueUp(open('a'));
      const b = await queueUp(open('b'));
      const [token] = await observer.redis.zrange(`lock:{${key}}:q`, '0', '0');
      const freedAt = monotonic();
      await turn.release();
      const held = await expectServed(a, freedAt, AT_ONCE);
      await publish(token as string);
      expect(await holders()).toEqual(['a']);
      const since = monotonic();
      await held.release();
      await publish(token as string);
      await expectServedInOrder([b], since, AT_ONCE);
    });

    /** To all processes: only the one that knows the token heeds it. */
    async function publish(token: string): Promise<void> {
      for (const channel of await subscribers()) await observer.redis.publish(channel, token);
    }
  });

  describe('the holder', () => {
    it('crashes with waiters in its own process and in another: those who live are served when its lease is over', async () => {
      const doomed = await openRemote('doomed', server.url, { ttl: TTL });
      await doomed.acquire(key);
      // With local hand-over it waits in its process alone, of which nobody hears any more.
      begin(doomed);
      if (way.localHandover === false) await queued(1);
      const survivor = open('survivor');
      const first = await queueUp(survivor);
      const second = await lineUp(survivor);
      const third = await queueUp(open('third'));
      await doomed.replica.kill();
      const killedAt = monotonic();
      const turn = await expectServed(first, killedAt, TTL + SLACK);
      const since = monotonic();
      await turn.release();
      const both = [second, third].map(async ({ granted }) => {
        const { grantedAt, release } = await granted;
        await release();
        return grantedAt - since;
      });
      expect(Math.max(...(await Promise.all(both)))).toBeLessThan(AT_ONCE);
    });

    it.each([
      // The server never hears of the release: the key is free when the lease is over.
      { frozen: 'up', bound: TTL + SLACK },
      // The server has handed on already, while the holder still waits for its answer.
      { frozen: 'down', bound: AT_ONCE },
    ] as const)(
      "is cut off in its release ($frozen) until its lease is over: what arrives then doesn't touch the next",
      async ({ frozen, bound }) => {
        const proxy = await openProxy();
        const holder = open('holder', proxy.url, { ttl: TTL });
        const turn = await holder.acquire(key);
        const next = await queueUp(open('next'));
        proxy.hold(frozen);
        const since = monotonic();
        const released = turn.release();
        const taken = await expectServed(next, since, bound);
        expect(await released).toBe('unconfirmed');
        await eventually(() => monotonic() > since + TTL, { timeout: 2 * TTL });
        letPass(proxy);
        // What it had sent, and what it does on its own now, is behind this.
        await eventually(() => holder.locker.tryAcquire(`${key} behind`), { timeout: 3_000 });
        expect(await holders()).toEqual(['next']);
        expect(await taken.release()).toBe('released');
      },
    );

    it('has waiters of its own, and others come at the moment of its release: all are served', async () => {
      const [busy, newcomer] = [open('busy'), open('newcomer')];
      for (let round = 0; round < 20; round += 1) {
        const turn = await busy.acquire(key);
        const own = [await lineUp(busy), await lineUp(busy)];
        const since = monotonic();
        const released = turn.release();
        const all = [...own, begin(newcomer), begin(busy), begin(newcomer)];
        await Promise.all([
          released,
          ...all.map(async ({ granted }) => {
            const each = await granted;
            expect(each.grantedAt - since).toBeLessThan(AT_ONCE);
            expect(await each.release()).toBe('released');
          }),
        ]);
        await queued(0);
      }
    });
  });

  describe.each([{ lost: [':q'] }, { lost: [':w'] }, { lost: [':q', ':w'] }])(
    'the queue is lost ($lost)',
    ({ lost }) => {
      let turn: Turn;
      let all: Waiting[];

      beforeEach(async () => {
        turn = await open('holder').acquire(key);
        all = [];
        // The first looks last.
        for (const [name, ttl] of [
          ['a', LOOKING_TTL],
          ['b', LOOKING_TTL / 2],
          ['c', LOOKING_TTL / 2],
        ] as const) {
          all.push(await queueUp(open(name, server.url, { ttl })));
        }
        const deleted = await observer.redis.del(lost.map((suffix) => `lock:{${key}}${suffix}`));
        expect(deleted).toBe(lost.length);
      });

      it('while the key is held: all are back in line when they look, in their order', async () => {
        await eventually(async () => (await asker.inspect(key)).pending.length === 3, {
          timeout: LOOKING_TTL / 2 + SLACK,
          message: 'all are back in line',
        });
        const freedAt = monotonic();
        await turn.release();
        await expectServedInOrder(all, freedAt, AT_ONCE);
      });

      it('just before the release: all are served when they look', async () => {
        const freedAt = monotonic();
        await turn.release();
        const waits = all.map(async ({ granted }) => {
          const each = await granted;
          expect(await each.release()).toBe('released');
          return each.grantedAt - freedAt;
        });
        expect(Math.max(...(await Promise.all(waits)))).toBeLessThan(LOOKING_TTL / 2 + SLACK);
      });
    },
  );
});
