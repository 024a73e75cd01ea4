/**
 * What `Locker.runOnce` and `Locker.runs` promise, as one table of behaviour, run by run-once.spec.ts over Redis and over
 * memory.
 *
 * Each locker stands for a process of its own: it has its own backend on the shared store, and its own wall clock.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import type { ClaimReply, ClaimRequest } from '../../lib/core/backend/run-store.js';
import { LockConfigError, LockLostError } from '../../lib/core/errors.js';
import type { Lock } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import type { RunOnceOptions } from '../../lib/core/run-options.js';
import type { RunOutcome } from '../../lib/core/run-record.js';
import { eventually } from '../support/eventually.js';

/** Where the lockers of one run keep their locks and records. */
export interface RunStoreUnderTest {
  /** A locker as another process would make it. */
  open(options: Omit<LockerOptions, 'connection'>, wallClock: () => number): Locker;
  /** The bare backend of a process that doesn't behave. */
  openBackend(): LockBackend;
  /** For how long the records of a job are kept from now, in ms. */
  kept(name: LockName): Promise<number>;
  close(): Promise<void>;
}

const SECOND = 1_000;
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** A multiple of every period here. */
const T = Date.UTC(2026, 0, 1);
/** Soon over, but not before what is to happen meanwhile has happened. */
const SHORT_TTL = 300;

export function describeRunOnce(title: string, openStore: () => Promise<RunStoreUnderTest>): void {
  describe(`runOnce: ${title}`, () => {
    let store: RunStoreUnderTest;
    let job: string;
    let jobs = 0;
    const replicas: Replica[] = [];
    const backends: LockBackend[] = [];

    /** A process that has the job. */
    class Replica {
      /** By how much its wall clock is ahead of T, in ms. */
      reading = 0;
      readonly locker: Locker;

      constructor(options: Omit<LockerOptions, 'connection'> = {}) {
        this.locker = store.open({ drainTimeout: 1, ...options }, () => T + this.reading);
        replicas.push(this);
      }

      /** Runs the tick that its clock shows. */
      run<R = string>(
        options: Partial<RunOnceOptions> = {},
        work: (lock: Lock) => R | Promise<R> = () => 'done' as R,
      ): Promise<RunOutcome<R>> {
        return this.locker.runOnce(job, { per: '1m', ...options }, work);
      }

      /** Begins a run that lasts until the returned function is called, which gives its outcome. */
      async begin(
        options: Partial<RunOnceOptions> = {},
      ): Promise<() => Promise<RunOutcome<string>>> {
        const work = gate();
        const begun = gate();
        const outcome = this.run(options, async () => {
          begun.open();
          await work.opened;
          return 'long';
        });
        await Promise.race([begun.opened, outcome]);
        return () => {
          work.open();
          return outcome;
        };
      }
    }

    /** A promise to be settled by hand. */
    function gate(): { readonly opened: Promise<void>; open(): void } {
      let openGate!: () => void;
      const opened = new Promise<void>((resolve) => (openGate = resolve));
      return { opened, open: openGate };
    }

    function open(reading = 0, options: Omit<LockerOptions, 'connection'> = {}): Replica {
      const replica = new Replica(options);
      replica.reading = reading;
      return replica;
    }

    /** What is recorded of the job, newest first: tick, state, attempt. */
    async function recorded(): Promise<string[]> {
      const records = await (replicas[0] ?? open()).locker.runs(job);
      return records.map(({ tick, state, attempt }) => `${tick.getTime() - T} ${state} ${attempt}`);
    }

    function runsOf(name = job): LockName {
      return LockName.of('lock:run', name);
    }

    /** What a process claims that is gone right after. */
    async function claimAndCrash(
      given: { reading?: number; ttl?: number; lock?: string; dead?: string[] } = {},
    ): Promise<{ reply: ClaimReply; request: ClaimRequest; backend: LockBackend }> {
      const { reading = 0, ttl = SHORT_TTL, dead = [] } = given;
      const backend = store.openBackend();
      backends.push(backend);
      const token = randomBytes(9).toString('base64url');
      const lock = given.lock ?? token;
      const name = LockName.of(`lock:run:${lock}`, job);
      const notAfter = performance.now() + 5_000;
      const granted = await backend.tryAcquire({ name, token, ttl, notAfter, place: undefined });
      if (granted.kind !== 'granted') throw new Error(`Not granted: ${granted.kind}`);
      const request: ClaimRequest = {
        run: {
          token,
          lock,
          fence: String(granted.fencingToken),
          tick: T + reading,
          host: 'gone',
          pid: 1,
        },
        instant: T + reading,
        per: MINUTE,
        overlap: 'skip',
        attempts: 2,
        keep: 10,
        retain: DAY,
        within: 5_000,
        dead,
        alive: [],
        abandoned: [],
      };
      const reply = await backend.runs.claim(runsOf(), request);
      if (reply.kind === 'unavailable') throw new Error('Unavailable');
      return { reply, request, backend };
    }

    /** What a promise rejects with. */
    async function rejection(promise: Promise<unknown>): Promise<unknown> {
      const value = await promise.then(
        (fulfilled) => ({ fulfilled }),
        (error: unknown) => ({ error }),
      );
      if (!('error' in value)) throw new Error(`Fulfilled with ${JSON.stringify(value.fulfilled)}`);
      return value.error;
    }

    beforeAll(async () => {
      store = await openStore();
    });

    afterAll(async () => {
      await store.close();
    });

    beforeEach(() => {
      jobs += 1;
      job = `job ${jobs}`;
    });

    afterEach(async () => {
      await Promise.all(replicas.splice(0).map(({ locker }) => locker.close()));
      await Promise.all(backends.splice(0).map((backend) => backend.close()));
    });

    describe('a tick', () => {
      it('is run once, under a lock, and recorded', async () => {
        const replica = open(0, { application: 'shop' });
        const before = Date.now();
        let lock: Lock | undefined;
        const outcome = await replica.run({}, (held) => {
          lock = held;
          expect(held.isHeld).toBe(true);
          expect(replica.locker.current(job)).toBe(held);
          return { written: 3 };
        });
        const tick = new Date(T);
        expect(outcome).toEqual({ kind: 'ran', tick, attempt: 1, result: { written: 3 } });
        expect(lock?.state).toBe('released');
        const records = await replica.locker.runs(job);
        expect(records).toEqual([
          {
            job,
            tick,
            state: 'done',
            attempt: 1,
            start: expect.any(Date),
            duration: expect.any(Number),
            host: hostname(),
            pid: process.pid,
            application: 'shop',
            fencingToken: lock?.fencingToken,
            result: { written: 3 },
            resultOmitted: undefined,
            error: undefined,
            behind: undefined,
          },
        ]);
        const [{ start, duration = -1 } = { start: new Date(0) }] = records;
        expect(start.getTime()).toBeGreaterThanOrEqual(before - 1);
        expect(start.getTime()).toBeLessThanOrEqual(Date.now() + 1);
        expect(duration).toBeGreaterThanOrEqual(0);
        expect(duration).toBeLessThanOrEqual(Date.now() - before + 1);
      });

      it('tells the work which tick it is', async () => {
        const seen: unknown[] = [];
        await open(90 * MINUTE).locker.runOnce(job, { per: '1m' }, (_lock, run) => seen.push(run));
        expect(seen).toEqual([{ tick: new Date(T + 90 * MINUTE), attempt: 1 }]);
      });

      it('is skipped where another replica runs it: at once, and saying who', async () => {
        const [runner, other] = [open(0, { application: 'runner' }), open()];
        const end = await runner.begin();
        expect(await other.run()).toMatchObject({
          kind: 'skipped',
          reason: 'claimed',
          run: { job, state: 'running', application: 'runner', pid: process.pid, host: hostname() },
        });
        expect(await end()).toMatchObject({ kind: 'ran', result: 'long' });
      });

      it('is skipped where it has been run, also by the same replica', async () => {
        const [runner, other] = [open(), open()];
        await runner.run();
        for (const replica of [other, runner]) {
          expect(await replica.run()).toMatchObject({
            kind: 'skipped',
            reason: 'done',
            run: { state: 'done', result: 'done' },
          });
        }
        expect(await recorded()).toEqual(['0 done 1']);
      });

      it('is run by one of many that come at once, also with several calls of a process', async () => {
        const lockers = Array.from({ length: 5 }, () => open());
        let runs = 0;
        const calls = [...lockers, ...lockers].map((replica) =>
          replica.run({}, async () => {
            runs += 1;
            await new Promise((resolve) => setImmediate(resolve));
          }),
        );
        const outcomes = await Promise.all(calls);
        expect(runs).toBe(1);
        expect(outcomes.filter(({ kind }) => kind === 'ran')).toHaveLength(1);
        expect(await recorded()).toEqual(['0 done 1']);
      });

      it("isn't another job's, nor one under another prefix", async () => {
        const replica = open();
        await replica.run();
        expect(await replica.run({ prefix: 'other' })).toMatchObject({ kind: 'ran' });
        expect(await replica.locker.runOnce(`${job}'s`, { per: '1m' }, () => 'done')).toMatchObject(
          { kind: 'ran' },
        );
        expect(await replica.locker.runs(job, { prefix: 'other' })).toHaveLength(1);
        expect(await replica.locker.runs('never run')).toEqual([]);
      });

      it("has nothing to do with the application's own lock of that name", async () => {
        const replica = open();
        await using lock = await replica.locker.acquire(job);
        expect(await replica.run()).toMatchObject({ kind: 'ran' });
        expect(lock.isHeld).toBe(true);
      });
    });

    describe('which tick it is', () => {
      it.each<[string, number, number, boolean]>([
        // Clocks that differ, and starts that are late.
        ['1s', -300, 300, true],
        ['1s', 0, 499, true],
        ['1s', 0, SECOND, false],
        ['1s', 300, SECOND - 300, false],
        ['1m', -20 * SECOND, 20 * SECOND, true],
        ['1m', 20 * SECOND, -20 * SECOND, true],
        ['1m', 0, 29 * SECOND, true],
        ['1m', 0, MINUTE, false],
        ['1m', 5 * SECOND, MINUTE - 5 * SECOND, false],
        // Ticks between two multiples of the period: every hour at half past, daily at noon or at eight.
        ['1h', 30 * MINUTE - 100, 30 * MINUTE + 100, true],
        ['1h', 30 * MINUTE + 100, 30 * MINUTE - 100, true],
        ['1h', 30 * MINUTE + 100, 90 * MINUTE - 100, false],
        ['1h', 20 * MINUTE - 100, 20 * MINUTE + 100, true],
        ['1h', 20 * MINUTE + 100, 20 * MINUTE - 100, true],
        ['1h', 20 * MINUTE + 100, 80 * MINUTE - 100, false],
        ['1h', 20 * MINUTE - 100, 80 * MINUTE + 100, false],
        ['1d', 12 * HOUR + 100, 12 * HOUR - 100, true],
        ['1d', 12 * HOUR - 100, 36 * HOUR + 100, false],
        ['1d', 8 * HOUR - 100, 8 * HOUR + 100, true],
        ['1d', 8 * HOUR + 100, 32 * HOUR - 100, false],
        // Where clocks are put forward, a day has 23 hours.
        ['1d', 8 * HOUR, 31 * HOUR, false],
      ])(
        'is told by the wall clock: per %s, at %d and %d ms: same is %p',
        async (per, a, b, same) => {
          await open(a).run({ per: per as '1s' });
          const outcome = await open(b).run({ per: per as '1s' });
          expect(outcome.kind).toBe(same ? 'skipped' : 'ran');
        },
      );

      it.each([
        ['1m', 40, 0],
        ['1m', -40, 0],
        ['1m', 30 * SECOND + 40, 30 * SECOND],
        ['1d', 8 * HOUR - 2_300, 8 * HOUR],
        ['1d', 8 * HOUR + 25 * SECOND, 8 * HOUR + 25 * SECOND],
        ['10s', 9_800, 10_000],
        ['1s', 2_100, 2_000],
      ] as const)(
        'is shown as the instant of a schedule: per %s, at %d ms: %d',
        async (per, at, shown) => {
          await open(at).run({ per });
          expect(await recorded()).toEqual([`${shown} done 1`]);
        },
      );

      it('may be told by the caller', async () => {
        const [a, b] = [open(), open(20 * MINUTE)];
        const at = new Date(T + 7_500);
        expect(await a.run({ at })).toMatchObject({ kind: 'ran', tick: at });
        expect(await b.run({ at })).toMatchObject({ kind: 'skipped', reason: 'done' });
        expect(await recorded()).toEqual(['7500 done 1']);
      });

      it('is refused where a later one has begun', async () => {
        const [fast, slow] = [open(2 * MINUTE), open(MINUTE)];
        await fast.run();
        expect(await slow.run()).toMatchObject({
          kind: 'skipped',
          reason: 'late',
          run: { tick: new Date(T + 2 * MINUTE) },
        });
        slow.reading = 3 * MINUTE;
        expect(await slow.run()).toMatchObject({ kind: 'ran' });
      });
    });

    describe('a tick that comes while an earlier one runs', () => {
      it('is skipped, once for all replicas, and recorded; the one after it runs again', async () => {
        const [runner, other, third] = [open(), open(), open()];
        const end = await runner.begin();
        other.reading = MINUTE;
        expect(await other.run()).toMatchObject({
          kind: 'skipped',
          reason: 'overlap',
          run: {
            state: 'skipped',
            tick: new Date(T + MINUTE),
            behind: new Date(T),
            fencingToken: undefined,
            duration: undefined,
          },
        });
        expect(await recorded()).toEqual([`${MINUTE} skipped 1`, '0 running 1']);
        await end();
        // It was decided, though nothing is in its way any more.
        third.reading = MINUTE;
        expect(await third.run()).toMatchObject({ kind: 'skipped', reason: 'overlap' });
        third.reading = 2 * MINUTE;
        expect(await third.run()).toMatchObject({ kind: 'ran' });
        expect(await recorded()).toEqual([
          `${2 * MINUTE} done 1`,
          `${MINUTE} skipped 1`,
          '0 done 1',
        ]);
      });

      it('is skipped also in the process that runs the earlier one', async () => {
        const replica = open();
        const end = await replica.begin();
        replica.reading = MINUTE;
        expect(await replica.run()).toMatchObject({ kind: 'skipped', reason: 'overlap' });
        await end();
      });

      it("runs beside it with overlap: 'run'", async () => {
        const [runner, other] = [open(), open(MINUTE)];
        const end = await runner.begin({ overlap: 'run' });
        expect(await other.run({ overlap: 'run' })).toMatchObject({ kind: 'ran' });
        expect(await recorded()).toEqual([`${MINUTE} done 1`, '0 running 1']);
        expect(await end()).toMatchObject({ kind: 'ran' });
        expect(await recorded()).toEqual([`${MINUTE} done 1`, '0 done 1']);
      });
    });

    describe('a runner that crashes', () => {
      it('is found out by who looks at the records', async () => {
        await claimAndCrash();
        await eventually(async () => (await recorded())[0] === '0 crashed 1');
        const [record] = await (replicas[0] as Replica).locker.runs(job);
        expect(record).toMatchObject({ host: 'gone', pid: 1, duration: undefined });
      });

      it("doesn't have its tick run again, and doesn't stand in the way of the next", async () => {
        await claimAndCrash();
        const [same, next] = [open(), open(MINUTE)];
        expect(await same.run()).toMatchObject({ kind: 'skipped', reason: 'claimed' });
        await eventually(async () => {
          const outcome = await same.run();
          return outcome.kind === 'skipped' && outcome.reason === 'crashed';
        });
        expect(await next.run()).toMatchObject({ kind: 'ran' });
        expect(await recorded()).toEqual([`${MINUTE} done 1`, '0 crashed 1']);
      });

      it('is found out by the next tick', async () => {
        const { request, backend } = await claimAndCrash();
        const lock = LockName.of(`lock:run:${request.run.lock}`, job);
        await eventually(async () => {
          const outcome = await backend.query(lock);
          return outcome.kind === 'found' && outcome.state.held.length === 0;
        });
        expect(await open(MINUTE).run()).toMatchObject({ kind: 'ran' });
        expect(await recorded()).toEqual([`${MINUTE} done 1`, '0 crashed 1']);
      });

      it('has its tick taken up by one of those that wait, with retryCrashed, and by nobody else', async () => {
        const { request } = await claimAndCrash();
        const waiters = [open(), open(), open()];
        const runs: Lock[] = [];
        const started = performance.now();
        const outcomes = await Promise.all(
          waiters.map((replica) => replica.run({ retryCrashed: true }, (lock) => runs.push(lock))),
        );
        expect(performance.now() - started).toBeLessThan(5_000);
        expect(runs).toHaveLength(1);
        expect(runs[0]?.fencingToken).toBeGreaterThan(Number(request.run.fence));
        expect(outcomes.filter(({ kind }) => kind === 'ran')).toMatchObject([{ attempt: 2 }]);
        expect(outcomes.filter(({ kind }) => kind === 'skipped')).toHaveLength(2);
        expect(await recorded()).toEqual(['0 done 2', '0 crashed 1']);
      });

      it('has its tick taken up also by one that comes when it was found out, and never a second time', async () => {
        const { request } = await claimAndCrash({ ttl: 100 });
        const replica = open();
        await eventually(async () => (await recorded())[0] === '0 crashed 1');
        const second = await claimAndCrash({ ttl: 100, lock: request.run.lock as string });
        expect(second.reply).toMatchObject({ kind: 'begun', run: { attempt: 2 } });
        await eventually(async () => (await recorded())[0] === '0 crashed 2');
        expect(await replica.run({ retryCrashed: true })).toMatchObject({
          kind: 'skipped',
          reason: 'crashed',
          run: { attempt: 2 },
        });
      });

      it("isn't waited for where a later tick has begun", async () => {
        await claimAndCrash({ ttl: 100 });
        const replica = open();
        await eventually(async () => (await recorded())[0] === '0 crashed 1');
        await open(MINUTE).run();
        expect(await replica.run({ retryCrashed: true })).toMatchObject({
          kind: 'skipped',
          reason: 'crashed',
        });
      });
    });

    describe('retryCrashed, where nothing crashes,', () => {
      it('lets the others wait until the runner is done', async () => {
        const [runner, ...others] = [open(), open(), open()];
        const end = await (runner as Replica).begin({ retryCrashed: true });
        const waiting = others.map((replica) => replica.run({ retryCrashed: true }));
        const lock = await lockOfRun();
        await eventually(async () => (await pendingOn(lock)) === 2);
        await end();
        for (const outcome of await Promise.all(waiting)) {
          expect(outcome).toMatchObject({ kind: 'skipped', reason: 'done' });
        }
        expect(await recorded()).toEqual(['0 done 1']);
      });

      it('lets them wait for no longer than a period', async () => {
        const [runner, other] = [open(), open()];
        const options = { per: '1s', retryCrashed: true } as const;
        const end = await runner.begin(options);
        const started = performance.now();
        expect(await other.run(options)).toMatchObject({ kind: 'skipped', reason: 'claimed' });
        expect(performance.now() - started).toBeGreaterThan(SECOND - 50);
        expect(performance.now() - started).toBeLessThan(3 * SECOND);
        await end();
      });

      it("doesn't run a tick again that failed", async () => {
        const [runner, other] = [open(), open()];
        await rejection(
          runner.run({ retryCrashed: true }, () => {
            throw new Error('broken');
          }),
        );
        expect(await other.run({ retryCrashed: true })).toMatchObject({
          kind: 'skipped',
          reason: 'done',
          run: { state: 'failed' },
        });
      });

      it("doesn't take a run for crashed that asks for itself again", async () => {
        const replica = open();
        const started = performance.now();
        const outcome = await replica.run({ retryCrashed: true }, async () =>
          replica.run({ retryCrashed: true }),
        );
        expect(outcome).toMatchObject({
          kind: 'ran',
          result: { kind: 'skipped', reason: 'claimed' },
        });
        expect(performance.now() - started).toBeLessThan(5_000);
        expect(await recorded()).toEqual(['0 done 1']);
      });

      async function lockOfRun(): Promise<LockName> {
        const backend = store.openBackend();
        backends.push(backend);
        const listed = await backend.runs.list(runsOf(), []);
        const [run] = listed.kind === 'listed' ? listed.runs : [];
        return LockName.of(`lock:run:${run?.lock}`, job);
      }

      async function pendingOn(lock: LockName): Promise<number> {
        const outcome = await (backends.at(-1) as LockBackend).query(lock);
        return outcome.kind === 'found' ? outcome.state.pending.length : -1;
      }
    });

    describe('the work', () => {
      class Broken extends Error {
        override readonly name = 'Broken';
      }

      /** Parts of results that were written as JSON. */
      let written = 0;
      function counted(): unknown {
        return {
          toJSON: () => {
            written += 1;
            return 'x';
          },
        };
      }

      it.each<[unknown, { name: string; message: string }]>([
        [new Broken('no paper'), { name: 'Broken', message: 'no paper' }],
        [new Broken('x'.repeat(900)), { name: 'Broken', message: `${'x'.repeat(500)}…` }],
        [
          new Broken('\u{1f600}'.repeat(300)),
          { name: 'Broken', message: `${'\u{1f600}'.repeat(250)}…` },
        ],
        [
          new Broken(`a${'\u{1f600}'.repeat(300)}`),
          { name: 'Broken', message: `a${'\u{1f600}'.repeat(249)}\ufffd…` },
        ],
        [new Broken('"\n\0\ud800'), { name: 'Broken', message: '"\n\0\ufffd' }],
        ['a text', { name: 'string', message: 'a text' }],
        [undefined, { name: 'undefined', message: 'undefined' }],
        [Object.create(null), { name: 'object', message: '' }],
      ])('may fail: its own exception comes through, and is recorded (%#)', async (error, told) => {
        const replica = open();
        const failing = replica.run({}, () => {
          throw error;
        });
        expect(await rejection(failing)).toBe(error);
        const [record] = await replica.locker.runs(job);
        expect(record).toMatchObject({ state: 'failed', error: told, result: undefined });
        expect(record?.duration).toEqual(expect.any(Number));
      });

      const manyUndefined = Object.fromEntries(
        Array.from({ length: 2_000 }, (_, n) => [`member ${n}`, undefined]),
      );
      const circular: { self?: unknown } = {};
      circular.self = circular;
      it.each<[string, unknown, unknown, string | undefined]>([
        ['a text', 'wrote 3', 'wrote 3', undefined],
        ['null', null, null, undefined],
        ['undefined', undefined, undefined, undefined],
        ['a list', [1, { a: [] }], [1, { a: [] }], undefined],
        ['half of a surrogate pair', '\ud800', '\ud800', undefined],
        ['1 kB', 'x'.repeat(1_022), 'x'.repeat(1_022), undefined],
        ['more than 1 kB', 'x'.repeat(1_023), undefined, 'too-long'],
        ['more than 1 kB in UTF-8', 'é'.repeat(600), undefined, 'too-long'],
        ['a BigInt', 1n, undefined, 'not-json'],
        ['a circle', circular, undefined, 'not-json'],
        ['a function', () => {}, undefined, 'not-json'],
        ['a list that just fits', Array(511).fill(0), Array(511).fill(0), undefined],
        ['a list that just does not', Array(512).fill(0), undefined, 'too-long'],
        ['many members without a value', manyUndefined, {}, undefined],
        ['a Buffer that fits', Buffer.from([1]), { type: 'Buffer', data: [1] }, undefined],
      ])('gives its result, and records what fits: %s', async (_, result, kept, omitted) => {
        const replica = open();
        const outcome = await replica.run({}, () => result);
        expect(outcome).toMatchObject({ kind: 'ran' });
        expect(outcome.kind === 'ran' && outcome.result === result).toBe(true);
        expect(await replica.locker.runs(job)).toMatchObject([
          { state: 'done', result: kept, resultOmitted: omitted },
        ]);
      });

      it.each<[string, () => unknown]>([
        ['a list', () => Array.from({ length: 200_000 }, () => counted())],
        ['a list in a list', () => [[[Array.from({ length: 200_000 }, () => counted())]]]],
        ['members', () => ({ a: { b: Array.from({ length: 2_000 }, () => counted()) } })],
      ])('is not written in full where it is huge: %s', async (_, make) => {
        const replica = open();
        written = 0;
        await replica.run({}, () => make());
        expect(await replica.locker.runs(job)).toMatchObject([{ resultOmitted: 'too-long' }]);
        expect(written).toBeLessThan(2_000);
      });

      it.each<[string, (data: Buffer) => unknown]>([
        ['alone', (data) => data],
        ['as a member', (data) => ({ name: 'image', data })],
        ['in a list', (data) => ['image', data]],
      ])('is not turned into numbers where it is binary: %s', async (_, resultWith) => {
        const replica = open();
        const data = Buffer.alloc(2_000);
        let turned = 0;
        data.toJSON = () => {
          turned += 1;
          return { type: 'Buffer', data: [...data] };
        };
        await replica.run({}, () => resultWith(data));
        expect(await replica.locker.runs(job)).toMatchObject([{ resultOmitted: 'too-long' }]);
        expect(turned).toBe(0);
      });

      it('is told when its lock is lost; that is recorded, and thrown in place of its result', async () => {
        const replica = open();
        const overstaying = replica.run({ maxHold: 100 }, async (lock) => {
          await new Promise((resolve) => lock.signal.addEventListener('abort', resolve));
          return 'done';
        });
        expect(await rejection(overstaying)).toMatchObject({
          name: 'LockLostError',
          reason: 'max-hold',
        });
        expect(await replica.locker.runs(job)).toMatchObject([
          { state: 'failed', error: { name: 'LockLostError' } },
        ]);
      });

      it('may last longer than the ttl', async () => {
        const [replica, other] = [open(), open()];
        const end = await replica.begin({ ttl: 150 });
        await new Promise((resolve) => setTimeout(resolve, 500));
        expect(await other.run()).toMatchObject({ kind: 'skipped', reason: 'claimed' });
        expect(await end()).toMatchObject({ kind: 'ran', result: 'long' });
      });

      it('ends and is recorded while the locker closes; new ticks are refused', async () => {
        const [closing, other] = [open(0, { drainTimeout: '5s' }), open()];
        const end = await closing.begin();
        const closed = closing.locker.close();
        closing.reading = MINUTE;
        expect(await rejection(closing.run())).toMatchObject({
          name: 'LockUnavailableError',
          reason: 'shutting-down',
        });
        expect(await end()).toMatchObject({ kind: 'ran' });
        await closed;
        expect(await other.locker.runs(job)).toMatchObject([{ state: 'done' }]);
      });

      it('is no run where there is none, or an option is wrong', async () => {
        const replica = open();
        const calls = [
          replica.locker.runOnce(job, { per: '1m' }, undefined as never),
          replica.locker.runOnce(job, {} as never, () => 1),
          replica.locker.runOnce(job, { per: '1m', onBusy: 'skip' } as never, () => 1),
        ];
        for (const call of calls) expect(await rejection(call)).toBeInstanceOf(LockConfigError);
        expect(await rejection(replica.locker.runOnce('', { per: '1m' }, () => 1))).toMatchObject({
          name: 'LockKeyError',
        });
        expect(await recorded()).toEqual([]);
      });

      it('has a lock of its own that ends with it, whatever the defaults of the locker are', async () => {
        const defaults = {
          holdAtLeast: '5s',
          mode: 'shared',
          renew: false,
          onBusy: 'skip',
        } as const;
        const [replica, other] = [open(0, defaults), open(0, defaults)];
        const end = await replica.begin({ ttl: 150, retryCrashed: true });
        const started = performance.now();
        const waiting = other.run({ retryCrashed: true });
        await new Promise((resolve) => setTimeout(resolve, 500));
        expect(await end()).toMatchObject({ kind: 'ran' });
        expect(await waiting).toMatchObject({ kind: 'skipped', reason: 'done' });
        expect(performance.now() - started).toBeLessThan(4_000);
        let lock: Lock | undefined;
        replica.reading = MINUTE;
        await replica.run({}, (held) => {
          lock = held;
        });
        expect(lock?.access).toBe('exclusive');
        expect(() => lock?.assertHeld()).toThrow(LockLostError);
      });
    });

    describe('the records', () => {
      it('are part of a query that asks for them, beside the lock of that name and without one', async () => {
        const replica = open();
        const { locker } = replica;
        await replica.run({}, () => 'report');
        const recordsOf = await locker.runs(job);
        expect(await locker.query(`${job}*`)).toEqual([]);
        expect(await locker.query(`${job}*`, { runs: true })).toEqual([
          { key: job, held: [], pending: [], runs: recordsOf },
        ]);
        expect(recordsOf).toMatchObject([{ job, state: 'done', result: 'report' }]);
        const end = await replica.begin({ at: new Date(T + MINUTE) });
        await using lock = await locker.acquire(job);
        const { fencingToken } = lock;
        // By its exact name as well, for which nothing is walked through.
        for (const pattern of [job, `${job}*`]) {
          expect(await locker.query(pattern, { runs: true })).toMatchObject([
            { key: job, held: [{ fencingToken }], runs: [{ state: 'running' }, { state: 'done' }] },
          ]);
        }
        expect(await locker.query('nobody*', { runs: true })).toEqual([]);
        expect(await locker.query(`${job}*`, { runs: true, prefix: 'other' })).toEqual([]);
        await end();
        await expect(locker.query(job, { runs: 1 as never })).rejects.toMatchObject({
          code: 'LOCK_CONFIG',
          option: 'runs',
        });
      });

      it('are those of the last ticks, as many as are to be kept', async () => {
        const replica = open();
        for (let tick = 0; tick < 5; tick += 1) {
          replica.reading = tick * MINUTE;
          await replica.run({ keep: 3 });
        }
        expect(await recorded()).toEqual([4, 3, 2].map((tick) => `${tick * MINUTE} done 1`));
      });

      it('are no reason to run a tick again that is no longer among them', async () => {
        const [runner, slow] = [open(), open()];
        const end = await runner.begin({ keep: 2 });
        for (let tick = 1; tick < 5; tick += 1) {
          runner.reading = tick * MINUTE;
          expect(await runner.run({ keep: 2 })).toMatchObject({ reason: 'overlap' });
        }
        await end();
        // Skipped, and forgotten: of the last that was begun, it says nothing.
        for (const tick of [1, 2]) {
          slow.reading = tick * MINUTE;
          expect(await slow.run({ keep: 2 })).toMatchObject({
            kind: 'skipped',
            reason: 'late',
            run: { tick: new Date(T + 4 * MINUTE) },
          });
        }
        slow.reading = 3 * MINUTE;
        expect(await slow.run({ keep: 2 })).toMatchObject({ reason: 'overlap' });
        slow.reading = 5 * MINUTE;
        expect(await slow.run({ keep: 2 })).toMatchObject({ kind: 'ran' });
      });

      it('never lose one that runs', async () => {
        const [runner, other] = [open(), open()];
        const end = await runner.begin({ keep: 2 });
        for (let tick = 1; tick < 5; tick += 1) {
          other.reading = tick * MINUTE;
          expect(await other.run({ keep: 2 })).toMatchObject({ reason: 'overlap' });
        }
        expect(await recorded()).toEqual([
          `${4 * MINUTE} skipped 1`,
          `${3 * MINUTE} skipped 1`,
          '0 running 1',
        ]);
        await end();
        other.reading = 5 * MINUTE;
        await other.run({ keep: 2 });
        expect(await recorded()).toEqual([`${5 * MINUTE} done 1`, `${4 * MINUTE} skipped 1`]);
      });

      it.each([
        [{ per: '1m' }, DAY],
        [{ per: '12h' }, 5 * DAY],
        [{ per: '1s', retain: '2s' }, 2 * SECOND],
        [{ per: '30d', retain: '366d' }, 366 * DAY],
      ] as const)('are kept for a while: %p', async (options, lasts) => {
        await open().run(options);
        const kept = await store.kept(runsOf());
        expect(kept).toBeLessThanOrEqual(lasts);
        expect(kept).toBeGreaterThan(lasts - 5_000);
      });
    });

    describe('the store', () => {
      it('claims once for a token, however often it is asked', async () => {
        const { reply, request, backend } = await claimAndCrash();
        expect(reply).toMatchObject({ kind: 'begun', run: { attempt: 1, state: 'running' } });
        const again = await backend.runs.claim(runsOf(), request);
        expect(again).toMatchObject({ kind: 'begun', run: { token: request.run.token } });
        expect(await recorded()).toHaveLength(1);
      });

      it('forgets a run whose work was never begun, found to have crashed or not', async () => {
        const { request, backend } = await claimAndCrash();
        const { token } = request.run;
        expect(await backend.runs.abandon(runsOf(), 'another')).toEqual({ kind: 'abandoned' });
        expect(await recorded()).toHaveLength(1);
        expect(await backend.runs.abandon(runsOf(), token)).toEqual({ kind: 'abandoned' });
        expect(await recorded()).toEqual([]);
        await backend.runs.claim(runsOf(), request);
        await backend.runs.list(runsOf(), [token]);
        expect(await recorded()).toEqual(['0 crashed 1']);
        await backend.runs.abandon(runsOf(), token);
        expect(await recorded()).toEqual([]);
        expect(await backend.runs.abandon(runsOf(), token)).toEqual({ kind: 'abandoned' });
      });

      it('keeps one record for a token, also where its run was found to have crashed before', async () => {
        const { request, backend } = await claimAndCrash();
        await backend.runs.list(runsOf(), [request.run.token]);
        const again = await backend.runs.claim(runsOf(), request);
        expect(again).toMatchObject({ kind: 'begun', run: { attempt: 2 } });
        const listed = await backend.runs.list(runsOf(), []);
        expect(listed).toMatchObject({ runs: [{ state: 'running', attempt: 2 }] });
      });

      it('forgets those that a claim names as such, before it looks at its tick', async () => {
        const { request, backend } = await claimAndCrash();
        const { reply } = await claimAndCrash();
        expect(reply).toMatchObject({ kind: 'running', run: { token: request.run.token } });
        const { lock: _lock, fence: _fence, ...looker } = request.run;
        const next = {
          ...request,
          run: { ...looker, token: 'next' },
          abandoned: ['unknown', request.run.token],
        };
        expect(await backend.runs.claim(runsOf(), next)).toMatchObject({
          kind: 'open',
          run: undefined,
          running: [],
        });
      });

      it('calls no run crashed that has ended, though its lock is gone', async () => {
        const { request, backend } = await claimAndCrash();
        const { token } = request.run;
        await backend.runs.finish(runsOf(), { token, state: 'done', retain: DAY });
        await backend.runs.list(runsOf(), [token]);
        expect(await recorded()).toEqual(['0 done 1']);
      });

      it('forgets no run that has ended', async () => {
        const { request, backend } = await claimAndCrash();
        const { token } = request.run;
        await backend.runs.finish(runsOf(), { token, state: 'done', retain: DAY });
        await backend.runs.abandon(runsOf(), token);
        expect(await recorded()).toEqual(['0 done 1']);
      });

      it('refuses a claim that comes too late', async () => {
        const { request, backend } = await claimAndCrash();
        const late = {
          ...request,
          run: { ...request.run, token: 'late', fence: String(Number(request.run.fence) - 1e6) },
          instant: request.instant + MINUTE,
          within: 500,
          dead: [request.run.token],
        };
        expect(await backend.runs.claim(runsOf(), late)).toMatchObject({ kind: 'expired' });
        expect(await recorded()).toEqual(['0 crashed 1']);
      });

      it('asks whether those that run live, before it decides anything by them', async () => {
        const { request, backend } = await claimAndCrash();
        const { lock: _lock, fence: _fence, ...looker } = request.run;
        const next = {
          ...request,
          run: { ...looker, token: 'next' },
          instant: request.instant + MINUTE,
        };
        expect(await backend.runs.claim(runsOf(), next)).toMatchObject({
          kind: 'unsure',
          running: [{ token: request.run.token }],
        });
        const told = { ...next, dead: [request.run.token] };
        expect(await backend.runs.claim(runsOf(), told)).toMatchObject({
          kind: 'open',
          running: [],
        });
      });

      it('records an end that comes after all, and none of a run that is unknown', async () => {
        const { request, backend } = await claimAndCrash();
        const { token } = request.run;
        await backend.runs.list(runsOf(), [token]);
        const end = { token, state: 'done', result: '1', retain: DAY } as const;
        expect(await backend.runs.finish(runsOf(), end)).toEqual({ kind: 'finished' });
        expect(await recorded()).toEqual(['0 done 1']);
        // What has been recorded, no finding about its lock changes.
        await backend.runs.list(runsOf(), [token]);
        expect(await recorded()).toEqual(['0 done 1']);
        expect(await backend.runs.finish(runsOf(), { ...end, token: 'x' })).toEqual({
          kind: 'gone',
        });
      });
    });
  });
}
