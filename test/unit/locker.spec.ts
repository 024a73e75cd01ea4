/**
 * A locker over a backend that fails when it's told to: what its callers see, what its events tell, and what it does
 * behind their backs. What it promises over backends that work is in the conformance suite.
 */
import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { LockLostError, LockUnavailableError } from '../../lib/core/errors.js';
import type { LockEventName, LockEvents } from '../../lib/core/events.js';
import type { Lock } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { FakeBackend, noAnswer, unreachable } from './fake-backend.js';

const TTL = 3_000;
const OVER = 2_968;

describe('Locker', () => {
  let clock: FakeClock;
  let backend: FakeBackend;
  let locker: Locker;
  let events: [LockEventName, unknown][];

  function open(options: Partial<LockerOptions> = {}): void {
    clock = new FakeClock();
    backend = new FakeBackend();
    locker = new Locker(
      { connection: 'memory', ttl: TTL, ...options },
      { backend, clock, random: () => 0.5 },
    );
    events = [];
    for (const name of ['acquired', 'lost', 'released', 'releaseFailed', 'jeopardy'] as const) {
      locker.on(name, (event) => events.push([name, event]));
    }
  }

  beforeEach(() => open());

  const granted = () =>
    ({ kind: 'granted', fencingToken: 7, sentAt: clock.now(), othersWait: false }) as const;
  const busy = { kind: 'busy', remaining: 500, sequence: 1 } as const;

  /** What became of a promise so far. */
  function watch<T>(promise: Promise<T>): { value?: T; error?: unknown; readonly done: boolean } {
    const seen: { value?: T; error?: unknown; done: boolean } = { done: false };
    promise.then(
      (value) => Object.assign(seen, { value, done: true }),
      (error: unknown) => Object.assign(seen, { error, done: true }),
    );
    return seen;
  }

  async function take(options: Parameters<Locker['acquire']>[1] = {}): Promise<Lock> {
    const lock = locker.acquire('k', options);
    await settled();
    await backend.tryAcquires.answer(granted());
    return lock;
  }

  describe('release', () => {
    it('that is not answered is "unconfirmed", is told of, and goes on in the background', async () => {
      const lock = await take();
      const release = lock.release();
      await backend.releases.answer(noAnswer);
      expect(await release).toBe('unconfirmed');
      expect(await lock.release()).toBe('unconfirmed');
      expect(lock.state).toBe('released');
      expect(events.slice(1)).toEqual([
        ['releaseFailed', { key: 'k', fencingToken: 7, cause: noAnswer.cause }],
      ]);
      await clock.advance(75);
      await backend.releases.answer(unreachable);
      await clock.advance(100);
      await backend.releases.answer({ kind: 'released' });
      await clock.advance(60_000);
      expect(backend.releases.made).toHaveLength(3);
      expect(new Set(backend.releases.made.map(({ token }) => token)).size).toBe(1);
      expect([backend.cancels.made, backend.extends.made]).toEqual([[], []]);
    });

    it('that is retried keeps the key for what is left of holdAtLeast', async () => {
      const lock = await take({ holdAtLeast: 1_000 });
      await clock.advance(200);
      const release = watch(lock.release());
      await backend.releases.answer(unreachable);
      await backend.releases.answer(unreachable);
      await clock.advance(75);
      expect(backend.releases.made.map(({ keepFor }) => keepFor)).toEqual([800, 800, 725]);
      expect(release.value).toBe('unconfirmed');
    });

    it('of what was taken away is "lost"', async () => {
      const lock = await take();
      const release = lock.release();
      await backend.releases.answer({ kind: 'taken' });
      expect(await release).toBe('lost');
      expect(events.slice(1)).toEqual([
        ['lost', { key: 'k', fencingToken: 7, held: expect.any(Number), reason: 'taken' }],
      ]);
    });

    it.each([
      ['fails', noAnswer],
      ['finds nothing', { kind: 'taken' } as const],
    ])(
      "that %s doesn't replace the result or the exception of the work",
      async (_what, outcome) => {
        const own = new Error('own');
        backend.releases.auto = () => outcome;
        for (const work of [async () => 'result', () => Promise.reject(own)]) {
          const used = watch<unknown>(locker.using('k', work));
          await settled();
          await backend.tryAcquires.answer(granted());
          expect(used.value ?? used.error).toBe(used.error === undefined ? 'result' : own);
          expect(used.done).toBe(true);
        }
      },
    );

    it("doesn't wait for a renewal that is under way, and isn't disturbed by its answer", async () => {
      const lock = await take();
      await clock.advance(TTL / 3);
      expect(backend.extends.openCount).toBe(1);
      const release = lock.release();
      await backend.releases.answer({ kind: 'released' });
      expect(await release).toBe('released');
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(events.map(([name]) => name)).toEqual(['acquired', 'released']);
      expect(lock.signal.aborted).toBe(false);
    });

    it.each([
      ['is undone where servers may still have it', true],
      ['needs nothing more where the server said that it is gone', false],
    ])('of a lease that was lost %s', async (_what, losesInPart) => {
      backend.losesInPart = losesInPart;
      const lock = await take();
      await clock.advance(TTL / 3);
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(lock.state).toBe('lost');
      const { token } = backend.tryAcquires.made[0] as { token: string };
      expect(backend.cancels.made.map((undone) => undone.token)).toEqual(
        losesInPart ? [token] : [],
      );
    });

    it.each([
      ['is undone where servers may still have it', true],
      ['needs nothing more where the server said that it is gone', false],
    ])('of a lease of which a majority knows nothing %s', async (_what, losesInPart) => {
      backend.losesInPart = losesInPart;
      const lock = await take();
      const release = lock.release();
      await backend.releases.answer({ kind: 'taken' });
      expect(await release).toBe('lost');
      expect(backend.cancels.made).toHaveLength(losesInPart ? 1 : 0);
    });

    it('leaves no timer but the one of the renewals, which goes by itself', async () => {
      const lock = await take();
      const release = lock.release();
      await backend.releases.answer({ kind: 'released' });
      await release;
      expect(clock.pending.length).toBeLessThanOrEqual(1);
      await clock.advance(TTL);
      expect(clock.pending).toEqual([]);
    });
  });

  describe('hand-over', () => {
    /** Two callers of this process: the first holds, the second waits here. */
    async function takeAndWait(
      options: Parameters<Locker['acquire']>[1] = {},
    ): Promise<[Lock, Promise<Lock>]> {
      const first = await take(options);
      const second = locker.acquire('k', options);
      await settled();
      return [first, second];
    }

    it('is told as a release and a grant, in this order, each under its own fencing token', async () => {
      const [first, second] = await takeAndWait();
      await clock.advance(12);
      expect(await first.release()).toBe('released');
      await clock.advance(30);
      const lock = await second;
      const release = lock.release();
      await backend.releases.answer({ kind: 'released' });
      expect(await release).toBe('released');
      expect(events).toEqual([
        ['acquired', { key: 'k', fencingToken: 7, waited: 0 }],
        ['released', { key: 'k', fencingToken: 7, held: 12, kept: 0 }],
        ['acquired', { key: 'k', fencingToken: 8, waited: 12 }],
        ['released', { key: 'k', fencingToken: 8, held: 30, kept: 0 }],
      ]);
      expect([first.fencingToken, lock.fencingToken]).toEqual([7, 8]);
    });

    it.each(['released', 'acquired'] as const)(
      "a listener to '%s' that ends the caller who was just served takes nothing from it",
      async (event) => {
        const first = await take();
        const control = new AbortController();
        const second = locker.acquire('k', { signal: control.signal });
        await settled();
        locker.on(event, () => control.abort('enough'));
        await first.release();
        // It was served before anybody was told, so that somebody has the lock and gives it back.
        const lock = await second;
        expect(lock.isHeld).toBe(true);
        const released = lock.release();
        await backend.releases.answer({ kind: 'released' });
        expect(await released).toBe('released');
      },
    );

    it("an extend that ends after the release speaks of its own lock, whatever became of the next one's", async () => {
      const [first, second] = await takeAndWait();
      const error = first.extend().catch((thrown: unknown) => thrown);
      await first.release();
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(await error).toMatchObject({ fencingToken: 7, reason: 'released' });
      expect((await second).state).toBe('lost');
    });

    it('counts maxHold of the next from its own grant', async () => {
      const [first, second] = await takeAndWait({ maxHold: 500 });
      await clock.advance(15);
      await first.release();
      const lock = await second;
      expect([first.remaining, lock.remaining]).toEqual([0, 500]);
      await clock.advance(499);
      expect(lock.state).toBe('held');
      await clock.advance(1);
      expect([lock.state, first.state, lock.signal.aborted]).toEqual(['lost', 'released', true]);
      expect(events.at(-1)).toEqual([
        'lost',
        { key: 'k', fencingToken: 8, held: expect.any(Number), reason: 'max-hold' },
      ]);
      expect(backend.releases.made).toMatchObject([{ lastFence: 8 }]);
    });

    it.each([
      ['none, after one that had', { maxHold: 500 }, {}, undefined],
      ['one, after one that had none', {}, { maxHold: 500 }, 500],
      ['a longer one', { maxHold: 300 }, { maxHold: 600 }, 600],
      ['a shorter one', { maxHold: 600 }, { maxHold: 300 }, 300],
    ])("doesn't inherit maxHold: %s", async (_what, holds, wants, lostAfter) => {
      backend.extends.auto = (leases) =>
        leases.map(() => ({ kind: 'extended', sentAt: clock.now() }));
      const first = await take(holds);
      const waiting = locker.acquire('k', wants);
      await settled();
      await clock.advance(15);
      await first.release();
      const second = await waiting;
      const grantedAt = clock.now();
      const lostAt: number[] = [];
      second.signal.addEventListener('abort', () => lostAt.push(clock.now() - grantedAt));
      await clock.advance(2 * TTL);
      expect(lostAt).toEqual(lostAfter === undefined ? [] : [lostAfter]);
    });

    it('tells of a loss under the token of who holds it then', async () => {
      const [first, second] = await takeAndWait();
      await first.release();
      const lock = await second;
      await clock.advance(TTL / 3);
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(events.at(-1)).toEqual([
        'lost',
        { key: 'k', fencingToken: 8, held: expect.any(Number), reason: 'taken' },
      ]);
      expect(lock.signal.reason).toMatchObject({ fencingToken: 8, reason: 'taken' });
      expect(first.signal.aborted).toBe(false);
    });

    it("passes on a renewal that is under way: its answer is the next holder's", async () => {
      // What the other waits here for is its turn before others, however long it takes.
      const [first, second] = await takeAndWait();
      await clock.advance(1);
      backend.wakeUp.tell({ kind: 'othersWait', owner: 'lock:{k}' });
      await clock.advance(TTL / 3);
      expect(backend.extends.openCount).toBe(1);
      const sentAt = clock.now();
      await first.release();
      const lock = await second;
      await backend.extends.answer([{ kind: 'extended', sentAt }]);
      expect([lock.state, Math.round(lock.remaining)]).toEqual(['held', OVER]);
      expect(events.filter(([name]) => name === 'lost')).toEqual([]);
    });
  });

  describe('several keys', () => {
    it('that can not all be had are given back without the caller waiting for it', async () => {
      const seen = watch(locker.acquire(['a', 'b'], { waitTimeout: 100 }));
      await settled();
      await backend.joins.answer({ kind: 'busy', index: 1, remaining: 500 });
      await backend.tryAcquires.answer(granted());
      await backend.tryAcquires.answer(busy);
      await clock.advance(100);
      expect(seen.error).toMatchObject({ code: 'LOCK_TIMEOUT', key: 'b' });
      expect(backend.releases.made.map(({ name }) => name.key)).toEqual(['a']);
      expect(backend.releases.openCount).toBe(1);
    });

    it('that are tried one after the other have no more time than one', async () => {
      backend.joinsKeys = false;
      const since = clock.now();
      const seen = watch(locker.tryAcquire(['a', 'b']));
      await clock.advance(400);
      await backend.tryAcquires.answer(granted());
      await clock.advance(400);
      const { notAfter } = await backend.tryAcquires.answer(granted());
      expect(notAfter).toBe(since + 1_000);
      // One fencing token for both.
      expect(backend.joins.made.map((asked) => asked.notAfter)).toEqual([notAfter, notAfter]);
      await clock.advance(1_000);
      await backend.joins.answer(noAnswer);
      await backend.joins.answer(noAnswer);
      expect(seen.error).toMatchObject({ code: 'LOCK_UNAVAILABLE' });
      expect(backend.releases.openCount).toBe(2);
    });

    it('that are waited for one after the other have one waitTimeout, and one command more', async () => {
      backend.joinsKeys = false;
      const since = clock.now();
      watch(locker.acquire(['a', 'b'], { waitTimeout: 100 }));
      await clock.advance(95);
      await backend.tryAcquires.answer(granted());
      // A first try has 50 ms.
      await clock.advance(45);
      await backend.tryAcquires.answer(granted());
      expect(clock.now()).toBe(since + 140);
      const bounds = backend.joins.made.map(({ notAfter }) => notAfter);
      expect(bounds).toEqual([since + 1_100, since + 1_100]);
    });
  });

  describe('using several keys', () => {
    it('of which one is gone before the work could begin, ends without waiting until the rest is given back', async () => {
      backend.joinsKeys = false;
      const work = jest.fn();
      const seen = watch(locker.using(['a', 'b'], { ttl: 500 }, work));
      await settled();
      await backend.tryAcquires.answer(granted());
      await clock.advance(300);
      await backend.tryAcquires.answer(granted());
      await clock.advance(250);
      for (let key = 0; key < 2; key += 1) {
        await backend.joins.answer({
          ...{ kind: 'granted', fencingToken: 9, sentAt: clock.now() - 250, othersWait: false },
        });
      }
      expect(seen.error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
      expect(work).not.toHaveBeenCalled();
      expect(backend.releases.openCount).toBe(1);
    });
  });

  describe('extend', () => {
    it('that is not answered rejects, while the lock is held on', async () => {
      const lock = await take();
      const extend = watch(lock.extend());
      await backend.extends.answer([noAnswer]);
      expect(extend.error).toBeInstanceOf(LockUnavailableError);
      expect(extend.error).toMatchObject({ key: 'k', reason: 'no-answer', cause: noAnswer.cause });
      expect(lock).toMatchObject({ isHeld: true, state: 'jeopardy' });
      lock.assertHeld();
    });

    it('of what was taken away rejects with LockLostError', async () => {
      const lock = await take();
      const extend = watch(lock.extend());
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(extend.error).toBeInstanceOf(LockLostError);
      expect(extend.error).toMatchObject({ reason: 'taken' });
      // It's another's: nothing is to be undone.
      expect(backend.cancels.made).toEqual([]);
    });

    it('that is answered after the deadline rejects with LockLostError', async () => {
      const lock = await take({ renew: false });
      const extend = watch(lock.extend());
      const sentAt = clock.now();
      await clock.advance(OVER);
      await backend.extends.answer([{ kind: 'extended', sentAt }]);
      expect(extend.error).toMatchObject({ code: 'LOCK_LOST', reason: 'expired' });
    });
  });

  describe('a loss', () => {
    it.each([
      ['expired', { renew: false, holdAtLeast: 60_000 }, OVER, 'cancel'],
      ['max-hold', { maxHold: 500 }, 500, 'release for 0'],
      // As it would be if the work had been done in time.
      ['max-hold', { maxHold: 500, holdAtLeast: 2_000 }, 500, 'release for 1500'],
    ] as const)(
      '(%s, %j) gives the key back, so that the next need not wait for its ttl',
      async (reason, options, after, how) => {
        const lock = await take(options);
        const order: string[] = [];
        lock.signal.addEventListener('abort', () => order.push('abort'));
        backend.cancels.auto = () => {
          order.push('cancel');
          return { kind: 'cancelled' };
        };
        backend.releases.auto = ({ keepFor }) => {
          order.push(`release for ${keepFor}`);
          return { kind: 'released' };
        };
        await clock.advance(after);
        expect(order).toEqual(['abort', how]);
        expect(events.slice(1)).toEqual([
          ['lost', { key: 'k', fencingToken: 7, held: expect.any(Number), reason }],
        ]);
        expect(await lock.release()).toBe('lost');
        expect(order).toHaveLength(2);
      },
    );

    it('is told by assertHeld() right after a blocked event loop, before any timer', async () => {
      const lock = await take();
      clock.block(OVER);
      expect(() => lock.assertHeld()).toThrow(LockLostError);
      expect(lock.signal.aborted).toBe(true);
    });
  });

  describe('using', () => {
    it('refuses a grant that was over before the work could begin, and tells of it', async () => {
      const refused: LockEvents['refused'][] = [];
      locker.on('refused', (event) => refused.push(event));
      locker.on('acquired', () => clock.block(OVER));
      let ran = false;
      const used = watch(
        locker.using('k', () => {
          ran = true;
        }),
      );
      await settled();
      await backend.tryAcquires.answer(granted());
      backend.cancels.auto = () => ({ kind: 'cancelled' });
      await settled();
      expect(used.error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
      expect(ran).toBe(false);
      expect(refused).toEqual([
        { key: 'k', code: 'LOCK_UNAVAILABLE', waited: OVER, error: used.error },
      ]);
    });
  });

  describe('tryAcquire', () => {
    it('asks again once where it came too late', async () => {
      const taken = watch(locker.tryAcquire('k'));
      await settled();
      await backend.tryAcquires.answer({ kind: 'late' });
      await backend.tryAcquires.answer(granted());
      expect(taken.value).toMatchObject({ key: 'k', isHeld: true });

      const late = watch(locker.tryAcquire('k'));
      await settled();
      await backend.tryAcquires.answer({ kind: 'late' });
      await backend.tryAcquires.answer({ kind: 'late' });
      expect(late.error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'no-answer' });
    });

    it('has one deadline for all that it does', async () => {
      const taken = watch(locker.tryAcquire('k'));
      await settled();
      await clock.advance(400);
      await backend.tryAcquires.answer({ kind: 'late' });
      const [first, second] = backend.tryAcquires.made;
      expect(second?.notAfter).toBe(first?.notAfter);
      expect(second?.token).not.toBe(first?.token);
      await backend.tryAcquires.answer(busy);
      expect(taken).toMatchObject({ done: true, value: null });
    });

    it('gives back what was granted after its deadline', async () => {
      const taken = watch(locker.tryAcquire('k', { ttl: 100 }));
      await settled();
      const late = granted();
      await clock.advance(97);
      const { token } = await backend.tryAcquires.answer(late);
      expect(backend.cancels.made).toMatchObject([{ token }]);
      await backend.tryAcquires.answer(granted());
      expect(taken.value).toMatchObject({ isHeld: true });
    });

    it.each([
      ['may have run', noAnswer, 2],
      ['was not sent', unreachable, 0],
    ])('without an answer, which %s, rejects and cleans up', async (_what, outcome, cancels) => {
      backend.cancels.auto = () => ({ kind: 'cancelled' });
      const taken = watch(locker.tryAcquire('k'));
      await settled();
      await backend.tryAcquires.answer(outcome);
      expect(taken.error).toBeInstanceOf(LockUnavailableError);
      expect(taken.error).toMatchObject({ reason: outcome.reason, cause: outcome.cause });
      await clock.advance(10_000);
      expect(backend.cancels.made).toHaveLength(cancels);
    });
  });

  describe('a lease that somebody releases by force', () => {
    const by = { host: 'h', pid: 1, application: undefined, reason: 'stuck' };
    const lastToken = () => backend.tryAcquires.made.at(-1)?.token as string;
    const forced = (token: string) =>
      backend.wakeUp.tell({ kind: 'forced', token, owner: 'lock:{k}', by });

    it('is lost, without a command: the server has nothing more of it', async () => {
      const lock = await take();
      forced(lastToken());
      expect([lock.state, lock.signal.reason]).toMatchObject(['lost', { reason: 'forced', by }]);
      await clock.advance(10 * TTL);
      expect(backend.log).toEqual(['tryAcquire']);
    });

    it('is not the one of a later holder: a late message changes nothing', async () => {
      const first = await take();
      const late = lastToken();
      void first.release();
      await backend.releases.answer({ kind: 'released' });
      const second = await take();
      forced(late);
      await settled();
      expect(second.state).toBe('held');
    });

    it('may be one whose grant is still on its way: it is lost when it comes', async () => {
      for (const method of ['acquire', 'tryAcquire'] as const) {
        const caller = watch<Lock | null>(locker[method]('k'));
        await settled();
        forced(lastToken());
        await backend.tryAcquires.answer(granted());
        expect(caller.value).toMatchObject({ state: 'lost' });
        expect(events.slice(-2)).toMatchObject([
          ['acquired', { key: 'k' }],
          ['lost', { key: 'k', reason: 'forced', by }],
        ]);
      }
    });
  });

  describe('inspect and query', () => {
    it('that are not answered reject', async () => {
      const state = watch(locker.inspect('k'));
      await backend.queries.answer(noAnswer);
      expect(state.error).toBeInstanceOf(LockUnavailableError);
      expect(state.error).toMatchObject({ key: 'k', reason: 'no-answer' });
      const states = watch(locker.query('*'));
      await backend.surveys.answer(unreachable);
      expect(states.error).toMatchObject({ key: undefined, reason: 'unreachable' });
    });

    it('reject where one of many locks could not be looked at', async () => {
      const states = watch(locker.query());
      const names = ['a', 'b'].map((key) => LockName.of('lock', key));
      await backend.surveys.answer({ kind: 'names', names });
      await backend.queries.answer({ kind: 'found', state: { key: 'a', held: [], pending: [] } });
      await backend.queries.answer(noAnswer);
      expect(states.error).toMatchObject({ key: 'b', reason: 'no-answer' });
    });

    it('look at no more than a hundred locks at once', async () => {
      const states = watch(locker.query());
      const names = Array.from({ length: 150 }, (_, index) => LockName.of('lock', `${index}`));
      await backend.surveys.answer({ kind: 'names', names });
      expect(backend.queries.openCount).toBe(100);
      backend.queries.auto = ({ key }) => ({
        kind: 'found',
        state: { key, held: [], pending: [] },
      });
      for (let i = 0; i < 100; i += 1) {
        const state = { key: 'any', held: [], pending: [] };
        await backend.queries.answer({ kind: 'found', state });
      }
      expect(backend.queries.made).toHaveLength(150);
      expect(states.value).toEqual([]);
    });

    it('walk through nothing for a pattern that can match one key only', async () => {
      const states = watch(locker.query('a\\*b'));
      await settled();
      expect([backend.surveys.made, backend.queries.made]).toMatchObject([[], [{ key: 'a*b' }]]);
      expect(states.done).toBe(false);
    });
  });

  describe('connect', () => {
    it('says whether there is a connection', async () => {
      expect(await locker.connect()).toBe(true);
      backend.connect = async () => unreachable as never;
      expect(await locker.connect()).toBe(false);
    });

    it('rejects without a connection only where one is required', async () => {
      open({ requireConnection: true });
      expect(await locker.connect()).toBe(true);
      backend.connect = async () => unreachable as never;
      const connected = watch(locker.connect());
      await settled();
      expect(connected.error).toBeInstanceOf(LockUnavailableError);
      expect(connected.error).toMatchObject({ key: undefined, reason: 'unreachable' });
    });
  });

  describe('close', () => {
    it('closes the backend when all is done, and nothing runs after that', async () => {
      open({ drainTimeout: 500 });
      const lock = await take({ holdAtLeast: 700 });
      const closed = watch(locker.close());
      await clock.advance(499);
      expect([lock.isHeld, backend.closed]).toEqual([true, false]);
      await clock.advance(1);
      expect([lock.state, lock.signal.aborted]).toEqual(['lost', true]);
      expect([closed.done, backend.closed]).toEqual([false, false]);
      // The key of a holder that wasn't done is given back first.
      expect(await backend.releases.answer({ kind: 'released' })).toMatchObject({ keepFor: 200 });
      expect([closed.done, backend.closed, clock.pending]).toEqual([true, true, []]);
    });

    it('waits for a release that is under way, though nothing is held any more', async () => {
      const lock = await take();
      const release = watch(lock.release());
      const closed = watch(locker.close());
      await settled();
      expect([closed.done, backend.closed]).toEqual([false, false]);
      await backend.releases.answer({ kind: 'released' });
      expect([release.value, closed.done, backend.closed]).toEqual(['released', true, true]);
    });

    it('waits for a release that failed to be tried once more', async () => {
      const lock = await take();
      const release = watch(lock.release());
      const closed = watch(locker.close());
      await backend.releases.answer(noAnswer);
      expect([release.value, closed.done]).toEqual(['unconfirmed', false]);
      await backend.releases.answer({ kind: 'released' });
      expect([closed.done, backend.closed]).toEqual([true, true]);
    });

    it.each(['acquire', 'tryAcquire'] as const)(
      'gives back what an %s is granted while it closes',
      async (method) => {
        open({ drainTimeout: 100 });
        const asked = watch<unknown>(locker[method]('k'));
        await settled();
        const closed = watch(locker.close());
        await clock.advance(100);
        await backend.tryAcquires.answer(granted());
        expect(asked.error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'shutting-down' });
        expect(closed.done).toBe(false);
        await backend.cancels.answer({ kind: 'cancelled' });
        await clock.advance(2_000);
        expect([closed.done, backend.closed, clock.pending]).toEqual([true, true, []]);
      },
    );

    it('lets work that is granted its lock while draining have it, or never start', async () => {
      open({ drainTimeout: 5_000 });
      const seen: unknown[] = [];
      const used = watch<unknown>(
        locker.using('k', { onBusy: 'skip' }, (lock) => void seen.push(lock.isHeld)),
      );
      await settled();
      const closed = watch(locker.close());
      backend.releases.auto = () => ({ kind: 'released' });
      backend.cancels.auto = () => ({ kind: 'cancelled' });
      await backend.tryAcquires.answer(granted());
      expect([used.done, closed.done]).toEqual([true, true]);
      // The work never runs without the lock.
      expect(seen).not.toContain(false);
      const { error = { code: 'LOCK_UNAVAILABLE' } } = used;
      expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    });

    it('ends although nothing is answered: after drainTimeout and a few commandTimeouts', async () => {
      open({ drainTimeout: 500, commandTimeout: 1_000 });
      await take();
      const asked = watch(locker.acquire('other'));
      const closed = watch(locker.close());
      await clock.advance(500 + 2_000);
      expect(asked.error).toMatchObject({ reason: 'shutting-down' });
      // Each command ends by the backend's own timeout.
      await backend.releases.answer(noAnswer);
      await backend.releases.answer(noAnswer);
      expect([closed.done, backend.closed]).toEqual([true, true]);
    });
  });
});
