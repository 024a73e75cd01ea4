/**
 * What a `Locker` promises of locks that are shared, limited, or several at once, and of callers that wait for each other:
 * run by locker.spec.ts over Redis and over memory. Each locker stands for a process of its own.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';

import { LockBusyError, LockConfigError, LockDeadlockError } from '../../lib/core/errors.js';
import type { JointLock } from '../../lib/core/joint-lock.js';
import type { Lock } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import type { LockerStore } from './locker.suite.js';

/** What isn't offered everywhere. */
export interface LockerTraits {
  /** Limits; without, they're refused. */
  readonly limits: boolean;
  /** Circles of callers in several processes are found. */
  readonly findsCircles: boolean;
}

export function describeLockerAccess(
  title: string,
  openStore: () => Promise<LockerStore>,
  traits: LockerTraits = { limits: true, findsCircles: true },
): void {
  const itWithLimits = traits.limits ? it : it.skip;
  const itFindsCircles = traits.findsCircles ? it : it.skip;
  for (const [trait, isOffered] of Object.entries(traits)) {
    if (!isOffered) process.stdout.write(`${title}: not offered, so not tested: ${trait}\n`);
  }
  /** Those of which limits aren't, where these aren't offered. */
  function offered<T extends object | readonly object[]>(options: readonly T[]): readonly T[] {
    return options.filter((one) => traits.limits || !JSON.stringify(one).includes('limit'));
  }

  describe(`Locker: ${title}`, () => {
    let store: LockerStore;
    let locker: Locker;
    /** Another process. */
    let other: Locker;
    let key: string;
    let keys = 0;
    const lockers: Locker[] = [];

    function open(options: Omit<LockerOptions, 'connection'> = {}): Locker {
      const opened = store.open({ drainTimeout: 1, ...options });
      lockers.push(opened);
      return opened;
    }

    function newKey(): string {
      keys += 1;
      return `key ${keys}`;
    }

    beforeAll(async () => {
      store = await openStore();
    });

    beforeEach(async () => {
      key = newKey();
      locker = open();
      other = open();
      await Promise.all([locker.connect(), other.connect()]);
    });

    afterEach(async () => {
      await Promise.all(lockers.splice(0).map((one) => one.close()));
      await eventually(async () => (await store.leftovers()).length === 0, {
        message: 'nothing is left behind',
      });
    });

    afterAll(async () => {
      await store.close();
    });

    /** Resolves when so many processes stand in the queue of the key. */
    function pending(count: number): Promise<unknown> {
      return eventually(async () => (await locker.inspect(key)).pending.length === count, {
        message: `${count} processes wait`,
      });
    }

    /** Notes when work begins and ends, and how many ran at once. */
    function counted(): { most: number; total: number; work(): Promise<void> } {
      let running = 0;
      return {
        most: 0,
        total: 0,
        async work() {
          running += 1;
          this.total += 1;
          this.most = Math.max(this.most, running);
          await new Promise((resolve) => setTimeout(resolve, 2));
          running -= 1;
        },
      };
    }

    async function rejection(promise: Promise<unknown>): Promise<unknown> {
      return promise.then(
        (value) => {
          throw new Error(`Fulfilled with ${String(value)}`);
        },
        (error: unknown) => error,
      );
    }

    describe('forceRelease', () => {
      it('takes a shared key from every reader, and several keys of one lock each by itself', async () => {
        const readers = [
          await locker.acquire(key, { mode: 'shared' }),
          await other.acquire(key, { mode: 'shared', label: 'export' }),
        ];
        const writer = other.acquire(key);
        await pending(1);
        const outcome = await locker.forceRelease(key);
        expect(outcome).toMatchObject({
          kind: 'released',
          held: readers.map(({ fencingToken }) => ({ fencingToken, access: 'shared' })),
        });
        await (await writer).release();
        for (const { signal } of readers) await eventually(() => signal.aborted);

        const [one, two] = [newKey(), newKey()];
        const joint = await locker.acquire([one, two]);
        const waits = other.acquire(two);
        await eventually(async () => (await other.inspect(two)).pending.length === 1);
        await other.forceRelease(two, { reason: 'stuck' });
        await eventually(() => joint.signal.aborted);
        expect(joint.signal.reason).toMatchObject({ key: two, reason: 'forced' });
        expect(await joint.release()).toBe('lost');
        await (await waits).release();
        expect((await other.inspect(one)).held).toEqual([]);
      });
    });

    describe("mode: 'shared'", () => {
      it('lets readers of all processes in together, and no writer with them', async () => {
        const readers = await Promise.all(
          [locker, other, locker].map((one) => one.acquire(key, { mode: 'shared' })),
        );
        expect(readers.every(({ isHeld, access }) => isHeld && access === 'shared')).toBe(true);
        expect(new Set(readers.map(({ fencingToken }) => fencingToken)).size).toBe(3);
        expect(await other.tryAcquire(key)).toBeNull();
        for (const reader of readers) await reader.release();
        const writer = await other.acquire(key);
        expect(writer.fencingToken).toBeGreaterThan(
          Math.max(...readers.map(({ fencingToken }) => fencingToken)),
        );
        expect(await locker.tryAcquire(key, { mode: 'shared' })).toBeNull();
        await writer.release();
      });

      it('lets a hundred readers of one process in at once, also after a writer', async () => {
        for (const behindWriter of [false, true]) {
          const writer = behindWriter ? await other.acquire(key) : undefined;
          const inside: Lock[] = [];
          const readers = Array.from({ length: 100 }, async () => {
            inside.push(await locker.acquire(key, { mode: 'shared' }));
          });
          if (writer !== undefined) {
            await pending(1);
            await writer.release();
          }
          // None leaves before all are in.
          await Promise.all(readers);
          expect(inside.filter(({ isHeld }) => isHeld)).toHaveLength(100);
          await Promise.all(inside.map((lock) => lock.release()));
        }
      });

      it.each(['the same process', 'another process'])(
        'a waiting writer of %s stops readers that come later, and they come after it',
        async (whose) => {
          const writers = whose === 'another process' ? other : locker;
          const reader = await locker.acquire(key, { mode: 'shared' });
          const order: string[] = [];
          const writer = writers.using(key, async () => order.push('writer'));
          await pending(1);
          expect(await locker.tryAcquire(key, { mode: 'shared' })).toBeNull();
          const later = locker.using(key, { mode: 'shared' }, async () => order.push('reader'));
          await reader.release();
          await Promise.all([writer, later]);
          expect(order).toEqual(['writer', 'reader']);
        },
      );

      it("doesn't starve writers by a stream of readers, nor readers by writers", async () => {
        const turns = { readers: 0, writers: 0 };
        const stop = new AbortController();
        const readers = [locker, other, locker, other].map(async (one) => {
          while (!stop.signal.aborted) {
            await one.using(key, { mode: 'shared' }, () => new Promise((r) => setTimeout(r, 3)));
            turns.readers += 1;
          }
        });
        const writers = [locker, other].map(async (one) => {
          for (let i = 0; i < 20; i += 1) {
            const before = turns.readers;
            await one.using(key, () => new Promise((r) => setTimeout(r, 1)));
            turns.writers += 1;
            // Those who were ahead of it had their turns, and each at most some more while it queued.
            expect(turns.readers - before).toBeLessThan(40);
          }
        });
        await Promise.all(writers);
        stop.abort();
        await Promise.all(readers);
        expect(turns.writers).toBe(40);
        expect(turns.readers).toBeGreaterThan(20);
      });

      it('a writer that gives up lets in the readers behind it', async () => {
        const reader = await locker.acquire(key, { mode: 'shared' });
        const controller = new AbortController();
        const writer = rejection(other.acquire(key, { signal: controller.signal }));
        await pending(1);
        const later = locker.acquire(key, { mode: 'shared' });
        await pending(2);
        controller.abort(new Error('changed my mind'));
        await writer;
        const entered = await later;
        expect(reader.isHeld && entered.isHeld).toBe(true);
        await entered.release();
        await reader.release();
      });

      it('a writer that gives up lets in the reader behind it in its process, and others', async () => {
        const reader = await other.acquire(key, { mode: 'shared', ttl: '30s' });
        const since = performance.now();
        const writer = rejection(locker.acquire(key, { ttl: '30s', waitTimeout: 200 }));
        const later = locker.acquire(key, { mode: 'shared', ttl: '30s' });
        await pending(1);
        const third = open();
        const elsewhere = third.acquire(key, { mode: 'shared', ttl: '30s' });
        await writer;
        for (const lock of await Promise.all([later, elsewhere])) await lock.release();
        expect(performance.now() - since).toBeLessThan(3_000);
        await reader.release();
      });

      it('what waits is told when the end of the last reader has come nearer', async () => {
        const long = await locker.acquire(key, { mode: 'shared', ttl: '30s' });
        const backend = store.openBackend();
        const [name, token] = [LockName.of('lock', key), 'crashed'];
        const notAfter = performance.now() + 5_000;
        const crashed = { name, token, ttl: 1_500, access: 'shared' as const, notAfter };
        await backend.tryAcquire({ ...crashed, place: undefined });
        const since = performance.now();
        const writer = other.acquire(key, { ttl: '30s' });
        await pending(1);
        await long.release();
        await (await writer).release();
        expect(performance.now() - since).toBeLessThan(5_000);
        await backend.close();
      });

      it.each([
        ['and nobody waits', false],
        ['and one that waits goes away only then', true],
      ])(
        "a reader that crashed isn't remembered for the ttl of one that has left: it ends by itself, %s",
        async (_, somebodyWaits) => {
          const long = await locker.acquire(key, { mode: 'shared', ttl: '30s' });
          const backend = store.openBackend();
          const [name, notAfter] = [LockName.of('lock', key), performance.now() + 5_000];
          const crashed = { name, token: 'crashed', ttl: 200, access: 'shared' as const, notAfter };
          await backend.tryAcquire({ ...crashed, place: undefined });
          const waits = { name, token: 'waits', ttl: 200, notAfter };
          if (somebodyWaits) {
            const place = { aliveFor: 30_000, sequence: undefined };
            await backend.tryAcquire({ ...waits, place });
            await pending(1);
          }
          await long.release();
          await eventually(async () => (await locker.inspect(key)).held.length === 0);
          if (somebodyWaits) await backend.cancel(waits);
          await eventually(async () => (await store.leftovers()).length === 0, { timeout: 2_000 });
          await backend.close();
        },
      );

      it('renews shared leases', async () => {
        const lock = await locker.acquire(key, { mode: 'shared', ttl: 300 });
        const since = performance.now();
        await eventually(() => performance.now() - since > 900);
        expect(lock.isHeld).toBe(true);
        expect(await other.tryAcquire(key)).toBeNull();
        expect(await lock.release()).toBe('released');
      });

      it('tells of a busy key by skipping, throwing, and in the interval of `holdAtLeast`', async () => {
        const writer = await other.acquire(key);
        const options = { mode: 'shared' } as const;
        const skipped = locker.using(key, { ...options, onBusy: 'skip' }, () => 1);
        expect(await skipped).toBeUndefined();
        const thrown = locker.acquire(key, { ...options, onBusy: 'throw' });
        expect(await rejection(thrown)).toBeInstanceOf(LockBusyError);
        await writer.release();
        await locker.using(key, { ...options, holdAtLeast: 300 }, async () => {});
        expect(await other.tryAcquire(key)).toBeNull();
        await (await other.acquire(key)).release();
      });
    });

    describe('limit', () => {
      if (!traits.limits) {
        it('is refused, with the reason, for one key and for several', async () => {
          for (const asked of [
            locker.acquire(key, { limit: 3 }),
            locker.tryAcquire(key, { limit: 3 }),
            locker.using([key, newKey()], { limit: 3 }, () => 1),
          ]) {
            const error = await rejection(asked);
            expect(error).toMatchObject({ code: 'LOCK_CONFIG', option: 'limit', value: 3 });
            expect((error as Error).message).toMatch(/majorities.*Use one Redis/);
          }
          expect(await store.leftovers()).toEqual([]);
        });
      }

      itWithLimits.each([1, 2, 5])('lets %i in at once, over all processes', async (limit) => {
        const section = counted();
        await Promise.all(
          Array.from({ length: 40 }, (_, i) =>
            (i % 2 === 0 ? locker : other).using(key, { limit }, () => section.work()),
          ),
        );
        expect(section.total).toBe(40);
        expect(section.most).toBeLessThanOrEqual(limit);
        expect(section.most).toBeGreaterThanOrEqual(Math.min(limit, 2));
      });

      itWithLimits(
        'gives places in the order in which they were asked for, also within a process',
        async () => {
          const held = [
            await locker.acquire(key, { limit: 2 }),
            await other.acquire(key, { limit: 2 }),
          ];
          const order: number[] = [];
          const waiting: Promise<unknown>[] = [];
          for (const [index, one] of [locker, locker, other, locker].entries()) {
            waiting.push(
              one.using(key, { limit: 2 }, async () => {
                order.push(index);
                await new Promise((resolve) => setTimeout(resolve, 5));
              }),
            );
            // In the order of their calls, as far as a process can tell another's from its own.
            const since = performance.now();
            await eventually(() => performance.now() - since > 20);
          }
          await held[0]?.release();
          await Promise.all(waiting);
          await held[1]?.release();
          expect(order).toEqual([0, 1, 2, 3]);
        },
      );

      itWithLimits('refuses another limit for a key that is held, and names both', async () => {
        const lock = await locker.acquire(key, { limit: 3 });
        for (const asked of [
          other.acquire(key, { limit: 5 }),
          other.tryAcquire(key, { limit: 5 }),
          locker.using(key, { limit: 5, onBusy: 'skip' }, () => 1),
          locker.acquire([key, newKey()], { limit: 5 }),
        ]) {
          const error = await rejection(asked);
          expect(error).toBeInstanceOf(LockConfigError);
          expect(error).toMatchObject({ option: 'limit', value: 5 });
          expect((error as Error).message).toMatch(/to be 3, .* got 5/);
        }
        await lock.release();
      });

      itWithLimits(
        'in a line of callers refuses the one that gave another, not the one behind it',
        async () => {
          const held = await other.acquire(key, { limit: 1 });
          const first = locker.acquire(key, { limit: 1 });
          await pending(1);
          const controller = new AbortController();
          const bad = rejection(locker.acquire(key, { limit: 5, signal: controller.signal }));
          const good = locker.acquire(key, { limit: 1 });
          await held.release();
          const lock = await first;
          controller.abort();
          await bad;
          await lock.release();
          const after = await good;
          expect(after.access).toBe('limit:1');
          await after.release();
        },
      );

      it('is a whole number, and not given together with a mode', async () => {
        for (const limit of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '3', null]) {
          const error = await rejection(locker.acquire(key, { limit: limit as number }));
          expect(error).toMatchObject({ code: 'LOCK_CONFIG', option: 'limit' });
        }
        const both = locker.acquire(key, { limit: 2, mode: 'shared' });
        expect(await rejection(both)).toMatchObject({ code: 'LOCK_CONFIG', option: 'limit' });
      });

      itWithLimits('as a default gives way to a mode, and a mode to a limit', async () => {
        const limited = open({ limit: 2 });
        const shared = open({ mode: 'shared' });
        expect((await limited.acquire(newKey())).access).toBe('limit:2');
        expect((await limited.acquire(newKey(), { mode: 'shared' })).access).toBe('shared');
        expect((await shared.acquire(newKey())).access).toBe('shared');
        expect((await shared.acquire(newKey(), { limit: 4 })).access).toBe('limit:4');
      });
    });

    describe('re-entry', () => {
      it('into the same access: on the same lease, no second place', async () => {
        const all = [{ mode: 'shared' }, { limit: 1 }, { limit: 2 }] as const;
        for (const options of offered(all)) {
          await locker.using(key, options, (outer) =>
            locker.using(key, options, async (inner) => {
              expect(inner.fencingToken).toBe(outer.fencingToken);
              expect((await other.inspect(key)).held).toHaveLength(1);
            }),
          );
        }
      });

      it('into anything from an exclusive lock', async () => {
        for (const options of offered([{ mode: 'shared' }, { limit: 2 }] as const)) {
          await locker.using(key, () =>
            locker.using(key, options, async () => {
              expect(await other.tryAcquire(key, options)).toBeNull();
            }),
          );
        }
      });

      it('from a shared lock into an exclusive one is refused at once: it would wait for itself', async () => {
        const all = [
          [{ mode: 'shared' }, { mode: 'exclusive' }],
          [{ limit: 2 }, { mode: 'exclusive' }],
          [{ mode: 'shared' }, { limit: 2 }],
        ] as const;
        for (const [held, asked] of offered(all)) {
          await locker.using(key, held, async () => {
            const error = await rejection(locker.acquire(key, asked));
            expect(error).toBeInstanceOf(LockDeadlockError);
            expect(error).toMatchObject({ code: 'LOCK_DEADLOCK', key, circle: [key, key] });
          });
        }
      });

      it('calls side by side below a shared lock need not take turns', async () => {
        const options = { mode: 'shared' } as const;
        await locker.using(key, options, async () => {
          let inside = 0;
          const both = () => eventually(() => inside === 2);
          const enter = () =>
            locker.using(key, options, async () => {
              inside += 1;
              await both();
            });
          await Promise.all([enter(), enter()]);
        });
      });
    });

    describe('downgrade', () => {
      it('lets waiting readers in, no writer between, and keeps the fencing token', async () => {
        const lock = await locker.acquire(key);
        const { fencingToken } = lock;
        const reader = other.acquire(key, { mode: 'shared' });
        const local = locker.acquire(key, { mode: 'shared' });
        await pending(2);
        let written = false;
        const writer = other.using(key, async () => (written = true));
        await lock.downgrade();
        expect(lock).toMatchObject({ access: 'shared', isHeld: true, fencingToken });
        const [one, two] = await Promise.all([reader, local]);
        expect(written).toBe(false);
        await lock.downgrade();
        await Promise.all([one.release(), two.release()]);
        expect(await lock.release()).toBe('released');
        await writer;
      });

      it('and a call that enters again at the same time never both count on being alone', async () => {
        await locker.using(key, async (lock) => {
          const entering = locker.acquire(key);
          const [inner, downgraded] = await Promise.allSettled([entering, lock.downgrade()]);
          expect([inner.status, downgraded.status].toSorted()).toEqual(['fulfilled', 'rejected']);
          if (inner.status === 'fulfilled') await inner.value.release();
        });
        await locker.using(key, async (lock) => {
          const one = await locker.acquire(key);
          // A sibling that waits for its turn, and gets it as the lock is downgraded.
          const sibling = locker.acquire(key);
          await one.release();
          const [inner, downgraded] = await Promise.allSettled([sibling, lock.downgrade()]);
          expect([inner.status, downgraded.status].toSorted()).toEqual(['fulfilled', 'rejected']);
          if (inner.status === 'fulfilled') await inner.value.release();
        });
      });

      it('of several keys is for all of them or none', async () => {
        const more = newKey();
        await locker.using(key, async () => {
          const lock = await locker.acquire([key, more]);
          expect(await rejection(lock.downgrade())).toMatchObject({ code: 'LOCK_CONFIG' });
          expect(await other.tryAcquire(more, { mode: 'shared' })).toBeNull();
          await lock.release();
        });
        const lock = await locker.acquire([key, more]);
        await lock.downgrade();
        const reader = await other.acquire([key, more], { mode: 'shared' });
        await reader.release();
        await lock.release();
      });

      it('is still renewed', async () => {
        const lock = await locker.acquire(key, { ttl: 300 });
        await lock.downgrade();
        const since = performance.now();
        await eventually(() => performance.now() - since > 900);
        expect(lock.isHeld).toBe(true);
        expect(await lock.release()).toBe('released');
      });

      it('is refused with a limit, while the lock was entered again, and after its release', async () => {
        for (const options of offered([{ limit: 2 }])) {
          const limited = await locker.acquire(key, options);
          expect(await rejection(limited.downgrade())).toMatchObject({ code: 'LOCK_CONFIG' });
          await limited.release();
        }
        await locker.using(key, async (lock) => {
          await locker.using(key, async () => {
            expect(await rejection(lock.downgrade())).toMatchObject({ code: 'LOCK_CONFIG' });
          });
          await lock.downgrade();
        });
        const lock = await locker.acquire(key);
        await lock.release();
        expect(await rejection(lock.downgrade())).toMatchObject({ code: 'LOCK_LOST' });
      });
    });

    describe('several keys', () => {
      let more: string;
      beforeEach(() => {
        more = newKey();
      });

      it('are held together under one fencing token, and given back together', async () => {
        const before = await locker.acquire(more);
        await before.release();
        const lock = await locker.acquire([key, more, key]);
        expect(lock.keys).toEqual([key, more].toSorted());
        expect(lock.fencingToken).toBeGreaterThan(before.fencingToken);
        expect([...lock.fencingTokens.values()]).toEqual([lock.fencingToken, lock.fencingToken]);
        expect(lock).toMatchObject({ isHeld: true, state: 'held' });
        for (const one of [key, more]) expect(await other.tryAcquire(one)).toBeNull();
        await lock.extend();
        expect(await lock.release()).toBe('released');
        for (const one of [key, more]) await (await other.acquire(one)).release();
        expect(() => lock.assertHeld()).toThrow(/no longer held/);
      });

      it('of which one is listed twice count it once: taken once, released once, and not waited for', async () => {
        const lock = await locker.acquire([key, more, key], { waitTimeout: '2s' });
        expect(lock.keys).toEqual([key, more].toSorted());
        expect(lock.fencingTokens.size).toBe(2);
        expect((await other.inspect(key)).held).toMatchObject([
          { fencingToken: lock.fencingToken, access: 'exclusive' },
        ]);
        let released = 0;
        locker.on('released', (event) => (released += event.key === key ? 1 : 0));
        expect(await lock.release()).toBe('released');
        expect(released).toBe(1);
        expect((await other.inspect(key)).held).toEqual([]);
      });

      it('of which one is listed twice are waited for as well', async () => {
        const held = await other.acquire(key);
        const lock = locker.acquire([key, more, key], { waitTimeout: '5s' });
        await eventually(async () => (await other.inspect(key)).pending.length === 1);
        await held.release();
        expect((await lock).keys).toEqual([key, more].toSorted());
        // Below its holder too, where it's entered again, once.
        expect(
          await locker.using(
            [key, more, key],
            { within: await lock, waitTimeout: 500 },
            () => 'in',
          ),
        ).toBe('in');
        expect(await (await lock).release()).toBe('released');
        await (await other.acquire(key, { waitTimeout: 500 })).release();
      });

      it('of which one is held by another: none is taken', async () => {
        const held = await other.acquire(more);
        expect(await locker.tryAcquire([key, more])).toBeNull();
        expect(await locker.using([key, more], { onBusy: 'skip' }, () => 1)).toBeUndefined();
        const error = await rejection(locker.acquire([key, more], { onBusy: 'throw' }));
        expect(error).toMatchObject({ code: 'LOCK_BUSY', key: more });
        await (await other.acquire(key)).release();
        await held.release();
      });

      it('are waited for within one budget; what was taken meanwhile is given back', async () => {
        const held = await other.acquire(more);
        const since = performance.now();
        const error = await rejection(locker.acquire([more, key], { waitTimeout: 200 }));
        expect(performance.now() - since).toBeGreaterThan(190);
        expect(error).toMatchObject({ code: 'LOCK_TIMEOUT', key: more });
        await (await other.acquire(key)).release();
        await held.release();
      });

      it('that had to be waited for have one fencing token as well, larger than all before', async () => {
        const held = await other.acquire(more);
        const lock = locker.acquire([key, more]);
        await eventually(async () => (await other.inspect(more)).pending.length === 1);
        await held.release();
        const got = await lock;
        expect(new Set(got.fencingTokens.values()).size).toBe(1);
        expect(got.fencingToken).toBeGreaterThan(held.fencingToken);
        for (const one of [key, more]) {
          expect((await other.inspect(one)).held).toMatchObject([
            { fencingToken: got.fencingToken },
          ]);
        }
        await got.release();
        const next = await other.acquire(key);
        expect(next.fencingToken).toBeGreaterThan(got.fencingToken);
        await next.release();
      });

      it('asked for in opposite orders never block each other', async () => {
        const third = newKey();
        const section = counted();
        const orders = [
          [key, more, third],
          [third, more, key],
          [more, third],
          [third, key],
        ];
        await Promise.all(
          Array.from({ length: 60 }, (_, i) =>
            (i % 2 === 0 ? locker : other).using(
              [...(orders[i % orders.length] as string[]), third],
              () => section.work(),
            ),
          ),
        );
        expect(section).toMatchObject({ total: 60, most: 1 });
      });

      it('of which not all could be had, leave nothing behind of `holdAtLeast`', async () => {
        const held = await other.acquire(more);
        const options = { holdAtLeast: '20s', waitTimeout: 200 } as const;
        const error = await rejection(locker.using([key, more], options, () => {}));
        expect(error).toMatchObject({ code: 'LOCK_TIMEOUT', heldKeys: [] });
        expect(await locker.using([key, more], { ...options, onBusy: 'skip' }, () => 1)).toBe(
          undefined,
        );
        const since = performance.now();
        await (await other.acquire(key)).release();
        expect(performance.now() - since).toBeLessThan(3_000);
        await held.release();
      });

      it('can be had beside waiters that are dead', async () => {
        const reader = await locker.acquire(key, { mode: 'shared' });
        const backend = store.openBackend();
        const notAfter = performance.now() + 5_000;
        await backend.tryAcquire({
          ...{ name: LockName.of('lock', key), token: 'dead', ttl: 1_000, notAfter },
          place: { aliveFor: 300, sequence: undefined },
        });
        expect(await other.tryAcquire([key, more], { mode: 'shared' })).toBeNull();
        const lock = await eventually(() => other.tryAcquire([key, more], { mode: 'shared' }));
        await lock.release();
        await reader.release();
        await backend.close();
      });

      it('that are asked for while it drains are refused, also half-way', async () => {
        const held = await other.acquire(more);
        const waiting = rejection(locker.using([key, more], async () => {}));
        await eventually(async () => (await other.inspect(more)).pending.length === 1);
        locker.stopGranting();
        expect(await waiting).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'shutting-down' });
        await held.release();
        await (await other.acquire(key)).release();
      });

      it('are at most 1,000', async () => {
        const many = Array.from({ length: 1_001 }, (_, i) => `${key}:${i}`);
        expect(await rejection(locker.acquire(many))).toMatchObject({ code: 'LOCK_KEY' });
      });

      it('of which one was lost: the error says which, and how', async () => {
        const backend = store.openBackend();
        const error = await rejection(
          locker.using([key, more], { ttl: 300 }, async (lock) => {
            const lost = (lock as unknown as JointLock).parts.find((part) => part.key === more);
            await backend.cancel((lost as JointLock['parts'][0]).lease);
            await eventually(() => !lock.isHeld);
          }),
        );
        expect(error).toMatchObject({ code: 'LOCK_LOST', key: more, reason: 'taken' });
        await backend.close();
      });

      it('of which one was lost, are no longer that of the call', async () => {
        const backend = store.openBackend();
        await locker.using(newKey(), async (outer) => {
          const work = locker.using([key, more], { ttl: 300 }, async (lock) => {
            expect(locker.current()).toBe(lock);
            const [lost, left] = (lock as unknown as JointLock).parts;
            await backend.cancel((lost as JointLock['parts'][0]).lease);
            await eventually(() => !lock.isHeld);
            expect(left?.isHeld).toBe(true);
            expect(locker.current()).toBe(outer);
            expect([locker.current(key), locker.current(more)]).toEqual([undefined, undefined]);
          });
          expect(await rejection(work)).toMatchObject({ code: 'LOCK_LOST' });
        });
        await backend.close();
      });

      it('losing one is losing all', async () => {
        const lock = (await locker.acquire([key, more], { ttl: 300 })) as Lock & JointLock;
        const backend = store.openBackend();
        await backend.cancel((lock.parts[0] as JointLock['parts'][0]).lease);
        await eventually(() => !lock.isHeld);
        expect(lock.signal.aborted).toBe(true);
        expect(lock.state).toBe('lost');
        expect(() => lock.assertHeld()).toThrow(/no longer held/);
        expect(await lock.release()).toBe('lost');
        await (await other.acquire(more)).release();
        await backend.close();
      });

      it('can be entered again below, each by itself and with others', async () => {
        await locker.using([key, more], async (lock) => {
          expect(locker.current()).toBe(lock);
          expect(locker.current(key)?.key).toBe(key);
          await locker.using(key, async (inner) => {
            expect(inner.fencingToken).toBe(lock.fencingToken);
          });
          // Tokens are times; in memory they're of whole milliseconds.
          const taken = Date.now();
          await eventually(() => Date.now() > taken + 1);
          await locker.using([more, newKey()], async (inner) => {
            expect(inner.isHeld).toBe(true);
            expect(inner.fencingTokens.get(more)).toBe(lock.fencingToken);
            expect(() => inner.fencingToken).toThrow(LockConfigError);
          });
          const within = await locker.acquire([key, more], { within: lock });
          await within.release();
        });
      });

      it('can be shared', async () => {
        const readers = await Promise.all(
          [locker, other].map((one) => one.acquire([key, more], { mode: 'shared' })),
        );
        expect(await other.tryAcquire(key)).toBeNull();
        await Promise.all(readers.map((lock) => lock.release()));
        await (await other.acquire([key, more])).release();
      });

      it('are one at least', async () => {
        expect(await rejection(locker.acquire([]))).toMatchObject({ code: 'LOCK_KEY' });
        expect(await rejection(locker.acquire([key, '']))).toMatchObject({ code: 'LOCK_KEY' });
        const single = await locker.acquire([key]);
        expect(single.keys).toEqual([key]);
        await single.release();
      });
    });

    describe('callers that wait for each other', () => {
      /** Takes the first key, and the next when told. */
      function chain(one: Locker, [first, ...rest]: string[], go: Promise<void>): Promise<string> {
        if (first === undefined) return Promise.resolve('done');
        return one.using(first, async () => {
          await go;
          return chain(one, rest, go);
        });
      }

      it.each([2, 3, 5])(
        '%i in a circle: the youngest is refused at once, the others go on',
        async (size) => {
          const ring = Array.from({ length: size }, newKey);
          let start!: () => void;
          const go = new Promise<void>((resolve) => (start = resolve));
          const since = performance.now();
          const chains = ring.map((from, i) => {
            return chain(locker, [from, ring[(i + 1) % size] as string], go);
          });
          await eventually(async () => {
            const states = await Promise.all(ring.map((one) => other.inspect(one)));
            return states.every(({ held }) => held.length === 1);
          });
          start();
          const outcomes = await Promise.allSettled(chains);
          const refused = outcomes.flatMap((o) =>
            o.status === 'rejected' ? [o.reason as unknown] : [],
          );
          expect(refused).toHaveLength(1);
          const [error] = refused;
          expect(error).toBeInstanceOf(LockDeadlockError);
          const { circle, message } = error as LockDeadlockError;
          expect([...new Set(circle)].toSorted()).toEqual([...ring].toSorted());
          expect(circle[0]).toBe(circle.at(-1));
          for (const one of ring) expect(message).toContain(one);
          expect(performance.now() - since).toBeLessThan(8_000);
        },
      );

      /** Callers of different processes, each with a key that it holds and one that it asks for once all hold theirs. */
      async function chainsOf(
        processes: readonly Locker[],
        keysOf: readonly (readonly string[])[],
        waitTimeout = 8_000,
      ): Promise<PromiseSettledResult<string>[]> {
        let start!: () => void;
        const go = new Promise<void>((resolve) => (start = resolve));
        let holding = 0;
        const chains = keysOf.map(([from, to], i) => {
          const one = processes[i % processes.length] as Locker;
          return one.using(from as string, { ttl: 3_000 }, async () => {
            holding += 1;
            await go;
            return one.using(to as string, { waitTimeout }, async () => `has ${to}`);
          });
        });
        await eventually(() => holding === keysOf.length);
        start();
        return Promise.allSettled(chains);
      }

      itFindsCircles.each([2, 3])(
        '%i of several processes in a circle: one is refused, soon, the others go on',
        async (size) => {
          const names = Array.from({ length: size }, newKey);
          const since = performance.now();
          const outcomes = await chainsOf(
            [locker, other, open()],
            names.map((from, i) => [from, names[(i + 1) % size] as string]),
          );
          expect(performance.now() - since).toBeLessThan(6_000);
          const refused = outcomes.flatMap((o) =>
            o.status === 'rejected' ? [o.reason as Error] : [],
          );
          expect(refused).toHaveLength(1);
          expect(refused[0]).toBeInstanceOf(LockDeadlockError);
          const { circle } = refused[0] as LockDeadlockError;
          expect([...new Set(circle)].toSorted()).toEqual(names.toSorted());
          expect(circle[0]).toBe(circle.at(-1));
        },
        15_000,
      );

      it('of several processes in a row: nobody is refused, however long it takes', async () => {
        const names = Array.from({ length: 3 }, newKey);
        const free = await open().acquire(names[2] as string);
        const outcomes = chainsOf([locker, other], [
          [names[0], names[1]],
          [names[1], names[2]],
        ] as string[][]);
        const since = performance.now();
        await eventually(() => performance.now() - since > 2_500);
        await free.release();
        expect((await outcomes).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
      }, 15_000);

      it('of which one has given up, are in no circle any more', async () => {
        const [a, b] = [newKey(), newKey()];
        let holdsA!: () => void;
        const aIsHeld = new Promise<void>((resolve) => (holdsA = resolve));
        const inner = other.using(b, { ttl: 3_000 }, async () => {
          await aIsHeld;
          const error = await rejection(other.acquire(a, { waitTimeout: 1_500 }));
          // It goes on for a while, and gives back what it holds.
          const since = performance.now();
          await eventually(() => performance.now() - since > 1_500);
          return error;
        });
        const outer = locker.using(a, async () => {
          holdsA();
          await eventually(async () => (await locker.inspect(a)).pending.length === 1);
          const since = performance.now();
          // Noted by now, but nobody looks yet.
          await eventually(() => performance.now() - since > 1_200);
          return locker.using(b, { waitTimeout: 8_000 }, async () => 'has b');
        });
        expect(await inner).toMatchObject({ code: 'LOCK_TIMEOUT' });
        expect(await outer).toBe('has b');
      }, 15_000);

      it("aren't looked for with `detectDeadlocks: false`", async () => {
        const processes = [open({ detectDeadlocks: false }), open({ detectDeadlocks: false })];
        for (const group of [processes, processes.slice(0, 1)]) {
          const [a, b] = [newKey(), newKey()];
          const outcomes = await chainsOf(
            group,
            [
              [a, b],
              [b, a],
            ],
            2_500,
          );
          const codes = outcomes.flatMap((o) =>
            o.status === 'rejected' ? [(o.reason as { code: string }).code] : [],
          );
          expect(codes.length).toBeGreaterThan(0);
          expect(new Set(codes)).toEqual(new Set(['LOCK_TIMEOUT']));
        }
      }, 15_000);

      it('a reader and a writer in a circle: one is refused', async () => {
        const more = newKey();
        let start!: () => void;
        const go = new Promise<void>((resolve) => (start = resolve));
        const reads = locker.using(key, { mode: 'shared' }, async () => {
          await go;
          return locker.using(more, async () => 'read');
        });
        const writes = locker.using(more, async () => {
          await go;
          return locker.using(key, async () => 'written');
        });
        await eventually(async () => (await other.inspect(more)).held.length === 1);
        await eventually(async () => (await other.inspect(key)).held.length === 1);
        start();
        const outcomes = await Promise.allSettled([reads, writes]);
        expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(1);
      });

      it('no circle: nobody is refused', async () => {
        const [a, b, c] = [key, newKey(), newKey()];
        let start!: () => void;
        const go = new Promise<void>((resolve) => (start = resolve));
        // All in one order, and one that holds what others wait for, while it waits for somebody else.
        const chains = [
          chain(locker, [a, b], go),
          chain(locker, [b, c], go),
          chain(locker, [c], go),
        ];
        await eventually(async () => {
          const states = await Promise.all([a, b, c].map((one) => other.inspect(one)));
          return states.every(({ held }) => held.length === 1);
        });
        start();
        expect(await Promise.all(chains)).toEqual(['done', 'done', 'done']);
      });

      itWithLimits(
        'one who waits for a place of several is not in a circle: another may leave',
        async () => {
          const more = newKey();
          const limit = { limit: 2 };
          const free = await locker.acquire(key, limit);
          let start!: () => void;
          const go = new Promise<void>((resolve) => (start = resolve));
          const one = locker.using(key, limit, async () => {
            await go;
            return locker.using(more, async () => 'one');
          });
          const two = locker.using(more, async () => {
            await go;
            return locker.using(key, limit, async () => 'two');
          });
          await eventually(async () => (await other.inspect(more)).held.length === 1);
          await eventually(async () => (await other.inspect(key)).held.length === 2);
          start();
          await pending(1);
          await free.release();
          expect(await Promise.all([one, two])).toEqual(['one', 'two']);
        },
      );
    });
  });
}
