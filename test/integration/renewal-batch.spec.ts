/**
 * P1, P2, P6 where thousands of leases are renewed together, and different things happen to some of them.
 *
 * Model: one locker holds 5,000 keys, and while it does
 * - some are taken from it: deleted, deleted and acquired by a rival, overwritten with what isn't ours;
 * - some are released at the very moment when a renewal for them is on its way, and its reply is slow (a proxy);
 * - two more lockers of the same process hold keys on servers that freeze and that crash.
 * All of it happens in one run; then each test looks at one kind of lease. Each must come to its own end, or live on, as
 * if it were alone.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { LockEvents } from '../../lib/core/events.js';
import type { Lock, LockReleased } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { COMMAND_TIMEOUT, lockerOptions, Observer, SLACK } from './support/faults.js';
import { monotonic } from './support/replica.js';

const TTL = 4_000;
/** How long the replies to renewals are on their way, in ms. */
const SLOW = 150;
const GROUPS = {
  kept: 3_000,
  deleted: 500,
  retaken: 500,
  overwritten: 500,
  released: 500,
};
const FAILING = 250;
const FOREIGN = 'not ours';

type Group = keyof typeof GROUPS;

/** A locker, and what it has told, by key. */
class Witness {
  readonly locker: Locker;
  readonly renewed = new Set<string>();
  readonly jeopardized = new Set<string>();
  readonly lost: (LockEvents['lost'] & { readonly at: number })[] = [];

  constructor(url: string, commandTimeout: number) {
    this.locker = new Locker(lockerOptions(url, { ttl: TTL, waitTimeout: '10s', commandTimeout }));
    this.locker.on('renewed', ({ key }) => this.renewed.add(key));
    this.locker.on('jeopardy', ({ key }) => this.jeopardized.add(key));
    this.locker.on('lost', (event) => this.lost.push({ ...event, at: monotonic() }));
  }

  /** Takes `<group>-0` and so on. */
  async hold(group: string, count: number): Promise<Lock[]> {
    const locks: Lock[] = [];
    for (let start = 0; start < count; start += 250) {
      const batch = Array.from({ length: Math.min(250, count - start) }, (_, i) =>
        this.locker.acquire(`${group}-${start + i}`),
      );
      locks.push(...(await Promise.all(batch)));
    }
    return locks;
  }

  lostOf(locks: readonly Lock[]): Witness['lost'] {
    const keys = new Set(keysOf(locks));
    return this.lost.filter(({ key }) => keys.has(key));
  }
}

const keysOf = (locks: readonly Lock[]): string[] => locks.map(({ key }) => key);
const fencesOf = (locks: readonly Lock[]): number[] =>
  locks.map(({ fencingToken }) => fencingToken);

describe('A batch of renewals', () => {
  let server: RedisServer;
  let frozenServer: RedisServer;
  let killedServer: RedisServer;
  let proxy: TcpProxy;
  let observer: Observer;
  let holder: Witness;
  let rival: Witness;
  let frozen: Witness;
  let killed: Witness;
  let frozenLocks: Lock[];
  let killedLocks: Lock[];
  let rivalLocks: Lock[];
  let stolenAt: number;
  let failedAt: number;
  const locks = {} as Record<Group, Lock[]>;
  /** What came of each release, by key. */
  const releases = new Map<string, LockReleased>();

  beforeAll(async () => {
    [server, frozenServer, killedServer] = (await RedisServer.startMany(3)) as [
      RedisServer,
      RedisServer,
      RedisServer,
    ];
    proxy = await TcpProxy.start(server.port);
    observer = new Observer(server.url);
    holder = new Witness(proxy.url, 2_000);
    rival = new Witness(server.url, 2_000);
    frozen = new Witness(frozenServer.url, COMMAND_TIMEOUT);
    killed = new Witness(killedServer.url, COMMAND_TIMEOUT);

    [frozenLocks, killedLocks] = await Promise.all([
      frozen.locker.connect().then(() => frozen.hold('frozen', FAILING)),
      killed.locker.connect().then(() => killed.hold('killed', FAILING)),
    ]);
    for (const [group, count] of Object.entries(GROUPS)) {
      locks[group as Group] = await holder.hold(group, count);
    }
    const heldSince = monotonic();

    frozenServer.pause();
    await killedServer.kill();
    failedAt = monotonic();
    await steal();
    stolenAt = monotonic();
    await releaseWhileRenewed();
    await eventually(
      () =>
        monotonic() > heldSince + 1.5 * TTL &&
        frozen.lost.length + killed.lost.length === 2 * FAILING,
      { timeout: 2 * TTL, message: 'what is not renewed is over' },
    );
  }, 60_000);

  afterAll(async () => {
    frozenServer.resume();
    const lockers = [holder, rival, frozen, killed].map(({ locker }) => locker.close());
    await Promise.all(lockers);
    observer[Symbol.dispose]();
    await proxy.close();
    await Promise.all([server.stop(), frozenServer.stop(), killedServer.stop()]);
  });

  async function steal(): Promise<void> {
    const pipeline = observer.redis.pipeline();
    for (const key of keysOf([...locks.deleted, ...locks.retaken])) pipeline.del(`lock:{${key}}`);
    for (const key of keysOf(locks.overwritten)) pipeline.set(`lock:{${key}}`, FOREIGN);
    await pipeline.exec();
    rivalLocks = await rival.hold('retaken', GROUPS.retaken);
  }

  /** Releases each as soon as a renewal with it is seen on its way: before its reply. */
  async function releaseWhileRenewed(): Promise<void> {
    const byKey = new Map(locks.released.map((lock) => [lock.key, lock]));
    const all: Promise<void>[] = [];
    proxy.delay(SLOW, 'down');
    proxy.onRequest = (bytes) => {
      for (const [, key = ''] of bytes.toString('latin1').matchAll(/lock:\{(released-\d+)\}/g)) {
        const lock = byKey.get(key);
        if (lock === undefined) continue;
        byKey.delete(key);
        all.push(lock.release().then((outcome) => void releases.set(key, outcome)));
      }
      return 'pass';
    };
    await eventually(() => byKey.size === 0, { timeout: TTL, message: 'all were in a renewal' });
    await Promise.all(all);
    proxy.onRequest = () => 'pass';
    proxy.delay(0);
  }

  /** The fencing tokens of those who hold keys, as the server knows them; 0: nobody. */
  async function holdersOf(held: readonly Lock[]): Promise<number[]> {
    const states = await Promise.all(held.map(({ key }) => rival.locker.inspect(key)));
    return states.map((state) => state.held[0]?.fencingToken ?? 0);
  }

  it('prolongs those that nothing happened to, and never lost one', async () => {
    expect(locks.kept.filter((lock) => !lock.isHeld)).toEqual([]);
    expect(holder.lostOf(locks.kept)).toEqual([]);
    expect(keysOf(locks.kept).filter((key) => !holder.renewed.has(key))).toEqual([]);
    expect(await holdersOf(locks.kept)).toEqual(fencesOf(locks.kept));
    const released = await Promise.all(locks.kept.map((lock) => lock.release()));
    expect(new Set(released)).toEqual(new Set(['released']));
  });

  it.each(['deleted', 'retaken', 'overwritten'] as const)(
    'tells those that were %s that they are lost, each once and within a ttl',
    (group) => {
      const lost = holder.lostOf(locks[group]);
      expect(lost.map(({ key }) => key).toSorted()).toEqual(keysOf(locks[group]).toSorted());
      expect(new Set(lost.map(({ reason }) => reason))).toEqual(new Set(['taken']));
      expect(Math.max(...lost.map(({ at }) => at)) - stolenAt).toBeLessThan(TTL);
      const reasons = locks[group].map(({ signal }) => signal.reason as unknown);
      expect(reasons).toEqual(
        locks[group].map(({ key, fencingToken }) =>
          expect.objectContaining({ code: 'LOCK_LOST', reason: 'taken', key, fencingToken }),
        ),
      );
    },
  );

  it("doesn't touch what others made of the stolen keys", async () => {
    expect(rivalLocks.filter((lock) => !lock.isHeld)).toEqual([]);
    expect(rival.lost).toEqual([]);
    expect(await holdersOf(rivalLocks)).toEqual(fencesOf(rivalLocks));
    expect(
      rivalLocks.filter((lock, i) => lock.fencingToken <= (locks.retaken[i] as Lock).fencingToken),
    ).toEqual([]);
    const overwritten = keysOf(locks.overwritten).map((key) => `lock:{${key}}`);
    expect(new Set(await observer.redis.mget(overwritten))).toEqual(new Set([FOREIGN]));
    const ends = await Promise.all(overwritten.map((key) => observer.redis.pttl(key)));
    expect(new Set(ends)).toEqual(new Set([-1]));
    expect(new Set(await holdersOf(locks.deleted))).toEqual(new Set([0]));
  });

  it('lets those go that are released while they are renewed', async () => {
    expect(releases.size).toBe(GROUPS.released);
    expect(new Set(releases.values())).toEqual(new Set(['released']));
    expect(new Set(locks.released.map(({ state }) => state))).toEqual(new Set(['released']));
    expect(holder.lostOf(locks.released)).toEqual([]);
    expect(new Set(await holdersOf(locks.released))).toEqual(new Set([0]));
  });

  it.each(['freezes', 'crashes'])(
    'whose server %s: its leases are in jeopardy, then lost by their deadline; all others live on',
    (how) => {
      const [witness, failed] = how === 'freezes' ? [frozen, frozenLocks] : [killed, killedLocks];
      const keys = keysOf(failed).toSorted();
      expect([...witness.jeopardized].toSorted()).toEqual(keys);
      expect(witness.lost.map(({ key }) => key).toSorted()).toEqual(keys);
      expect(new Set(witness.lost.map(({ reason }) => reason))).toEqual(new Set(['expired']));
      expect(Math.max(...witness.lost.map(({ at }) => at)) - failedAt).toBeLessThan(TTL + SLACK);
      // Those of the others that are lost are those that were stolen.
      const stolen = GROUPS.deleted + GROUPS.retaken + GROUPS.overwritten;
      expect(holder.lost).toHaveLength(stolen);
    },
  );
});
