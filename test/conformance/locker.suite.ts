/**
 * What a `Locker` promises, as one table of behaviour, run by locker.spec.ts over Redis and over memory.
 *
 * Each locker stands for a process of its own: it has its own backend on the shared store.
 */
import { randomUUID } from 'node:crypto';
import { getEventListeners } from 'node:events';
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  it,
  jest,
} from '@jest/globals';
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import {
  LockBusyError,
  LockConfigError,
  LockKeyError,
  LockLostError,
  LockTimeoutError,
  LockUnavailableError,
} from '../../lib/core/errors.js';
import type { LockEventName, LockEvents } from '../../lib/core/events.js';
import type { Lock } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { AcquireOptions, Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';

/** Where the lockers of one run keep their locks. */
export interface LockerStore {
  /** A locker as another process would make it. */
  open(options?: Omit<LockerOptions, 'connection'>): Locker;
  /** The bare backend of a process that doesn't behave. */
  openBackend(): LockBackend;
  /** What is left but fence counters. */
  leftovers(): Promise<readonly string[]>;
  close(): Promise<void>;
}

const ALL_EVENTS: readonly LockEventName[] = [
  'acquired',
  'waiting',
  'renewed',
  'jeopardy',
  'lost',
  'released',
  'releaseFailed',
  'busy',
  'timedOut',
];

export function describeLocker(title: string, openStore: () => Promise<LockerStore>): void {
  describe(`Locker: ${title}`, () => {
    let store: LockerStore;
    let locker: Locker;
    /** Another process. */
    let other: Locker;
    let key: string;
    let keys = 0;
    const lockers: Locker[] = [];
    const backends: LockBackend[] = [];

    function open(options: Omit<LockerOptions, 'connection'> = {}): Locker {
      const opened = store.open({ drainTimeout: 1, ...options });
      lockers.push(opened);
      return opened;
    }

    /** All events of a locker, in order, as `name: facts`. */
    function record(of: Locker, ...names: LockEventName[]): [LockEventName, unknown][] {
      const events: [LockEventName, unknown][] = [];
      for (const name of names.length > 0 ? names : ALL_EVENTS) {
        of.on(name, (event) => events.push([name, event]));
      }
      return events;
    }

    /** Resolves when a caller of that locker has begun to wait. */
    function waiting(of: Locker): Promise<LockEvents['waiting']> {
      return new Promise((resolve) => {
        const stop = of.on('waiting', (event) => {
          stop();
          resolve(event);
        });
      });
    }

    /** Resolves when so many processes stand in the queue of the key. */
    function pending(count: number, of = key): Promise<unknown> {
      return eventually(async () => (await locker.inspect(of)).pending.length === count, {
        message: `${count} processes wait`,
      });
    }

    /** A promise to be settled by hand. */
    function gate(): { readonly opened: Promise<void>; open(): void } {
      let openGate!: () => void;
      const opened = new Promise<void>((resolve) => (openGate = resolve));
      return { opened, open: openGate };
    }

    /** What a promise rejects with. */
    async function rejection(promise: Promise<unknown>): Promise<unknown> {
      const value = await promise.then(
        (fulfilled) => ({ fulfilled }),
        (error: unknown) => ({ error }),
      );
      if (!('error' in value)) throw new Error(`Fulfilled with ${String(value.fulfilled)}`);
      return value.error;
    }

    /** Work that counts how many run at once. */
    function counted(): { readonly most: () => number; work(): Promise<void> } {
      let running = 0;
      let most = 0;
      return {
        most: () => most,
        work: async () => {
          running += 1;
          most = Math.max(most, running);
          // Long enough for another to come in, if anybody let it.
          for (let turn = 0; turn < 5; turn += 1) {
            await new Promise((resolve) => setImmediate(resolve));
          }
          running -= 1;
        },
      };
    }

    beforeAll(async () => {
      store = await openStore();
    });

    afterAll(async () => {
      await store.close();
    });

    beforeEach(() => {
      keys += 1;
      key = `key ${keys}`;
      locker = open();
      other = open();
    });

    afterEach(async () => {
      await Promise.all(lockers.splice(0).map((each) => each.close()));
      await Promise.all(backends.splice(0).map((each) => each.close()));
    });

    describe('acquire', () => {
      it('gives a lock that is held until it is released', async () => {
        const before = performance.now();
        const lock = await locker.acquire(key, { ttl: '2s' });
        expect(lock).toMatchObject({ key, state: 'held', isHeld: true });
        expect(Number.isSafeInteger(lock.fencingToken)).toBe(true);
        expect(lock.remaining).toBeGreaterThan(2_000 * 0.99 - 2 - (performance.now() - before) - 1);
        expect(lock.remaining).toBeLessThanOrEqual(2_000 * 0.99 - 2);
        expect(lock.signal.aborted).toBe(false);
        expect(() => lock.assertHeld()).not.toThrow();
        expect(await other.tryAcquire(key)).toBeNull();

        expect(await lock.release()).toBe('released');
        expect(lock).toMatchObject({ state: 'released', isHeld: false, remaining: 0 });
        expect(lock.signal.aborted).toBe(false);
        expect(() => lock.assertHeld()).toThrow(LockLostError);
        const next = await other.acquire(key);
        expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
        await next.release();
      });

      it('waits until the holder, of this process or another, is done', async () => {
        for (const holder of [locker, other]) {
          const lock = await holder.acquire(key);
          const wait = waiting(locker);
          const next = locker.acquire(key);
          expect(await wait).toMatchObject({ key });
          await lock.release();
          await (await next).release();
        }
      });

      it('rejects with LockTimeoutError when the key stays held for the whole waitTimeout', async () => {
        const lock = await other.acquire(key);
        const start = performance.now();
        const error = await rejection(locker.acquire(key, { waitTimeout: 150 }));
        const took = performance.now() - start;
        expect(error).toBeInstanceOf(LockTimeoutError);
        expect(error).toMatchObject({ code: 'LOCK_TIMEOUT', key, heldKeys: [] });
        expect((error as LockTimeoutError).waited).toBeGreaterThanOrEqual(145);
        expect((error as LockTimeoutError).waited).toBeLessThanOrEqual(took);
        expect(took).toBeLessThan(150 + 300);
        await pending(0);
        await lock.release();
      });

      it('rejects at once with LockBusyError where onBusy is "throw", or "skip" by default', async () => {
        const lock = await other.acquire(key, { ttl: '5s' });
        const skipping = open({ onBusy: 'skip' });
        for (const [from, options] of [
          [locker, { onBusy: 'throw' }],
          [skipping, {}],
        ] as const) {
          const error = await rejection(from.acquire(key, options));
          expect(error).toBeInstanceOf(LockBusyError);
          expect(error).toMatchObject({ code: 'LOCK_BUSY', key });
          expect((error as LockBusyError).remaining).toBeGreaterThan(4_000);
          expect((error as LockBusyError).remaining).toBeLessThanOrEqual(5_000);
        }
        await lock.release();
      });

      it('takes a short waitTimeout for long enough to ask once', async () => {
        // Connected: a first connection may take longer than that.
        await locker.inspect(key);
        const lock = await locker.acquire(key, { waitTimeout: 1 });
        expect(lock.isHeld).toBe(true);
        await lock.release();
      });

      it('takes fractions of a millisecond', async () => {
        const lock = await locker.acquire(key, {
          ttl: 1_500.4,
          waitTimeout: 999.9,
          holdAtLeast: 0.6,
          maxHold: '1.2345s',
        });
        expect(await lock.release()).toBe('released');
      });

      it.each([
        ['an empty key', '', {}, LockKeyError],
        ['a key that is no string', 7, {}, LockKeyError],
        ['a key too long', 'x'.repeat(513), {}, LockKeyError],
        ['a wrong option', 'k', { ttl: 1 }, LockConfigError],
        ['an unknown option', 'k', { timeout: 1 }, LockConfigError],
        ['options that are none', 'k', 'fast', LockConfigError],
      ])('rejects %s, as every method does', async (_what, wrongKey, options, type) => {
        const [k, o] = [wrongKey as string, options as never];
        const work = () => Promise.reject(new Error('ran'));
        expect(await rejection(locker.acquire(k, o))).toBeInstanceOf(type);
        expect(await rejection(locker.tryAcquire(k, o))).toBeInstanceOf(type);
        expect(await rejection(locker.using(k, o, work))).toBeInstanceOf(type);
        expect(await rejection(locker.inspect(k, o))).toBeInstanceOf(type);
        expect(await rejection(locker.query(k, o))).toBeInstanceOf(type);
      });

      it('keeps prefixes apart', async () => {
        const lock = await locker.acquire(key);
        const sibling = await other.tryAcquire(key, { prefix: 'another' });
        expect(sibling?.isHeld).toBe(true);
        expect((await locker.inspect(key, { prefix: 'another' })).held).toHaveLength(1);
        await Promise.all([lock.release(), sibling?.release()]);
      });
    });

    describe('tryAcquire', () => {
      it('gives a lock, or null where the key is held', async () => {
        const lock = await locker.tryAcquire(key);
        expect(lock).toMatchObject({ key, isHeld: true });
        expect(await locker.tryAcquire(key)).toBeNull();
        expect(await other.tryAcquire(key)).toBeNull();
        await lock?.release();
        const next = await other.tryAcquire(key);
        expect(next?.isHeld).toBe(true);
        await next?.release();
      });

      it('never jumps a queue, in this process or another', async () => {
        const lock = await locker.acquire(key);
        const waiters = [other.acquire(key), locker.acquire(key)];
        await pending(2);
        await lock.release();
        expect(await Promise.all([locker, other].map((each) => each.tryAcquire(key)))).toEqual([
          null,
          null,
        ]);
        await Promise.all(waiters.map(async (waiter) => (await waiter).release()));
      });
    });

    describe('using', () => {
      it('runs the work under the lock, passes its result on, and gives the lock back', async () => {
        const results = await Promise.all([
          locker.using(key, async (lock) => [lock.isHeld, await other.tryAcquire(key)]),
          locker.using(`${key} sync`, () => 'sync'),
          locker.using(`${key} options`, { ttl: '1s' }, async () => undefined),
        ]);
        expect(results).toEqual([[true, null], 'sync', undefined]);
        const free = await other.tryAcquire(key);
        expect(free?.isHeld).toBe(true);
        await free?.release();
      });

      it("passes the work's own exception on, whatever it is, and gives the lock back", async () => {
        class NotFound extends Error {}
        const thrown: unknown[] = [new NotFound('x'), 'text', undefined, { status: 404 }];
        for (const value of thrown) {
          expect(await rejection(locker.using(key, () => Promise.reject(value)))).toBe(value);
          const sync = locker.using(key, () => {
            throw value;
          });
          expect(await rejection(sync)).toBe(value);
        }
        expect((await other.tryAcquire(key))?.isHeld).toBe(true);
      });

      it('doesn\'t run the work where the key is held: onBusy "skip" gives undefined', async () => {
        const lock = await other.acquire(key);
        const work = jest.fn(() => 'ran');
        expect(await locker.using(key, { onBusy: 'skip' }, work)).toBeUndefined();
        expect(await rejection(locker.using(key, { onBusy: 'throw' }, work))).toBeInstanceOf(
          LockBusyError,
        );
        expect(await rejection(locker.using(key, { waitTimeout: 20 }, work))).toBeInstanceOf(
          LockTimeoutError,
        );
        expect(work).not.toHaveBeenCalled();
        await lock.release();
      });

      it("doesn't release twice what the work has released itself", async () => {
        const events = record(locker, 'released', 'lost');
        const result = await locker.using(key, async (lock) => {
          await lock.release();
          return 'done';
        });
        expect(result).toBe('done');
        expect(events.map(([name]) => name)).toEqual(['released']);
      });

      it('rejects without a function', async () => {
        const error = await rejection(locker.using(key, { ttl: '1s' }, undefined as never));
        expect(error).toBeInstanceOf(LockConfigError);
      });

      it('excludes many workers of several processes', async () => {
        const { most, work } = counted();
        const fences: number[] = [];
        await Promise.all(
          Array.from({ length: 60 }, (_, index) =>
            (index % 2 === 0 ? locker : other).using(key, async ({ fencingToken }) => {
              fences.push(fencingToken);
              await work();
            }),
          ),
        );
        expect(most()).toBe(1);
        expect(fences).toHaveLength(60);
        expect(fences).toEqual(fences.toSorted((a, b) => a - b));
        expect(new Set(fences).size).toBe(60);
      });
    });

    describe('order', () => {
      it('is first come, first served inside one process', async () => {
        const lock = await locker.acquire(key);
        const served: number[] = [];
        const waiters = Array.from({ length: 20 }, (_, index) =>
          locker.using(key, async () => {
            served.push(index);
          }),
        );
        await pending(1);
        await lock.release();
        await Promise.all(waiters);
        expect(served).toEqual(Array.from({ length: 20 }, (_, index) => index));
      });

      it('is first come, first served across processes', async () => {
        const third = open();
        const lock = await locker.acquire(key);
        const served: string[] = [];
        const waiters: Promise<void>[] = [];
        for (const [index, [name, from]] of Object.entries({
          other,
          third,
          locker,
        }).entries()) {
          waiters.push(from.using(key, async () => void served.push(name)));
          await pending(index + 1);
        }
        await lock.release();
        await Promise.all(waiters);
        expect(served).toEqual(['other', 'third', 'locker']);
      });

      it('lets who is behind one that gave up move up', async () => {
        const lock = await other.acquire(key);
        const controller = new AbortController();
        const first = locker.acquire(key, { signal: controller.signal });
        const second = locker.acquire(key, { waitTimeout: 100 });
        const third = locker.acquire(key);
        const [firstError, secondError] = [rejection(first), rejection(second)];
        await pending(1);
        const [{ sequence } = { sequence: 0 }] = (await locker.inspect(key)).pending;
        controller.abort('enough');
        expect(await firstError).toBe('enough');
        expect(await secondError).toBeInstanceOf(LockTimeoutError);
        // It has kept the place that the first had.
        expect((await locker.inspect(key)).pending).toMatchObject([{ sequence }]);
        await lock.release();
        await (await third).release();
      });

      it('takes a waiter with another ttl as it is', async () => {
        const lock = await other.acquire(key);
        const controller = new AbortController();
        const first = rejection(locker.acquire(key, { ttl: '5s', signal: controller.signal }));
        const second = locker.acquire(key, { ttl: '20s' });
        await pending(1);
        controller.abort();
        await first;
        await lock.release();
        const got = await second;
        expect(got.remaining).toBeGreaterThan(15_000);
        expect((await locker.inspect(key)).held[0]?.remaining).toBeGreaterThan(15_000);
        await got.release();
      });

      it('tells a caller whose signal aborts by its own asking, and keeps nothing of it', async () => {
        // The outer lock is over, which is noticed only when somebody asks: and then its signal aborts.
        const error = await locker
          .using(`${key} outer`, { ttl: 100, renew: false }, async (lock) => {
            const { signal } = lock;
            const until = performance.now() + 150;
            while (performance.now() < until);
            return rejection(locker.acquire(key, { signal }));
          })
          .catch((thrown: unknown) => thrown);
        expect(error).toMatchObject({ code: 'LOCK_LOST' });
        const next = await locker.acquire(key, { waitTimeout: 500 });
        await next.release();
      });

      it('passes over a waiter that is alive but frozen, after the claim window', async () => {
        const frozen = store.openBackend();
        backends.push(frozen);
        const name = LockName.of('lock', key);
        await frozen.wakeUp.subscribe(name);
        const lock = await locker.acquire(key);
        const outcome = await frozen.tryAcquire({
          name,
          token: randomUUID(),
          ttl: 30_000,
          notAfter: performance.now() + 5_000,
          place: { aliveFor: 30_000, sequence: undefined },
        });
        expect(outcome).toMatchObject({ kind: 'busy' });
        // One who waits behind it in another process, and one in the process of the holder.
        const next = [other.acquire(key), locker.acquire(key)];
        await pending(3);
        // For longer than a lease is passed on here while somebody elsewhere waits.
        const grantedAt = performance.now();
        await eventually(() => performance.now() > grantedAt + 20);
        const released = performance.now();
        await lock.release();
        const first = await Promise.race(next);
        expect(performance.now() - released).toBeGreaterThan(900);
        expect(performance.now() - released).toBeLessThan(1_500);
        await first.release();
        await Promise.all(next.map(async (each) => (await each).release()));
      });

      it('takes over from a process that is gone when its lease ends', async () => {
        const backend = store.openBackend();
        backends.push(backend);
        const name = LockName.of('lock', key);
        const notAfter = performance.now() + 5_000;
        const crashed = { name, token: randomUUID(), ttl: 300 };
        await backend.tryAcquire({ ...crashed, notAfter, place: undefined });
        const start = performance.now();
        const lock = await locker.acquire(key);
        expect(performance.now() - start).toBeLessThan(300 + 200);
        await lock.release();
      });
    });

    describe('abort', () => {
      it('before the call: rejects with the reason and asks for nothing', async () => {
        const events = record(locker);
        for (const reason of [new Error('stop'), 'text', 0]) {
          const signal = AbortSignal.abort(reason);
          expect(await rejection(locker.acquire(key, { signal }))).toBe(reason);
          const work = () => Promise.reject(new Error('ran'));
          expect(await rejection(locker.using(key, { signal }, work))).toBe(reason);
          expect(getEventListeners(signal, 'abort')).toEqual([]);
        }
        expect(await rejection(locker.acquire(key, { signal: AbortSignal.abort() }))).toMatchObject(
          { name: 'AbortError' },
        );
        expect(events).toEqual([]);
        expect(await locker.inspect(key)).toEqual({ key, held: [], pending: [] });
      });

      it('while waiting: rejects with the reason at once and leaves the queue', async () => {
        const lock = await other.acquire(key);
        const controllers = [new AbortController(), new AbortController()];
        const errors = controllers.map(({ signal }) => rejection(locker.acquire(key, { signal })));
        await pending(1);
        // The one behind, then the first.
        for (const [index, controller] of [...controllers.entries()].toReversed()) {
          const reason = new Error(`stop ${index}`);
          controller.abort(reason);
          expect(await errors[index]).toBe(reason);
          expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
        }
        await pending(0);
        await lock.release();
        await (await other.acquire(key)).release();
      });

      it('during the first try: rejects at once, and what was granted is given back', async () => {
        const controller = new AbortController();
        const error = rejection(locker.acquire(key, { signal: controller.signal }));
        // The command is on its way.
        queueMicrotask(() => controller.abort('now'));
        expect(await error).toBe('now');
        const lock = await other.acquire(key, { waitTimeout: '1s' });
        await lock.release();
      });

      it('after the grant: leaves the lock alone', async () => {
        const controller = new AbortController();
        const held = await other.acquire(key);
        const waiter = locker.acquire(key, { signal: controller.signal });
        await pending(1);
        await held.release();
        const lock = await waiter;
        expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
        controller.abort();
        expect(lock.isHeld).toBe(true);
        expect(lock.signal.aborted).toBe(false);
        expect(await lock.release()).toBe('released');
      });

      it('by AbortSignal.timeout: rejects with its TimeoutError', async () => {
        const lock = await other.acquire(key);
        const error = await rejection(locker.acquire(key, { signal: AbortSignal.timeout(50) }));
        expect(error).toMatchObject({ name: 'TimeoutError' });
        await lock.release();
      });

      it('leaves no listener on a signal that outlives thousands of calls', async () => {
        const { signal } = new AbortController();
        for (let turn = 0; turn < 50; turn += 1) {
          await locker.using(key, { signal }, () => {});
          const held = await other.acquire(key);
          await rejection(locker.acquire(key, { signal, waitTimeout: 2 }));
          await held.release();
        }
        expect(getEventListeners(signal, 'abort')).toEqual([]);
      });
    });

    describe('holdAtLeast', () => {
      it('keeps the key taken after the release, held by nobody', async () => {
        const events = record(locker, 'released');
        const start = performance.now();
        const lock = await locker.acquire(key, { holdAtLeast: 300 });
        expect(await lock.release()).toBe('released');
        expect(events).toMatchObject([['released', { key, fencingToken: lock.fencingToken }]]);
        const { kept } = (events[0] as [string, LockEvents['released']])[1];
        expect(kept).toBeGreaterThan(150);
        expect(kept).toBeLessThanOrEqual(300);
        expect((await locker.inspect(key)).held).toMatchObject([{ kept: true }]);
        expect(await locker.tryAcquire(key)).toBeNull();
        const next = await eventually(() => other.tryAcquire(key), { timeout: 1_000 });
        expect(performance.now() - start).toBeGreaterThan(295);
        await next.release();
      });

      it('changes nothing for work that takes longer', async () => {
        const lock = await locker.acquire(key, { holdAtLeast: 20 });
        await eventually(() => lock.remaining < 10_000 * 0.99 - 2 - 20);
        await lock.release();
        const next = await other.tryAcquire(key);
        expect(next?.isHeld).toBe(true);
        await next?.release();
      });

      it('lets who waits have the key as soon as it ends', async () => {
        const start = performance.now();
        const lock = await locker.acquire(key, { ttl: '10s', holdAtLeast: 400 });
        const waiters = [other.acquire(key), locker.acquire(key)];
        await pending(2);
        await lock.release();
        const first = await Promise.race(waiters);
        const waited = performance.now() - start;
        expect(waited).toBeGreaterThan(395);
        expect(waited).toBeLessThan(400 + 300);
        await first.release();
        await Promise.all(waiters.map(async (waiter) => (await waiter).release()));
      });
    });

    describe('a lease', () => {
      it('is renewed for as long as it is held', async () => {
        const events = record(locker, 'renewed', 'jeopardy', 'lost');
        const lock = await locker.acquire(key, { ttl: 300 });
        await eventually(() => events.length >= 6, { timeout: 2_000, message: 'six renewals' });
        expect(new Set(events.map(([name]) => name))).toEqual(new Set(['renewed']));
        expect(events[0]?.[1]).toEqual({
          key,
          fencingToken: lock.fencingToken,
          remaining: expect.any(Number),
        });
        expect(lock).toMatchObject({ isHeld: true, state: 'held' });
        expect(await other.tryAcquire(key)).toBeNull();
        expect(await lock.release()).toBe('released');
        expect((await other.tryAcquire(key))?.isHeld).toBe(true);
      });

      it('ends at its ttl with renew: false, and its signal aborts before another gets the key', async () => {
        const events = record(locker);
        const lock = await locker.acquire(key, { ttl: 200, renew: false });
        const { signal } = lock;
        const next = await other.acquire(key);
        expect(signal.aborted).toBe(true);
        expect(signal.reason).toBeInstanceOf(LockLostError);
        expect(signal.reason).toMatchObject({
          key,
          reason: 'expired',
          fencingToken: lock.fencingToken,
        });
        expect(lock).toMatchObject({ state: 'lost', isHeld: false, remaining: 0 });
        expect(() => lock.assertHeld()).toThrow(LockLostError);
        expect(await lock.release()).toBe('lost');
        expect(await lock.release()).toBe('lost');
        expect(next.isHeld).toBe(true);
        expect((await locker.inspect(key)).held).toMatchObject([
          { fencingToken: next.fencingToken },
        ]);
        expect(events.map(([name]) => name)).toEqual(['acquired', 'lost']);
        await next.release();
      });

      it('is prolonged by extend()', async () => {
        const lock = await locker.acquire(key, { ttl: 1_000, renew: false });
        await eventually(() => lock.remaining < 900);
        await lock.extend();
        expect(lock.remaining).toBeGreaterThan(900);
        expect((await other.inspect(key)).held[0]?.remaining).toBeGreaterThan(900);
        await lock.release();
        const error = await rejection(lock.extend());
        expect(error).toBeInstanceOf(LockLostError);
        expect(error).toMatchObject({ reason: 'released' });
      });

      it('is extended once by many that ask at once', async () => {
        const events = record(locker, 'renewed');
        const lock = await locker.acquire(key, { ttl: 5_000 });
        await Promise.all([lock.extend(), lock.extend(), lock.extend()]);
        expect(events).toHaveLength(1);
        await lock.release();
      });

      it('ends at maxHold however well it is renewed, and the next gets the key at once', async () => {
        const events = record(locker, 'lost');
        const lock = await locker.acquire(key, { ttl: '10s', maxHold: 150 });
        const start = performance.now();
        expect(lock.remaining).toBeLessThanOrEqual(150);
        const { signal } = lock;
        const next = await other.acquire(key);
        expect(performance.now() - start).toBeLessThan(1_000);
        expect(signal.aborted).toBe(true);
        expect(lock.state).toBe('lost');
        expect(events).toEqual([
          [
            'lost',
            {
              key,
              fencingToken: lock.fencingToken,
              held: expect.any(Number),
              reason: 'max-hold',
              by: undefined,
            },
          ],
        ]);
        await next.release();
      });

      it('that was taken away at the store is lost at the next renewal', async () => {
        const lock = await locker.acquire(key, { ttl: 300 });
        const thief = store.openBackend();
        backends.push(thief);
        const { token } = (lock as unknown as { lease: { token: string } }).lease;
        await thief.cancel({ name: LockName.of('lock', key), token });
        const { signal } = lock;
        await eventually(() => signal.aborted, { timeout: 1_000 });
        expect(signal.reason).toMatchObject({ reason: 'taken' });
        expect(await lock.release()).toBe('lost');
      });

      it('lost under `using`: rejects with LockLostError although the work was done', async () => {
        const error = await rejection(
          locker.using(key, { ttl: 100, renew: false }, async ({ signal }) => {
            await eventually(() => signal.aborted);
            return 'done';
          }),
        );
        expect(error).toBeInstanceOf(LockLostError);
        expect(error).toMatchObject({ key, reason: 'expired' });
      });

      it("lost under `using`: the work's own exception wins", async () => {
        const own = new Error('own');
        const error = await rejection(
          locker.using(key, { ttl: 100, renew: false }, async ({ signal }) => {
            await eventually(() => signal.aborted);
            throw own;
          }),
        );
        expect(error).toBe(own);
      });

      it('is known to be over right after the event loop was blocked for longer than its ttl', async () => {
        const seen: unknown[] = [];
        const error = await rejection(
          locker.using(key, { ttl: 100 }, (lock) => {
            const end = performance.now() + 110;
            while (performance.now() < end);
            seen.push(lock.isHeld, lock.state, lock.remaining, lock.signal.aborted);
            expect(() => lock.assertHeld()).toThrow(LockLostError);
          }),
        );
        expect(seen).toEqual([false, 'lost', 0, true]);
        expect(error).toMatchObject({ code: 'LOCK_LOST', reason: 'expired' });
      });
    });

    describe('release', () => {
      it('gives the same answer again', async () => {
        const lock = await locker.acquire(key);
        const first = lock.release();
        expect(lock.isHeld).toBe(false);
        expect(lock.release()).toBe(first);
        expect(await first).toBe('released');
        const next = await other.acquire(key);
        expect(await lock.release()).toBe('released');
        expect(next.isHeld).toBe(true);
        expect(await locker.tryAcquire(key)).toBeNull();
        await next.release();
      });

      it('happens at the end of `await using`, also after an exception', async () => {
        let seen: Lock | undefined;
        const scope = async (fail: boolean): Promise<void> => {
          await using lock = await locker.acquire(key);
          seen = lock;
          expect(await other.tryAcquire(key)).toBeNull();
          if (fail) throw new Error('failed');
        };
        await scope(false);
        expect(seen?.state).toBe('released');
        expect(await rejection(scope(true))).toMatchObject({ message: 'failed' });
        expect(seen?.state).toBe('released');
        const next = await other.tryAcquire(key);
        expect(next?.isHeld).toBe(true);
        await next?.release();
      });
    });

    describe('re-entry', () => {
      it('lets a call below the holder take the same key, on the same lease', async () => {
        const events = record(locker, 'acquired', 'released', 'waiting');
        const fences = await locker.using(key, async (outer) => {
          const inner = await locker.using(key, async (again) => {
            const innermost = await locker.acquire(key, { waitTimeout: 100 });
            await innermost.release();
            expect(again.isHeld).toBe(true);
            return [again.fencingToken, innermost.fencingToken];
          });
          const tried = await locker.tryAcquire(key);
          await tried?.release();
          expect(outer.isHeld).toBe(true);
          expect(await other.tryAcquire(key)).toBeNull();
          return [outer.fencingToken, ...inner, tried?.fencingToken];
        });
        expect(new Set(fences).size).toBe(1);
        expect(events.map(([name]) => name)).toEqual(['acquired', 'released']);
        expect((await other.tryAcquire(key))?.isHeld).toBe(true);
      });

      it('makes siblings on the held key take turns', async () => {
        const { most, work } = counted();
        const order: number[] = [];
        await locker.using(key, () =>
          Promise.all(
            Array.from({ length: 8 }, (_, index) =>
              locker.using(key, async () => {
                order.push(index);
                await work();
              }),
            ),
          ),
        );
        expect(most()).toBe(1);
        expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
      });

      it('makes siblings on another key exclude each other, and other processes', async () => {
        const { most, work } = counted();
        const inner = `${key} inner`;
        await locker.using(key, () =>
          Promise.all([
            ...Array.from({ length: 5 }, () => locker.using(inner, work)),
            ...Array.from({ length: 5 }, () => other.using(inner, work)),
          ]),
        );
        expect(most()).toBe(1);
      });

      it('answers a sibling that does not wait: busy', async () => {
        await locker.using(key, async () => {
          const inside = gate();
          const sibling = locker.using(key, () => inside.opened);
          expect(await locker.tryAcquire(key)).toBeNull();
          expect(await locker.using(key, { onBusy: 'skip' }, () => 'ran')).toBeUndefined();
          expect(await rejection(locker.acquire(key, { onBusy: 'throw' }))).toBeInstanceOf(
            LockBusyError,
          );
          const error = await rejection(locker.acquire(key, { waitTimeout: 30 }));
          expect(error).toBeInstanceOf(LockTimeoutError);
          expect(error).toMatchObject({ key, heldKeys: [key] });
          const controller = new AbortController();
          const aborted = rejection(locker.acquire(key, { signal: controller.signal }));
          controller.abort('enough');
          expect(await aborted).toBe('enough');
          inside.open();
          await sibling;
        });
      });

      it('is not for a detached child after its parent: it competes like anyone', async () => {
        const start = gate();
        let child: Promise<number> | undefined;
        const first = await locker.using(key, async (lock) => {
          child = (async () => {
            await start.opened;
            expect(locker.current()).toBeUndefined();
            expect(await locker.tryAcquire(key)).toBeNull();
            return locker.using(key, ({ fencingToken }) => fencingToken);
          })();
          return lock.fencingToken;
        });
        const held = await other.acquire(key);
        start.open();
        await pending(1);
        await held.release();
        expect(await child).toBeGreaterThan(held.fencingToken);
        expect(held.fencingToken).toBeGreaterThan(first);
      });

      it('keeps the lease for a detached child that had entered, until it is done', async () => {
        const inside = gate();
        let child: Promise<unknown> | undefined;
        let late: Promise<number> | undefined;
        const fence = await locker.using(key, async (lock) => {
          child = locker.using(key, async (entered) => {
            await inside.opened;
            entered.assertHeld();
            return entered.fencingToken;
          });
          // One that had to wait for its turn when the parent ended.
          late = locker.using(key, ({ fencingToken }) => fencingToken);
          return lock.fencingToken;
        });
        expect(await other.tryAcquire(key)).toBeNull();
        expect((await other.inspect(key)).held).toMatchObject([{ fencingToken: fence }]);
        inside.open();
        expect(await child).toBe(fence);
        expect(await late).toBeGreaterThan(fence);
        await (await other.acquire(key)).release();
      });

      it('needs `within` where the call is not below `using`', async () => {
        const outer = await locker.acquire(key);
        expect(await locker.tryAcquire(key)).toBeNull();
        const inner = await locker.acquire(key, { within: outer });
        expect(inner.fencingToken).toBe(outer.fencingToken);
        expect(await locker.tryAcquire(key, { within: outer })).toBeNull();
        expect(await locker.tryAcquire(key, { within: inner })).toMatchObject({ isHeld: true });
        // Whoever is last gives the key back.
        expect(await outer.release()).toBe('released');
        expect(inner.isHeld).toBe(true);
        expect(await other.tryAcquire(key)).toBeNull();
      });

      it('refuses a `within` that is no held lock of this locker on this key', async () => {
        const lock = await locker.acquire(key);
        const elsewhere = await locker.acquire(`${key} elsewhere`);
        const ofOther = await other.acquire(`${key} other`);
        const within = (value: unknown, on = key): AcquireOptions => ({
          within: value as Lock,
          waitTimeout: on === key ? 50 : 60,
        });
        for (const wrong of [elsewhere, { key }, 'x', null, 1]) {
          const error = await rejection(locker.acquire(key, within(wrong)));
          expect(error).toBeInstanceOf(LockConfigError);
          expect(error).toMatchObject({ option: 'within', value: wrong });
        }
        expect(await rejection(locker.acquire(`${key} other`, within(ofOther)))).toBeInstanceOf(
          LockConfigError,
        );
        expect(
          await rejection(locker.acquire(key, { within: lock, prefix: 'another' })),
        ).toBeInstanceOf(LockConfigError);
        await lock.release();
        expect(await rejection(locker.acquire(key, { within: lock }))).toBeInstanceOf(
          LockLostError,
        );
        await Promise.all([elsewhere.release(), ofOther.release()]);
      });

      it('ends two keys taken in opposite order by LockTimeoutErrors that name both', async () => {
        const [a, b] = [`${key} a`, `${key} b`];
        /** Opens when both have come. */
        const meeting = () => {
          const { opened, open: openGate } = gate();
          let come = 0;
          return () => {
            come += 1;
            if (come === 2) openGate();
            return opened;
          };
        };
        const [bothHold, bothGaveUp] = [meeting(), meeting()];
        const nested = (from: Locker, outer: string, inner: string): Promise<unknown> =>
          from.using(outer, async () => {
            await bothHold();
            const error = await rejection(from.acquire(inner, { waitTimeout: 100 }));
            await bothGaveUp();
            return error;
          });
        const errors = await Promise.all([nested(locker, a, b), nested(other, b, a)]);
        expect(errors).toMatchObject([
          { code: 'LOCK_TIMEOUT', key: b, heldKeys: [a] },
          { code: 'LOCK_TIMEOUT', key: a, heldKeys: [b] },
        ]);
        for (const error of errors as Error[]) {
          expect(error).toBeInstanceOf(LockTimeoutError);
          expect(error.message).toContain(`"${a}"`);
          expect(error.message).toContain(`"${b}"`);
          expect(error.message).toContain('opposite order');
        }
      });

      it('ends with the lease: after its loss, who is below competes like anyone', async () => {
        const error = await rejection(
          locker.using(key, { ttl: 100, renew: false }, async (lock) => {
            await eventually(() => !lock.isHeld);
            const again = await locker.acquire(key, { waitTimeout: '1s' });
            expect(again.fencingToken).toBeGreaterThan(lock.fencingToken);
            await again.release();
          }),
        );
        expect(error).toBeInstanceOf(LockLostError);
      });

      it('wakes those who wait to enter when the lease is lost', async () => {
        await rejection(
          locker.using(key, { ttl: 100, renew: false }, async (lock) => {
            const inside = gate();
            const child = rejection(locker.using(key, () => inside.opened));
            const next = await locker.acquire(key, { waitTimeout: '2s' });
            expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
            await next.release();
            inside.open();
            expect(await child).toBeInstanceOf(LockLostError);
          }),
        );
      });
    });

    describe('current', () => {
      it('is the innermost lock of the running call, or that on a key', async () => {
        expect(locker.current()).toBeUndefined();
        const inner = `${key} inner`;
        await locker.using(key, async (outerLock) => {
          expect(locker.current()).toBe(outerLock);
          await locker.using(inner, async (innerLock) => {
            await new Promise((resolve) => setImmediate(resolve));
            expect(locker.current()).toBe(innerLock);
            expect(locker.current(key)).toBe(outerLock);
            expect(locker.current(inner)).toBe(innerLock);
            expect(locker.current('unknown')).toBeUndefined();
            expect(other.current()).toBeUndefined();
          });
          expect(locker.current()).toBe(outerLock);
          await outerLock.release();
          expect(locker.current()).toBeUndefined();
        });
        expect(locker.current()).toBeUndefined();
      });

      it('is none below acquire, and none for a lock that is lost', async () => {
        await using lock = await locker.acquire(key);
        expect(lock.isHeld).toBe(true);
        expect(locker.current()).toBeUndefined();
        await rejection(
          locker.using(`${key} short`, { ttl: 100, renew: false }, async (short) => {
            await eventually(() => !short.isHeld);
            expect(locker.current()).toBeUndefined();
          }),
        );
      });

      it('is none in what the locker does on its own, such as an abort that another caused', async () => {
        let seen: unknown = 'nothing';
        const short = await locker.acquire(`${key} short`, { ttl: 400, renew: false });
        short.signal.addEventListener('abort', () => (seen = locker.current()));
        // The one timer of the locker may have been set by any call.
        await locker.using(key, { ttl: 900 }, () => eventually(() => short.signal.aborted));
        expect(seen).toBeUndefined();
      });
    });

    describe('query', () => {
      const shown = async (pattern?: string, prefix?: string): Promise<string[]> => {
        const states = await locker.query(pattern, prefix === undefined ? undefined : { prefix });
        return states.map(({ key: found }) => found);
      };

      it('shows what is held and waited for, sorted by key, and nothing that is free', async () => {
        const locks = await Promise.all(
          ['b', 'a', 'ab', 'free'].map((each) => locker.acquire(`${key} ${each}`)),
        );
        const waiter = other.acquire(`${key} ab`);
        await pending(1, `${key} ab`);
        await locks[3]?.release();
        const states = await locker.query(`${key} *`);
        expect(states.map(({ key: found }) => found)).toEqual(
          ['a', 'ab', 'b'].map((each) => `${key} ${each}`),
        );
        expect(states[1]).toEqual({
          ...(await locker.inspect(`${key} ab`)),
          held: [{ ...states[1]?.held[0], fencingToken: locks[2]?.fencingToken }],
        });
        expect(states.map((state) => state.pending.length)).toEqual([0, 1, 0]);
        await Promise.all(locks.map((lock) => lock.release()));
        await (await waiter).release();
        expect(await shown(`${key} *`)).toEqual([]);
      });

      it('shows what is kept by nobody, and what is only waited for', async () => {
        const kept = await locker.acquire(`${key} kept`, { holdAtLeast: '5s' });
        await kept.release();
        const cutOff = store.openBackend();
        backends.push(cutOff);
        const place = { aliveFor: 30_000, sequence: undefined };
        const ask = (token: string, ttl: number, wait: boolean) =>
          cutOff.tryAcquire({
            name: LockName.of('lock', `${key} waited for`),
            token,
            ttl,
            notAfter: performance.now() + 5_000,
            place: wait ? place : undefined,
          });
        await ask(randomUUID(), 100, false);
        const token = randomUUID();
        await ask(token, 100, true);
        await eventually(async () => (await locker.inspect(`${key} waited for`)).held.length === 0);
        expect(await locker.query(`${key} *`)).toMatchObject([
          { key: `${key} kept`, held: [{ kept: true }], pending: [] },
          { key: `${key} waited for`, held: [], pending: [{ sequence: expect.any(Number) }] },
        ]);
        await cutOff.cancel({ name: LockName.of('lock', `${key} waited for`), token });
      });

      it('matches by glob, whatever is in the keys, under one prefix', async () => {
        const names = [
          'a{1}',
          'a%7B1}',
          'a*1',
          'a[1]',
          'a\\1',
          'aé1',
          'a👍1',
          'a:q',
          'a}:q',
          '%25',
        ];
        const locks = await Promise.all(
          names.map((each) => locker.acquire(each, { prefix: 'p[a-z]*' })),
        );
        const neighbour = await locker.acquire('a-1', { prefix: 'pb' });
        const all = (pattern?: string) => shown(pattern, 'p[a-z]*');
        expect(await all()).toEqual(names.toSorted());
        expect(await all('*')).toEqual(names.toSorted());
        expect(await all('a{*')).toEqual(['a{1}']);
        expect(await all('a?1')).toEqual(['a*1', 'a\\1', 'aé1', 'a👍1'].toSorted());
        expect(await all('a\\*1')).toEqual(['a*1']);
        expect(await all('a[1?')).toEqual(['a[1]']);
        expect(await all('*}')).toEqual(['a{1}', 'a%7B1}'].toSorted());
        expect(await all('*%*')).toEqual(['%25', 'a%7B1}']);
        expect(await all('%25')).toEqual(['%25']);
        expect(await all('b*')).toEqual([]);
        await Promise.all([...locks, neighbour].map((lock) => lock.release()));
        expect(await all()).toEqual([]);
      });
    });

    describe('forceRelease', () => {
      it('takes the lock from its holder at once, and tells both sides', async () => {
        const admin = open({ application: 'admin' });
        const [lost, forced] = [record(locker, 'lost'), record(admin, 'forced')];
        const lock = await locker.acquire(key, { label: 'import' });
        const { signal } = lock;
        // It listens from its first lock on; until then it would learn of it when it renews.
        await eventually(async () => {
          const probe = await locker.acquire(`${key} probe`);
          await admin.forceRelease(`${key} probe`);
          return eventually(() => probe.signal.aborted, { timeout: 100 });
        });
        lost.length = 0;
        forced.length = 0;
        const outcome = await admin.forceRelease(key, { reason: 'stuck' });
        const by = { pid: process.pid, application: 'admin', reason: 'stuck' };
        const holder = { label: 'import', fencingToken: lock.fencingToken, kept: false };
        expect(outcome).toMatchObject({ kind: 'released', held: [holder] });
        await eventually(() => signal.aborted);
        expect(signal.reason).toBeInstanceOf(LockLostError);
        expect(signal.reason).toMatchObject({ reason: 'forced', key, by });
        expect(() => lock.assertHeld()).toThrow(/by force/);
        expect(lock).toMatchObject({ state: 'lost', isHeld: false, remaining: 0 });
        const { fencingToken } = lock;
        expect(lost).toEqual([
          [
            'lost',
            {
              key,
              fencingToken,
              held: expect.any(Number),
              reason: 'forced',
              by: { ...by, host: expect.any(String) },
            },
          ],
        ]);
        expect(forced).toMatchObject([['forced', { key, held: [holder], by }]]);
        const next = await other.acquire(key);
        expect(next.fencingToken).toBeGreaterThan(fencingToken);
        expect(await lock.release()).toBe('lost');
        expect(next.isHeld).toBe(true);
        expect(await next.release()).toBe('released');
      });

      it("lets callers of the holder's own process compete like any other", async () => {
        const lock = await locker.acquire(key);
        const remote = other.acquire(key, { waitTimeout: 5_000 });
        await pending(1);
        const local = locker.acquire(key, { waitTimeout: 5_000 });
        await other.forceRelease(key);
        const first = await remote;
        expect(lock.isHeld).toBe(false);
        await first.release();
        await (await local).release();
      });

      it('rejects the result of work whose lock was taken, and says by whom', async () => {
        const using = locker.using(key, async (lock) => {
          const waiter = other.acquire(key);
          await pending(1);
          await other.forceRelease(key, { reason: 'stuck' });
          await eventually(() => lock.signal.aborted);
          await (await waiter).release();
        });
        expect(await rejection(using)).toMatchObject({
          code: 'LOCK_LOST',
          reason: 'forced',
          by: { pid: process.pid, reason: 'stuck' },
        });
      });

      it('says that nobody held the key, without an event', async () => {
        const forced = record(locker, 'forced');
        expect(await locker.forceRelease(key)).toEqual({ kind: 'not-held' });
        await locker.using(key, () => {});
        expect(await locker.forceRelease(key)).toEqual({ kind: 'not-held' });
        expect(forced).toEqual([]);
      });

      it('keeps prefixes apart', async () => {
        const lock = await locker.acquire(key);
        expect(await locker.forceRelease(key, { prefix: 'another' })).toEqual({ kind: 'not-held' });
        expect(await lock.release()).toBe('released');
      });

      it.each([
        ['an empty key', '', {}, LockKeyError],
        ['an empty reason', 'k', { reason: '' }, LockConfigError],
        ['a reason too long', 'k', { reason: 'x'.repeat(201) }, LockConfigError],
        ['an unknown option', 'k', { ttl: 100 }, LockConfigError],
        ['options that are none', 'k', null, LockConfigError],
      ])('rejects %s', async (_what, wrongKey, options, type) => {
        const error = await rejection(locker.forceRelease(wrongKey, options as never));
        expect(error).toBeInstanceOf(type);
      });
    });

    describe('inspect', () => {
      it('shows who holds the key and who waits for it', async () => {
        const named = open({ application: 'shop' });
        const before = Date.now();
        const lock = await named.acquire(key, { ttl: '5s' });
        const waiters = [other.acquire(key), locker.acquire(key)];
        await pending(2);
        const { held, pending: waitingNow } = await locker.inspect(key);
        expect(held).toMatchObject([
          {
            fencingToken: lock.fencingToken,
            pid: process.pid,
            application: 'shop',
            kept: false,
            access: 'exclusive',
          },
        ]);
        expect(held[0]?.since.getTime()).toBeGreaterThanOrEqual(before - 1);
        expect(held[0]?.remaining).toBeLessThanOrEqual(5_000);
        const sequences = waitingNow.map(({ sequence }) => sequence as number);
        expect(sequences).toEqual(sequences.toSorted((a, b) => a - b));
        await lock.release();
        await Promise.all(waiters.map(async (waiter) => (await waiter).release()));
        expect(await locker.inspect(key)).toEqual({ key, held: [], pending: [] });
      });
    });

    describe('events', () => {
      it('tell what happens, with the facts', async () => {
        const events = record(locker);
        // Else it may be renewed once by itself, when its process begins to hear what is told to holders.
        const first = await locker.acquire(key, { ttl: '5s', renew: false });
        const second = locker.acquire(key, { waitTimeout: 5_000 });
        await pending(1);
        const third = rejection(locker.acquire(key, { waitTimeout: 40 }));
        expect(await locker.tryAcquire(key)).toBeNull();
        await third;
        await first.extend();
        await first.release();
        const got = await second;
        await got.release();
        const duration = expect.any(Number);
        expect(events).toEqual([
          ['acquired', { key, fencingToken: first.fencingToken, waited: duration }],
          ['waiting', { key, remaining: duration }],
          ['waiting', { key, remaining: undefined }],
          ['busy', { key, remaining: undefined }],
          ['timedOut', { key, waited: duration }],
          ['renewed', { key, fencingToken: first.fencingToken, remaining: duration }],
          ['released', { key, fencingToken: first.fencingToken, held: duration, kept: 0 }],
          ['acquired', { key, fencingToken: got.fencingToken, waited: duration }],
          ['released', { key, fencingToken: got.fencingToken, held: duration, kept: 0 }],
        ]);
        const waited = (index: number) => (events[index] as [string, { waited: number }])[1].waited;
        expect(waited(0)).toBeLessThan(waited(7));
        expect(waited(4)).toBeGreaterThanOrEqual(35);
      });

      it('tell of a hand-over within the process, between the release of the one and the grant of the next', async () => {
        const local = open({ localHandover: true });
        const events = record(local, 'released', 'handedOver', 'acquired');
        const lock = await local.acquire(key);
        const begun = waiting(local);
        const next = local.acquire(key, { waitTimeout: 5_000 });
        await begun;
        await lock.release();
        const got = await next;
        await got.release();
        expect(events.map(([name]) => name)).toEqual([
          'acquired',
          ...['released', 'handedOver', 'acquired'],
          'released',
        ]);
        const { fencingToken: from } = lock;
        const { fencingToken } = got;
        const waited = expect.any(Number);
        expect(events[2]).toEqual(['handedOver', { key, from, fencingToken, waited }]);
      });

      it('tell how each call that got no lock ended: skipped, or refused with a code', async () => {
        const events = record(locker, 'skipped', 'refused', 'busy', 'timedOut');
        const lock = await other.acquire(key);
        const reason = new Error('not needed any more');
        const controller = new AbortController();
        await locker.tryAcquire(key);
        await locker.using(key, { onBusy: 'skip' }, () => {});
        const aborted = rejection(locker.acquire(key, { signal: controller.signal }));
        const errors = [
          await rejection(locker.acquire(key, { onBusy: 'throw' })),
          await rejection(locker.acquire(key, { waitTimeout: 30 })),
          await rejection(locker.acquire('')),
          await rejection(locker.acquire(7 as unknown as string)),
          await rejection(locker.using(key, { ttl: 1 }, () => {})),
        ];
        controller.abort(reason);
        errors.push(await aborted);
        locker.stopGranting();
        errors.push(await rejection(locker.tryAcquire(key)));
        const facts = { key, remaining: expect.any(Number) };
        const of = (name: string) =>
          events.filter(([each]) => each === name).map(([, each]) => each);
        expect(of('skipped')).toEqual([facts, facts]);
        expect(of('busy')).toEqual([facts, facts, facts]);
        expect(of('timedOut')).toHaveLength(1);
        const waited = expect.any(Number);
        expect(of('refused')).toEqual([
          { key, code: 'LOCK_BUSY', waited, error: errors[0] },
          { key, code: 'LOCK_TIMEOUT', waited, error: errors[1] },
          { key: '', code: 'LOCK_KEY', waited, error: errors[2] },
          { key: undefined, code: 'LOCK_KEY', waited, error: errors[3] },
          { key, code: 'LOCK_CONFIG', waited, error: errors[4] },
          { key, code: 'ABORTED', waited, error: reason },
          { key, code: 'LOCK_UNAVAILABLE', waited, error: errors[6] },
        ]);
        await lock.release();
      });

      it("tell what the caller's own signal ended by that, whatever its reason is", async () => {
        const events = record(locker, 'refused');
        const reason = new LockLostError('another', 'expired', 7);
        const signal = AbortSignal.abort(reason);
        expect(await rejection(locker.acquire(key, { signal }))).toBe(reason);
        expect(events).toEqual([
          ['refused', { key, code: 'ABORTED', waited: expect.any(Number), error: reason }],
        ]);
      });

      it('stop when asked to, each listener by itself', async () => {
        const seen: string[] = [];
        const twice = (): void => void seen.push('twice');
        const stop = locker.on('acquired', twice);
        locker.on('acquired', twice);
        locker.on('acquired', () => seen.push('once'));
        await locker.using(key, () => {});
        stop();
        stop();
        await locker.using(key, () => {});
        expect(seen).toEqual(['twice', 'twice', 'once', 'twice', 'once']);
      });

      it('are not harmed by a listener that throws or rejects, nor is the lock', async () => {
        const warnings: Error[] = [];
        const emitWarning = jest
          .spyOn(process, 'emitWarning')
          .mockImplementation((warning) => void warnings.push(warning as Error));
        try {
          for (const name of ALL_EVENTS) {
            locker.on(name, () => {
              throw new Error('sync');
            });
            locker.on(name, (async () => {
              throw new Error('async');
            }) as never);
          }
          const events = record(locker);
          const result = await locker.using(key, { ttl: 100, renew: false }, async (lock) => {
            const waiter = rejection(other.acquire(key, { waitTimeout: 10 }));
            expect(await other.tryAcquire(key)).toBeNull();
            await waiter;
            await lock.extend();
            return 'done';
          });
          expect(result).toBe('done');
          expect(events.map(([name]) => name)).toEqual(['acquired', 'renewed', 'released']);
          await eventually(() => warnings.length === 6);
          for (const warning of warnings) {
            expect(warning.message).toContain('listener');
            expect(warning.cause).toMatchObject({ message: expect.stringMatching(/^a?sync$/) });
          }
        } finally {
          emitWarning.mockRestore();
        }
      });
    });

    describe('shutdown', () => {
      const refused = { code: 'LOCK_UNAVAILABLE', reason: 'shutting-down' };

      it('drains also where a listener began it, in the middle of what just happened', async () => {
        const lock = await locker.acquire(key, { ttl: 300, renew: false });
        let closing: Promise<void> | undefined;
        locker.on('busy', () => (closing = locker.close()));
        await locker.tryAcquire(key);
        expect(lock.isHeld).toBe(true);
        expect(await lock.release()).toBe('released');
        await closing;
      });

      it('stopGranting refuses who asks and who waits, and lets holders finish', async () => {
        const lock = await locker.acquire(key);
        const waiter = rejection(locker.acquire(key));
        const elsewhere = await other.acquire(`${key} elsewhere`);
        const remote = rejection(locker.acquire(`${key} elsewhere`));
        await pending(1);
        await pending(1, `${key} elsewhere`);
        locker.stopGranting();
        for (const error of [
          await waiter,
          await remote,
          await rejection(locker.acquire(`${key} new`)),
          await rejection(locker.tryAcquire(`${key} new`)),
          await rejection(locker.using(`${key} new`, { onBusy: 'skip' }, () => {})),
        ]) {
          expect(error).toBeInstanceOf(LockUnavailableError);
          expect(error).toMatchObject(refused);
        }
        await pending(0);
        await lock.extend();
        expect(await lock.release()).toBe('released');
        await elsewhere.release();
      });

      it('still grants to calls that hold a lock and need another to finish', async () => {
        const draining = open({ drainTimeout: '5s' });
        const result = await draining.using(key, async (lock) => {
          const closed = draining.close();
          const inner = await draining.using(`${key} inner`, async () =>
            draining.using(key, () => 'inner'),
          );
          expect(lock.signal.aborted).toBe(false);
          void closed.then(() => expect(lock.isHeld).toBe(false));
          return inner;
        });
        expect(result).toBe('inner');
        await draining.close();
        expect((await other.tryAcquire(key))?.isHeld).toBe(true);
      });

      it('still lets one enter again by `within`', async () => {
        const lock = await locker.acquire(key);
        locker.stopGranting();
        const inner = await locker.acquire(key, { within: lock });
        await inner.release();
        expect(await lock.release()).toBe('released');
      });

      it('still lets those in who wait to enter again: their holder cannot finish without', async () => {
        const result = await locker.using(key, async () => {
          const inside = gate();
          const first = locker.using(key, () => inside.opened);
          const second = locker.using(key, () => 'second');
          locker.stopGranting();
          inside.open();
          await first;
          return second;
        });
        expect(result).toBe('second');
      });

      it('lets calls below a holder enter its key again, also behind a sibling, and refuses all others', async () => {
        const draining = gate();
        // Started outside of the holder's call, though it runs meanwhile.
        const others = draining.opened.then(() =>
          Promise.all([
            rejection(locker.acquire(key)),
            rejection(locker.tryAcquire(key)),
            rejection(locker.using(key, () => 'other')),
          ]),
        );
        const entered = await locker.using(key, async () => {
          locker.stopGranting();
          draining.open();
          const inside = gate();
          const order: string[] = [];
          const siblings = [
            locker.using(key, async () => {
              await inside.opened;
              order.push('first');
            }),
            locker.using(key, () => order.push('second')),
            locker.acquire(key).then((lock) => lock.release()),
          ];
          for (const error of await others) expect(error).toMatchObject(refused);
          expect(order).toEqual([]);
          inside.open();
          await Promise.all(siblings);
          return order;
        });
        expect(entered).toEqual(['first', 'second']);
      });

      it('close waits for holders, for up to drainTimeout', async () => {
        const draining = open({ drainTimeout: '5s' });
        const lock = await draining.acquire(key);
        const done: string[] = [];
        const closed = draining.close().then(() => done.push('closed'));
        await expect(draining.acquire(`${key} x`)).rejects.toMatchObject(refused);
        expect(done).toEqual([]);
        done.push('released');
        expect(await lock.release()).toBe('released');
        await closed;
        expect(done).toEqual(['released', 'closed']);
      });

      it('close takes the locks of those who are not done in time: signal, LockLostError, free key', async () => {
        const draining = open({ drainTimeout: 50 });
        const events = record(draining, 'lost');
        // Before the work begins, which asks for the same.
        const blocker = await other.acquire(`${key} held by another`);
        const start = performance.now();
        let signal: AbortSignal | undefined;
        const outcome = rejection(
          draining.using(key, async (lock) => {
            signal = lock.signal;
            const closed = draining.close();
            const nested = rejection(draining.acquire(`${key} held by another`));
            await eventually(() => lock.signal.aborted);
            expect(await nested).toMatchObject(refused);
            await closed;
            expect((await other.tryAcquire(key))?.isHeld).toBe(true);
          }),
        );
        expect(await outcome).toBeInstanceOf(LockLostError);
        expect(await outcome).toMatchObject({ reason: 'shutdown' });
        expect(signal?.reason).toMatchObject({ code: 'LOCK_LOST', reason: 'shutdown' });
        expect(performance.now() - start).toBeGreaterThan(45);
        expect(events).toMatchObject([['lost', { key, reason: 'shutdown' }]]);
        await blocker.release();
      });

      it('close lets a release that is under way arrive', async () => {
        for (let turn = 0; turn < 5; turn += 1) {
          const closing = open({ drainTimeout: '5s' });
          const locks = await Promise.all([1, 2, 3].map((n) => closing.acquire(`${key} ${n}`)));
          const released = locks.map((lock) => lock.release());
          await closing.close();
          expect(await Promise.all(released)).toEqual(['released', 'released', 'released']);
        }
      });

      it.each(['acquire', 'tryAcquire', 'using'] as const)(
        'close leaves nothing of an %s that is under way',
        async (method) => {
          const closing = open({ drainTimeout: 50 });
          await closing.connect();
          const asked =
            method === 'using'
              ? closing.using(key, () => {})
              : closing[method](key).then((lock) => lock?.release());
          // Refused, or granted while draining and given back; but neither fails in another way, nor stays.
          const [outcome] = await Promise.allSettled([asked, closing.close()]);
          const { reason = refused } = outcome as { reason?: unknown };
          expect(reason).toMatchObject(refused);
          expect((await other.inspect(key)).held).toEqual([]);
        },
      );

      it('close refuses everything from then on, and may be called again', async () => {
        const closed = locker.close();
        expect(locker.close()).toBe(closed);
        await closed;
        await expect(locker.acquire(key)).rejects.toMatchObject(refused);
        await expect(locker.tryAcquire(key)).rejects.toMatchObject(refused);
        await expect(locker.using(key, () => {})).rejects.toMatchObject(refused);
        expect((await other.tryAcquire(key))?.isHeld).toBe(true);
      });
    });

    it('leaves nothing behind after a thousand turns and as many who gave up', async () => {
      await Promise.all(
        Array.from({ length: 1_000 }, async (_, index) => {
          const each = `${key} ${index % 50}`;
          const from = index % 2 === 0 ? locker : other;
          if (index % 5 === 0) {
            await from.acquire(each, { waitTimeout: 5 }).then(
              (lock) => lock.release(),
              () => {},
            );
          } else {
            await from.using(each, () => {});
          }
        }),
      );
      await Promise.all([locker.close(), other.close()]);
      await eventually(async () => (await leftoversOf(key)).length === 0, {
        message: 'nothing but fence counters is left',
      });
    });

    async function leftoversOf(name: string): Promise<readonly string[]> {
      return (await store.leftovers()).filter((each) => each.includes(`{${name} `));
    }
  });
}
