/** The queue of one key in one process, with every order of replies, wake-ups, deadlines and second thoughts. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import {
  type AcquireRequest,
  FENCE_RANGE,
  type Unavailable,
} from '../../lib/core/backend/lock-backend.js';
import { CleanUp } from '../../lib/core/clean-up.js';
import { LockTimeoutError, LockUnavailableError } from '../../lib/core/errors.js';
import { LockEmitter } from '../../lib/core/events.js';
import { Lease, type LeaseGrant } from '../../lib/core/lease.js';
import { HeldLock, type Lock, type LockKeeper } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import { LockRequest } from '../../lib/core/lock-request.js';
import { type AcquireOptions, Locker } from '../../lib/core/locker.js';
import { type LockerOptions, resolveLockOptions } from '../../lib/core/options.js';
import { WaitGraph } from '../../lib/core/wait-graph.js';
import { WaitQueue } from '../../lib/core/wait-queue.js';
import type { Deadlines } from '../../lib/core/waiting-line.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { deadlinesOn, expectNoDeadline } from './deadlines.js';
import { FakeBackend, noAnswer, unreachable } from './fake-backend.js';

const TTL = 10_000;
const WAIT = 60_000;
const COMMAND_TIMEOUT = 1_000;
/** What a lock needs a locker for isn't played here. */
const keeper = {} as LockKeeper;
/** With `random` at one half, a lease's end is looked at so much later. */
const JITTER = 6;

describe('WaitQueue', () => {
  let clock: FakeClock;
  let backend: FakeBackend;
  let cleanUp: CleanUp;
  let queue: WaitQueue;
  let stands: Map<string, WaitQueue>;
  let events: string[];
  let leases: Map<string, Lease>;
  let ended: number;
  let deadlines: Deadlines;
  /** What each lock was made of. */
  let grants: Map<HeldLock, LeaseGrant>;
  /** What was granted last, and so what this process holds. */
  let lease: Lease | undefined;

  beforeEach(() => {
    clock = new FakeClock();
    backend = new FakeBackend();
    backend.cancels.auto = () => ({ kind: 'cancelled' });
    cleanUp = new CleanUp(backend, clock, () => 0.5);
    stands = new Map();
    events = [];
    ended = 0;
    deadlines = deadlinesOn(clock);
    grants = new Map();
    lease = undefined;
    leases = new Map();
    const emitter = new LockEmitter();
    emitter.on('waiting', ({ remaining }) => events.push(`waiting ${remaining}`));
    emitter.on('timedOut', ({ waited }) => events.push(`timedOut ${waited}`));
    let tokens = 0;
    queue = new WaitQueue(LockName.of('lock', 'k'), {
      backend,
      clock,
      random: () => 0.5,
      events: emitter,
      cleanUp,
      deadlines,
      waits: new WaitGraph(() => []),
      commandTimeout: COMMAND_TIMEOUT,
      // So each caller stands at the backend. How a lease is passed on is below.
      localHandover: false,
      backoff: { first: 20, longest: 500 },
      stands,
      newToken: () => `t${(tokens += 1)}`,
      leases,
      ended: () => (ended += 1),
      newLock: (grant) => {
        lease = new Lease(grant, clock, () => {});
        leases.set(grant.name.owner, lease);
        const lock = new HeldLock(lease, keeper);
        grants.set(lock, grant);
        return lock;
      },
      handOver: () => {
        throw new Error('Nothing is released here.');
      },
      tellReleased: () => {},
      tellAcquired: () => {},
      outside: (work) => work(),
    });
  });

  interface Wanted {
    readonly ttl?: number;
    readonly wait?: number;
    readonly signal?: AbortSignal;
    readonly heldKeys?: readonly string[];
  }

  /** A lock that the caller holds meanwhile. */
  function lockOn(key: string): HeldLock {
    const hold = resolveLockOptions({});
    const grant = {
      ...{ name: LockName.of('lock', key), token: key, fencingToken: 1, ttl: TTL, hold },
      ...{ sentAt: clock.now(), othersSince: Number.POSITIVE_INFINITY },
    };
    return new HeldLock(new Lease(grant, clock, () => {}), keeper);
  }

  /** A caller, with what came of it. */
  class Caller {
    grant: LeaseGrant | undefined;
    error: unknown;

    constructor({ ttl = TTL, wait = WAIT, signal, heldKeys = [] }: Wanted) {
      const options = resolveLockOptions({
        ttl,
        waitTimeout: wait,
        ...(signal && { signal }),
      });
      queue.enter(new LockRequest('k', options, clock.now(), heldKeys.map(lockOn))).then(
        (lock) => (this.grant = grants.get(lock)),
        (error: unknown) => (this.error = error),
      );
    }

    get settled(): boolean {
      return this.grant !== undefined || this.error !== undefined;
    }
  }

  async function enter(wanted: Wanted = {}): Promise<Caller> {
    const caller = new Caller(wanted);
    await settled();
    return caller;
  }

  const granted = (sentAt = clock.now(), fencingToken = 7) =>
    ({ kind: 'granted', fencingToken, sentAt, othersWait: false }) as const;
  const busy = (remaining = TTL, sequence: number | undefined = 100) =>
    ({ kind: 'busy', remaining, sequence }) as const;
  const lastTry = () => backend.tryAcquires.made.at(-1) as AcquireRequest;
  const tries = () => backend.tryAcquires.made.length;
  const cancelled = () => backend.cancels.made.map(({ token }) => token);

  /** A caller that stands in the backend's queue and sleeps. */
  async function asleep(wanted: Wanted = {}, remaining: number | 'endless' = TTL): Promise<Caller> {
    const caller = await enter(wanted);
    await backend.tryAcquires.answer(
      remaining === 'endless' ? { ...busy(), remaining: undefined } : busy(remaining),
    );
    expect([backend.tryAcquires.openCount, caller.settled]).toEqual([0, false]);
    return caller;
  }

  /** Nothing is left of anybody who waited. */
  function expectNothingLeft(): void {
    expect([ended, stands.size, backend.tryAcquires.openCount, cleanUp.size]).toEqual([1, 0, 0, 0]);
    expectNoDeadline(deadlines, clock);
  }

  describe('a first try', () => {
    it('that is granted gives the lease, and needs no timer', async () => {
      const caller = await enter();
      expect(clock.pending).toEqual([]);
      const { name, token } = await backend.tryAcquires.answer(granted(clock.now() - 5));
      expect(caller.grant).toEqual({
        name,
        token,
        fencingToken: 7,
        sentAt: clock.now() - 5,
        othersSince: Number.POSITIVE_INFINITY,
        ttl: TTL,
        hold: expect.objectContaining({
          renew: true,
          maxHold: Number.POSITIVE_INFINITY,
          holdAtLeast: 0,
        }),
      });
      expect([events, cancelled()]).toEqual([[], []]);
      expectNothingLeft();
    });

    it.each([
      ['the command timeout', WAIT, COMMAND_TIMEOUT],
      ["the caller's deadline", 300, 300],
      ['50 ms, however short its waitTimeout', 1, 50],
    ])('may take the key up to %s', async (_what, wait, within) => {
      await enter({ wait });
      expect(lastTry().notAfter).toBe(clock.now() + within);
    });

    it('queues only if it will be told', async () => {
      backend.wakeUp.listening = false;
      await enter();
      expect(lastTry().place).toBeUndefined();
    });

    it('queues at once where somebody listens already', async () => {
      await enter();
      expect(lastTry().place).toEqual({ aliveFor: TTL, sequence: undefined });
    });

    it('that meets a held key listens first, then queues, which looks once more', async () => {
      backend.wakeUp.listening = false;
      let listen!: () => void;
      backend.wakeUp.onSubscribe = () => new Promise((resolve) => (listen = resolve));
      await enter();
      await backend.tryAcquires.answer(busy(TTL, undefined));
      expect([backend.wakeUp.subscribed, tries(), events]).toEqual([1, 1, [`waiting ${TTL}`]]);
      listen();
      await settled();
      expect(tries()).toBe(2);
      expect(lastTry()).toMatchObject({ token: 't1', place: { aliveFor: TTL } });
    });

    it.each([
      ['may have run', noAnswer, ['t1', 't1']],
      ['was not sent', unreachable, []],
    ])(
      'without an answer, which %s, fails its caller at once',
      async (_what, outcome, cancelledBy) => {
        const caller = await enter();
        await backend.tryAcquires.answer(outcome);
        expect(caller.error).toBeInstanceOf(LockUnavailableError);
        expect(caller.error).toMatchObject({ key: 'k', reason: outcome.reason });
        expect((caller.error as Error).cause).toBe(outcome.cause);
        // At once, and when a command that was held up would be refused.
        await clock.advance(COMMAND_TIMEOUT + 50);
        expect(cancelled()).toEqual(cancelledBy);
        expectNothingLeft();
      },
    );

    it('that came too late is made again soon', async () => {
      const caller = await enter();
      await backend.tryAcquires.answer({ kind: 'late' });
      expect([tries(), caller.settled]).toEqual([1, false]);
      await clock.advance(40);
      expect([tries(), lastTry().token]).toEqual([2, 't1']);
      await backend.tryAcquires.answer(granted());
      expect(caller.grant).toMatchObject({ token: 't1' });
      expectNothingLeft();
    });

    it('that came too late for most servers, and whose caller gives up, is undone where it may be queued', async () => {
      const caller = await enter({ wait: 60 });
      await backend.tryAcquires.answer({ kind: 'late' });
      await clock.advance(40);
      await backend.tryAcquires.answer({ kind: 'late' });
      await clock.advance(60);
      expect([caller.settled, cancelled()]).toEqual([true, ['t1']]);
      expectNothingLeft();
    });
  });

  describe('in a moratorium of its guard', () => {
    const guarded = (retryAfter: number): Unavailable => ({
      ...{ kind: 'unavailable', reason: 'guard', cause: undefined, mayHaveRun: false },
      ...{ facts: { retryAfter }, sequence: 100 },
    });

    it('looks again when it is over, and refreshes its place meanwhile', async () => {
      await enter();
      await backend.tryAcquires.answer(guarded(TTL));
      await clock.advance(TTL / 2);
      expect([tries(), lastTry().token, lastTry().place?.sequence]).toEqual([2, 't1', 100]);
      await backend.tryAcquires.answer(guarded(TTL / 2 - JITTER));
      await clock.advance(TTL / 2);
      expect(tries()).toBe(3);
    });

    it('asks for a place soon where it has none yet', async () => {
      backend.wakeUp.listening = false;
      await enter();
      expect(lastTry().place).toBeUndefined();
      await backend.tryAcquires.answer({ ...guarded(TTL), sequence: undefined });
      await clock.advance(500);
      expect([tries(), lastTry().place?.aliveFor]).toEqual([2, TTL]);
    });

    it('asks for its place again soon where it had to be undone', async () => {
      await enter();
      await backend.tryAcquires.answer(guarded(60_000 - TTL));
      await clock.advance(TTL / 2);
      await backend.tryAcquires.answer({ ...guarded(TTL), mayHaveRun: true });
      expect(cancelled()).toEqual(['t1']);
      await clock.advance(500);
      expect([tries(), lastTry().token, lastTry().place?.sequence]).toEqual([3, 't2', 100]);
    });

    it('leaves nothing in the queue when nobody waits any more', async () => {
      const caller = await enter();
      await backend.tryAcquires.answer(guarded(TTL));
      await clock.advance(TTL / 2);
      // Longer than it can wait.
      await backend.tryAcquires.answer(guarded(WAIT));
      expect(caller.error).toMatchObject({ reason: 'guard', retryAfter: WAIT });
      expect(cancelled()).toEqual(['t1']);
      expectNothingLeft();
    });

    it('nor where it was queued before it was told of another limit', async () => {
      const caller = await enter();
      await backend.tryAcquires.answer({ kind: 'conflict', access: 'limit:2' });
      expect([caller.settled, cancelled()]).toEqual([true, ['t1']]);
      expectNothingLeft();
    });
  });

  describe('asleep', () => {
    it('looks again just after the lease would end', async () => {
      await asleep({}, 700);
      await clock.advance(700);
      expect(tries()).toBe(1);
      await clock.advance(JITTER);
      expect(tries()).toBe(2);
      expect(lastTry()).toMatchObject({ token: 't1', place: { aliveFor: TTL, sequence: 100 } });
    });

    it('refreshes its place well before it would count as dead', async () => {
      await asleep({}, 60_000);
      await clock.advance(TTL / 2);
      expect(tries()).toBe(2);
    });

    it('counts as alive for a second at least, however short its ttl', async () => {
      await asleep({ ttl: 100 }, 60_000);
      expect(lastTry().place?.aliveFor).toBe(1_000);
      await clock.advance(499);
      expect(tries()).toBe(1);
      await clock.advance(1);
      expect(tries()).toBe(2);
    });

    it('polls where it will not be told', async () => {
      backend.wakeUp.listening = false;
      await enter();
      await backend.tryAcquires.answer(busy(TTL, undefined));
      // It couldn't subscribe.
      backend.wakeUp.listening = false;
      await backend.tryAcquires.answer(busy());
      expect(tries()).toBe(2);
      await clock.advance(375);
      expect(tries()).toBe(3);
    });

    it('refreshes and nothing else behind a key that has no expiry', async () => {
      await asleep({}, 'endless');
      await clock.advance(TTL / 2 - 1);
      expect(tries()).toBe(1);
      await clock.advance(1);
      expect(tries()).toBe(2);
    });

    it('doubts that it hears when it had to look by itself, and only then', async () => {
      await asleep();
      queue.wake();
      await settled();
      await backend.tryAcquires.answer(busy(700));
      expect(backend.wakeUp.checked).toBe(0);
      await clock.advance(700 + JITTER);
      expect(backend.wakeUp.checked).toBe(1);
    });

    it('looks at once when it is woken by its token', async () => {
      const caller = await asleep();
      stands.get('t1')?.wake();
      await settled();
      expect(tries()).toBe(2);
      await backend.tryAcquires.answer(granted());
      expect(caller.grant).toMatchObject({ token: 't1' });
      expectNothingLeft();
    });

    it('looks within the time that it was told, and never later than it would have', async () => {
      await asleep({}, 3_000);
      queue.wake(2_000);
      queue.wake(60_000);
      await clock.advance(2_000);
      expect(tries()).toBe(1);
      await clock.advance(JITTER);
      expect(tries()).toBe(2);
    });

    it('tells a caller to wait no longer than its deadline', async () => {
      const caller = await asleep({ wait: 400, heldKeys: ['other'] });
      await clock.advance(399);
      expect(caller.settled).toBe(false);
      await clock.advance(1);
      expect(caller.error).toBeInstanceOf(LockTimeoutError);
      expect(caller.error).toMatchObject({ key: 'k', waited: 400, heldKeys: ['other'] });
      expect(events).toEqual([`waiting ${TTL}`, 'timedOut 400']);
      expect(cancelled()).toEqual(['t1']);
      expectNothingLeft();
    });

    it('asks for the key up to the deadline of the caller and no longer', async () => {
      await asleep({ wait: 1_200 });
      await clock.advance(1_100);
      queue.wake();
      await settled();
      expect(lastTry().notAfter).toBe(clock.now() + 100);
    });
  });

  describe('a wake-up', () => {
    it('that overtakes the reply "busy" is remembered', async () => {
      const caller = await enter();
      queue.wake();
      await backend.tryAcquires.answer(busy());
      expect(tries()).toBe(2);
      await backend.tryAcquires.answer(granted());
      expect(caller.grant).toBeDefined();
    });

    it('with a time, that overtakes the reply "busy", is remembered', async () => {
      await enter();
      queue.wake(500);
      await backend.tryAcquires.answer(busy());
      await clock.advance(500 + JITTER);
      expect(tries()).toBe(2);
    });

    it('ends one sleep, not the next', async () => {
      await asleep();
      queue.wake();
      queue.wake();
      await settled();
      await backend.tryAcquires.answer(busy());
      expect([tries(), backend.tryAcquires.openCount]).toEqual([2, 0]);
    });

    it('reaches the queue by the token that stands, and by no other', async () => {
      await asleep();
      expect([...stands]).toEqual([['t1', queue]]);
      queue.wake();
      await settled();
      await backend.tryAcquires.answer(noAnswer);
      await clock.advance(40);
      expect([...stands]).toEqual([['t2', queue]]);
    });
  });

  describe('several callers', () => {
    it('cost what one does, and are served in their order, each with a token of its own', async () => {
      const callers = [await enter(), await enter(), await enter()];
      expect(tries()).toBe(1);
      expect(queue.contended).toBe(true);
      for (const [index, caller] of callers.entries()) {
        expect(callers.map((each) => each.settled)).toEqual([index > 0, index > 1, false]);
        await backend.tryAcquires.answer(granted(clock.now(), index));
        expect(caller.grant).toMatchObject({ token: `t${index + 1}`, fencingToken: index });
      }
      expect(events).toEqual(['waiting undefined', 'waiting undefined']);
      expectNothingLeft();
    });

    it('are not contended by a sole caller on its first try', async () => {
      await enter();
      expect(queue.contended).toBe(false);
      await backend.tryAcquires.answer(busy());
      expect(queue.contended).toBe(true);
    });

    it('end at their own deadlines, also behind a try that is not answered', async () => {
      await enter();
      const second = await enter({ wait: 300 });
      await clock.advance(300);
      // Nobody has heard of Redis yet, so it's not the others' fault.
      expect(second.error).toBeInstanceOf(LockUnavailableError);
      expect(second.error).toMatchObject({ reason: 'no-answer' });
    });

    it('pass the place on: who is next stands where the first stood', async () => {
      const controller = new AbortController();
      const first = await asleep({ signal: controller.signal });
      const second = await enter();
      controller.abort('enough');
      await settled();
      expect([first.error, second.settled, tries(), cancelled()]).toEqual(['enough', false, 1, []]);
      queue.wake();
      await settled();
      expect(lastTry()).toMatchObject({ token: 't1', place: { sequence: 100 } });
      await backend.tryAcquires.answer(granted());
      expect(second.grant).toMatchObject({ token: 't1' });
    });

    it('that all have given up leave nothing at the backend', async () => {
      const controller = new AbortController();
      const callers = [
        await asleep({ signal: controller.signal }),
        await enter({ signal: controller.signal }),
      ];
      controller.abort('enough');
      await settled();
      expect(callers.map(({ error }) => error)).toEqual(['enough', 'enough']);
      expect(cancelled()).toEqual(['t1']);
      expectNothingLeft();
    });

    it('that come at the moment when the last gives up are served', async () => {
      const controller = new AbortController();
      await asleep({ signal: controller.signal });
      controller.abort();
      const late = new Caller({});
      await settled();
      await backend.tryAcquires.answer(granted());
      expect(late.grant).toBeDefined();
      expectNothingLeft();
    });

    it('are refused by others where those say so; the rest move up', async () => {
      await asleep({ heldKeys: ['a'] });
      const [second, third] = [await enter(), await enter({ heldKeys: ['a'] })];
      queue.refuse(
        ({ heldKeys }) => heldKeys.length === 0,
        () => 'refused',
      );
      await settled();
      expect([second.error, third.settled]).toEqual(['refused', false]);
      queue.refuse(
        () => true,
        () => 'all',
      );
      await settled();
      expect(third.error).toBe('all');
      expect(cancelled()).toEqual(['t1']);
      expectNothingLeft();
    });

    it('are refused one by one while the backend cannot be asked, each by its own try', async () => {
      const callers = [await enter(), await enter()];
      await backend.tryAcquires.answer(unreachable);
      expect(callers.map(({ settled: done }) => done)).toEqual([true, false]);
      await backend.tryAcquires.answer(granted());
      expect(callers[1]?.grant).toBeDefined();
      expectNothingLeft();
    });
  });

  describe('an unknown outcome', () => {
    it('is cancelled, and the next token asks for the same place', async () => {
      const caller = await asleep();
      queue.wake();
      await settled();
      await backend.tryAcquires.answer(noAnswer);
      expect([cancelled(), caller.settled, tries()]).toEqual([['t1'], false, 2]);
      await clock.advance(40);
      expect(lastTry()).toMatchObject({ token: 't2', place: { sequence: 100 } });
      await backend.tryAcquires.answer(granted());
      expect(caller.grant).toMatchObject({ token: 't2' });
      // Once more, when what is on its way would be refused.
      await clock.advance(2_000);
      expect(cancelled()).toEqual(['t1', 't1']);
      expectNothingLeft();
    });

    it('is retried with growing pauses, up to the deadline of the caller', async () => {
      const caller = await asleep({ wait: 5_000 });
      const start = clock.now();
      const at: number[] = [];
      backend.tryAcquires.auto = () => {
        at.push(clock.now() - start);
        return unreachable;
      };
      queue.wake();
      await clock.advance(5_000);
      expect(at.slice(0, 5)).toEqual([0, 30, 70, 130, 230]);
      expect(at.length).toBeLessThan(25);
      expect(at.at(-1)).toBeGreaterThan(4_000);
      // Not that others hold it: nobody could be asked.
      expect(caller.error).toBeInstanceOf(LockUnavailableError);
      expect(caller.error).toMatchObject({ reason: 'unreachable' });
      expect(events).toEqual([`waiting ${TTL}`]);
      expect([cancelled(), ended]).toEqual([['t1'], 1]);
    });

    it("says nothing of the server where it was cut short by the caller's deadline", async () => {
      const caller = await asleep({ wait: 1_200 });
      await clock.advance(1_100);
      queue.wake();
      await settled();
      await clock.advance(100);
      await backend.tryAcquires.answer(noAnswer);
      expect(caller.error).toBeInstanceOf(LockTimeoutError);
    });

    it('does not fail one who has waited behind others here', async () => {
      await enter();
      const second = await enter();
      await backend.tryAcquires.answer(granted());
      await backend.tryAcquires.answer(unreachable);
      expect(second.settled).toBe(false);
      await clock.advance(40);
      await backend.tryAcquires.answer(granted());
      expect(second.grant).toMatchObject({ token: 't2' });
      expectNothingLeft();
    });

    it('is forgotten when the backend answers again', async () => {
      const caller = await asleep({ wait: 2_000 });
      queue.wake();
      await settled();
      await backend.tryAcquires.answer(unreachable);
      await clock.advance(40);
      await backend.tryAcquires.answer(busy());
      await clock.advance(2_000);
      expect(caller.error).toBeInstanceOf(LockTimeoutError);
    });
  });

  describe('a grant that nobody can use is given back', () => {
    it('where its caller has given up meanwhile', async () => {
      const controller = new AbortController();
      const caller = await enter({ signal: controller.signal });
      controller.abort('enough');
      await settled();
      expect(caller.error).toBe('enough');
      await backend.tryAcquires.answer(granted());
      expect(cancelled()).toEqual(['t1']);
      expectNothingLeft();
    });

    it('where it arrived after its deadline', async () => {
      const caller = await enter({ ttl: 1_000 });
      const sentAt = clock.now();
      await clock.advance(988);
      await backend.tryAcquires.answer(granted(sentAt));
      expect([cancelled(), caller.settled]).toEqual([['t1'], false]);
      expect(lastTry().token).toBe('t2');
      await backend.tryAcquires.answer(granted());
      expect(caller.grant).toMatchObject({ token: 't2', sentAt: clock.now() });
      expectNothingLeft();
    });

    it('where it is for another ttl than that of who is first now', async () => {
      const controller = new AbortController();
      await asleep({ ttl: TTL, signal: controller.signal });
      const second = await enter({ ttl: 2 * TTL });
      queue.wake();
      await settled();
      controller.abort();
      await backend.tryAcquires.answer(granted());
      expect([cancelled(), second.settled]).toEqual([['t1'], false]);
      // It hasn't lost its place by that.
      expect(lastTry()).toMatchObject({
        token: 't2',
        ttl: 2 * TTL,
        place: { sequence: 100, aliveFor: 2 * TTL },
      });
      await backend.tryAcquires.answer(granted());
      expect(second.grant).toMatchObject({ token: 't2', ttl: 2 * TTL });
      expectNothingLeft();
    });

    it('but goes to the next with the same ttl where the first has given up', async () => {
      const controller = new AbortController();
      await enter({ signal: controller.signal });
      const second = await enter();
      controller.abort();
      await backend.tryAcquires.answer(granted());
      expect(second.grant).toMatchObject({ token: 't1' });
      expect(cancelled()).toEqual([]);
      expectNothingLeft();
    });
  });
});

/**
 * Through a locker: what passes a lease on is the release of the lock on it. A caller waits *here* if nothing stands for
 * it at the backend.
 */
describe('WaitQueue: local hand-over', () => {
  const FENCE = 1_000;
  let clock: FakeClock;
  let backend: FakeBackend;
  let locker: Locker;
  let events: string[];

  function open(options: Partial<LockerOptions> = {}): void {
    clock = new FakeClock();
    backend = new FakeBackend();
    locker = new Locker(
      { connection: 'memory', ttl: TTL, waitTimeout: WAIT, ...options },
      { backend, clock, random: () => 0.5 },
    );
    events = [];
    locker.on('waiting', ({ remaining }) => events.push(`waiting ${remaining}`));
    locker.on('timedOut', ({ waited }) => events.push(`timedOut ${waited}`));
  }

  beforeEach(() => open());
  afterEach(() => endsWithNothingLeft());

  /** A caller, with what came of it. */
  class Caller {
    lock: Lock | undefined;
    error: unknown;

    constructor(options: AcquireOptions) {
      locker.acquire('k', options).then(
        (lock) => (this.lock = lock),
        (error: unknown) => (this.error = error),
      );
    }

    get settled(): boolean {
      return this.lock !== undefined || this.error !== undefined;
    }
  }

  async function enter(options: AcquireOptions = {}): Promise<Caller> {
    const caller = new Caller(options);
    await settled();
    return caller;
  }

  async function enterMany(count: number, options: AcquireOptions = {}): Promise<Caller[]> {
    const callers = Array.from({ length: count }, () => new Caller(options));
    await settled();
    return callers;
  }

  const granted = (fencingToken = FENCE, behindUs = false) =>
    ({ kind: 'granted', fencingToken, sentAt: clock.now(), othersWait: behindUs }) as const;
  const busy = { kind: 'busy', remaining: TTL, sequence: 100 } as const;

  /** The first holder. */
  async function hold(options: AcquireOptions = {}, grant = granted()): Promise<Lock> {
    const caller = await enter(options);
    await backend.tryAcquires.answer(grant);
    return caller.lock as Lock;
  }

  /** Gives a lock back, up to where the backend is asked. */
  async function release(lock: Lock | undefined): Promise<void> {
    void lock?.release();
    await settled();
  }

  async function othersWait(): Promise<void> {
    backend.wakeUp.tell({ kind: 'othersWait', owner: 'lock:{k}' });
    await settled();
  }

  /** Each that has the lock, gives it back, until nobody is served any more: how many were. */
  async function releaseInTurn(callers: readonly Caller[], each = 0): Promise<number> {
    let served = 0;
    for (const { lock } of callers) {
      if (lock === undefined) break;
      served += 1;
      clock.block(each);
      await release(lock);
    }
    return served;
  }

  /** What was asked of the backend since. */
  function asked(): string[] {
    return backend.log.splice(0);
  }

  /** All is over as soon as the last commands are: no record, no timer, nothing that somebody waits for. */
  async function endsWithNothingLeft(): Promise<void> {
    backend.tryAcquires.auto = () => unreachable;
    backend.releases.auto = () => ({ kind: 'released' });
    backend.cancels.auto = () => ({ kind: 'cancelled' });
    backend.extends.auto = (leases) => leases.map(() => ({ kind: 'taken' }));
    while (backend.extends.openCount > 0) await backend.extends.answer([{ kind: 'taken' }]);
    while (backend.tryAcquires.openCount > 0) await backend.tryAcquires.answer(unreachable);
    while (backend.releases.openCount > 0) await backend.releases.answer({ kind: 'released' });
    while (backend.cancels.openCount > 0) await backend.cancels.answer({ kind: 'cancelled' });
    const closed = locker.close();
    // Who still holds, loses it now.
    await clock.advance(10_000);
    expect([backend.closed, clock.pending]).toEqual([true, []]);
    await closed;
  }

  describe('a released lease is passed on', () => {
    it('to the next in order, under rising fencing tokens, without asking the backend', async () => {
      const first = await hold();
      const callers = await enterMany(5);
      asked();
      await release(first);
      for (const [n, caller] of callers.entries()) {
        expect(callers.map((each) => each.settled)).toEqual(callers.map((_each, m) => m <= n));
        expect(caller.lock).toMatchObject({ state: 'held', fencingToken: FENCE + n + 1 });
        clock.block(2);
        if (n < 4) await release(caller.lock);
      }
      expect(asked()).toEqual([]);
      await release(callers[4]?.lock);
      expect(asked()).toEqual(['release']);
      // The largest that was used, so that the next grant's is larger; under the token of the one grant.
      expect(backend.releases.made).toMatchObject([
        { token: backend.tryAcquires.made[0]?.token, lastFence: FENCE + 5, keepFor: 0 },
      ]);
    });

    it('by a release that is like any other for who makes it', async () => {
      const first = await hold();
      const second = await enter();
      expect([await first.release(), await first.release()]).toEqual(['released', 'released']);
      await settled();
      expect([first.state, second.lock?.state]).toEqual(['released', 'held']);
    });

    it('to one that begins to wait while it is held, and is told that it waits', async () => {
      const first = await hold();
      clock.block(5);
      await enter();
      expect(events).toEqual([`waiting ${first.remaining}`]);
    });

    it('only when the last of the locks on it is released', async () => {
      const first = await hold();
      const again = await locker.acquire('k', { within: first });
      const second = await enter();
      await release(first);
      expect(second.settled).toBe(false);
      await release(again);
      expect(second.lock).toMatchObject({ fencingToken: FENCE + 1 });
    });

    it('by one that took it without waiting', async () => {
      const taken = locker.tryAcquire('k');
      await settled();
      await backend.tryAcquires.answer(granted());
      const second = await enter();
      asked();
      await release((await taken) as Lock);
      expect(second.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual([]);
    });

    it('to one that stands at the backend, whose place there is given up', async () => {
      const taken = locker.tryAcquire('k');
      const second = await enter();
      await backend.tryAcquires.answer(granted());
      await backend.tryAcquires.answer(busy);
      asked();
      await release((await taken) as Lock);
      expect(second.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual(['cancel']);
      expect(backend.cancels.made).toMatchObject([{ token: backend.tryAcquires.made[1]?.token }]);
    });

    it('renewed as before, under the token of its present holder', async () => {
      const renewed: number[] = [];
      locker.on('renewed', ({ fencingToken }) => renewed.push(fencingToken));
      const first = await hold();
      const second = await enter();
      await release(first);
      await clock.advance(TTL / 3);
      await backend.extends.answer([{ kind: 'extended', sentAt: clock.now() }]);
      expect([renewed, second.lock?.state]).toEqual([[FENCE + 1], 'held']);
    });
  });

  describe('a lease to which the next caller does not fit', () => {
    it.each<[string, Partial<LockerOptions>, AcquireOptions, AcquireOptions]>([
      ['without localHandover', { localHandover: false }, {}, {}],
      ['where the next wants another ttl', {}, {}, { ttl: 2 * TTL }],
      ['where its holder does not renew', {}, { renew: false }, {}],
      ['where the next would not renew', {}, {}, { renew: false }],
      ['where the next has another label', {}, { label: 'import' }, { label: 'export' }],
      ['where only the next has a label', {}, {}, { label: 'export' }],
      ['where neither renews', { renew: false }, {}, {}],
    ])(
      'is not passed on, and the next stands at the backend meanwhile: %s',
      async (_what, options, holds, wants) => {
        open(options);
        const first = await hold(holds);
        const second = await enter(wants);
        await backend.tryAcquires.answer(busy);
        expect(asked()).toEqual(['tryAcquire', 'tryAcquire']);
        expect(backend.tryAcquires.made[1]).toMatchObject({ place: { sequence: undefined } });
        await release(first);
        // It looks right behind the release, which has handed the key on.
        expect(asked()).toEqual(['release', 'tryAcquire']);
        expect(second.settled).toBe(false);
        await backend.tryAcquires.answer(granted(5_000));
        expect(second.lock).toMatchObject({ fencingToken: 5_000 });
      },
    );

    it('is passed on to the first; who is next and does not fit stands at the backend then', async () => {
      const first = await hold();
      const [second, third, fourth] = [await enter(), await enter({ ttl: 2 * TTL }), await enter()];
      expect(asked()).toEqual(['tryAcquire']);
      await release(first);
      expect(second.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual(['tryAcquire']);
      await backend.tryAcquires.answer(busy);
      await release(second.lock);
      expect(asked()).toEqual(['release', 'tryAcquire']);
      await backend.tryAcquires.answer(granted(5_000));
      expect([third.lock?.fencingToken, fourth.settled]).toEqual([5_000, false]);
      // Nor is the other's lease passed to the one behind it: it stands in its turn.
      expect(asked()).toEqual(['tryAcquire']);
    });

    it('is passed on to the next that fits, once the one that does not has given up', async () => {
      const first = await hold();
      const controller = new AbortController();
      await enter({ ttl: 2 * TTL, signal: controller.signal });
      const third = await enter();
      await backend.tryAcquires.answer(busy);
      controller.abort();
      await settled();
      asked();
      await release(first);
      expect(third.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual(['cancel']);
    });
  });

  describe('a lease to which the next would fit', () => {
    /** Who came before others began to wait elsewhere, gets it, however long it was held: unless something is in the way. */
    async function holdAndWait(holds: AcquireOptions = {}): Promise<[Lock, Caller]> {
      const first = await hold(holds);
      const second = await enter();
      await clock.advance(1);
      await othersWait();
      expect(asked()).toEqual(['tryAcquire']);
      return [first, second];
    }

    it('is passed on also after a long time', async () => {
      const [first, second] = await holdAndWait();
      await clock.advance(TTL / 4);
      await release(first);
      expect([second.lock?.fencingToken, asked()]).toEqual([FENCE + 1, []]);
    });

    it('is not passed on in jeopardy: it might end too soon', async () => {
      const [first, second] = await holdAndWait();
      await clock.advance(TTL / 3);
      await backend.extends.answer([noAnswer]);
      expect(first.state).toBe('jeopardy');
      await release(first);
      expect(asked()).toEqual(['extend', 'release', 'tryAcquire']);
      expect(second.settled).toBe(false);
    });

    it('is not passed on in a jeopardy that nobody has noticed yet', async () => {
      const [first] = await holdAndWait();
      clock.block((TTL * 2) / 3);
      await release(first);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('is not passed on when it is over, though nobody has noticed yet', async () => {
      const [first, second] = await holdAndWait();
      clock.block(TTL);
      expect(await first.release()).toBe('lost');
      expect(asked()).toEqual(['cancel', 'tryAcquire']);
      await backend.tryAcquires.answer(granted(5_000));
      expect(second.lock).toMatchObject({ fencingToken: 5_000 });
    });

    it('is not passed on while the key is to stay taken for holdAtLeast', async () => {
      const [first, second] = await holdAndWait({ holdAtLeast: 500 });
      await release(first);
      expect(asked()).toEqual(['release', 'tryAcquire']);
      expect(backend.releases.made).toMatchObject([{ keepFor: 499, lastFence: FENCE }]);
      expect(second.settled).toBe(false);
    });

    it('is passed on once holdAtLeast is over', async () => {
      const [first, second] = await holdAndWait({ holdAtLeast: 500 });
      clock.block(500);
      await release(first);
      expect([second.lock?.fencingToken, asked()]).toEqual([FENCE + 1, []]);
    });

    it('is not passed on by the next holder while the key is to stay taken for its own holdAtLeast', async () => {
      const first = await hold();
      const second = await enter({ holdAtLeast: 500 });
      const third = await enter();
      await release(first);
      clock.block(10);
      await release(second.lock);
      expect(backend.releases.made).toMatchObject([{ keepFor: 490, lastFence: FENCE + 1 }]);
      expect(third.settled).toBe(false);
    });

    it('is not passed on once its range of fencing tokens is used up', async () => {
      const first = await hold();
      const callers = await enterMany(FENCE_RANGE);
      asked();
      await release(first);
      // The first holder had one of them.
      expect(await releaseInTurn(callers)).toBe(FENCE_RANGE - 1);
      expect(callers.at(-2)?.lock?.fencingToken).toBe(FENCE + FENCE_RANGE - 1);
      expect(asked()).toEqual(['release', 'tryAcquire']);
      expect(backend.releases.made).toMatchObject([{ lastFence: FENCE + FENCE_RANGE - 1 }]);
    });
  });

  describe('whose turn it is', () => {
    it('while nobody else is known to wait: for 20 ms, then release and acquire leave in this order', async () => {
      const first = await hold();
      const callers = await enterMany(30);
      asked();
      clock.block(1);
      await release(first);
      // From 1 ms on, one each ms.
      expect(await releaseInTurn(callers, 1)).toBe(19);
      expect(asked()).toEqual(['release', 'tryAcquire']);
      expect(callers[19]?.settled).toBe(false);
      expect(backend.tryAcquires.made[1]).toMatchObject({ place: { sequence: undefined } });
      expect(backend.tryAcquires.made[1]?.token).not.toBe(backend.tryAcquires.made[0]?.token);
    });

    it('counts these 20 ms from when the acquire was sent', async () => {
      const caller = await enter();
      const grant = granted();
      clock.block(15);
      await backend.tryAcquires.answer(grant);
      await enter();
      clock.block(5);
      asked();
      await release(caller.lock);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('goes on after the next grant, with a new lease', async () => {
      const first = await hold();
      const [second, third] = await enterMany(2);
      clock.block(20);
      await release(first);
      await backend.releases.answer({ kind: 'released' });
      await backend.tryAcquires.answer(granted(5_000));
      expect(second?.lock?.fencingToken).toBe(5_000);
      asked();
      await release(second?.lock);
      expect([third?.lock?.fencingToken, asked()]).toEqual([5_001, []]);
    });

    it('a head that came before the others is ahead of them, however long the holder took; nobody else is', async () => {
      const first = await hold();
      const [second, third] = await enterMany(2);
      clock.block(1);
      await othersWait();
      clock.block(1_000);
      asked();
      await release(first);
      expect([second?.lock?.fencingToken, asked()]).toEqual([FENCE + 1, []]);
      await release(second?.lock);
      expect([third?.settled, asked()]).toEqual([false, ['release', 'tryAcquire']]);
    });

    it('a head that came after the others is behind them, where the holder took long', async () => {
      const first = await hold();
      await othersWait();
      clock.block(1);
      await enter();
      clock.block(1_000);
      asked();
      await release(first);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('then that of 16 in all, and then the queue stands at the backend again', async () => {
      const first = await hold();
      const before = await enterMany(3);
      clock.block(1);
      await othersWait();
      const after = [...before, ...(await enterMany(20))];
      asked();
      await release(first);
      expect(await releaseInTurn(after)).toBe(16);
      expect(asked()).toEqual(['release', 'tryAcquire']);
      expect(backend.releases.made).toMatchObject([{ lastFence: FENCE + 16 }]);
      await backend.releases.answer({ kind: 'released' });
      await backend.tryAcquires.answer(busy);
      expect(after[16]?.settled).toBe(false);
      // Its turn comes round again.
      backend.wakeUp.wake(backend.tryAcquires.made.at(-1)?.token);
      await settled();
      await backend.tryAcquires.answer(granted(5_000, true));
      expect(after[16]?.lock?.fencingToken).toBe(5_000);
      asked();
      await release(after[16]?.lock);
      expect([after[17]?.lock?.fencingToken, asked()]).toEqual([5_001, []]);
    });

    it('of one that became head because the one before it left, and whom the lease does not fit: at the backend', async () => {
      await hold();
      const leaving = new AbortController();
      const second = await enter({ signal: leaving.signal });
      await enter({ ttl: 6_000 });
      asked();
      leaving.abort('enough');
      await settled();
      expect([second.error, asked()]).toEqual(['enough', ['tryAcquire']]);
    });

    it('of one that waited behind a lease taken without waiting: it waits on when Redis fails then', async () => {
      const taken = locker.tryAcquire('k');
      await settled();
      await backend.tryAcquires.answer(granted());
      const second = await enter();
      await clock.advance(50);
      await release((await taken) as Lock);
      await backend.tryAcquires.answer(unreachable);
      expect(second.settled).toBe(false);
    });

    it('or that of as many as have it within 5 ms', async () => {
      const first = await hold();
      await othersWait();
      const after = await enterMany(10);
      asked();
      await release(first);
      // At 0, 1, 2, 3 and 4 ms.
      expect(await releaseInTurn(after, 1)).toBe(5);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('counts these 5 ms from when others began to wait, not from when they were told of again', async () => {
      const first = await hold();
      await othersWait();
      await enter();
      await clock.advance(4);
      await othersWait();
      await clock.advance(1);
      asked();
      await release(first);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('by a grant which says that others wait: it begins with the grant', async () => {
      const first = await enter();
      clock.block(1);
      const later = await enterMany(20);
      await backend.tryAcquires.answer(granted(FENCE, true));
      asked();
      await release(first.lock);
      expect(await releaseInTurn(later)).toBe(16);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('by a grant without waiting, which says so: all here came later', async () => {
      const taken = locker.tryAcquire('k');
      await settled();
      await backend.tryAcquires.answer(granted(FENCE, true));
      const later = await enterMany(20);
      asked();
      await release((await taken) as Lock);
      expect(await releaseInTurn(later)).toBe(16);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it("by a message that overtakes the grant's reply: it isn't forgotten", async () => {
      const first = await enter();
      const grant = granted();
      clock.block(1);
      await othersWait();
      clock.block(1);
      const later = await enterMany(20);
      await backend.tryAcquires.answer(grant);
      asked();
      await release(first.lock);
      expect(await releaseInTurn(later)).toBe(16);
      expect(asked()).toEqual(['release', 'tryAcquire']);
    });

    it('by a message of the time of an earlier lease: it says nothing of this one', async () => {
      const first = await hold();
      const [second, third, fourth] = await enterMany(3);
      await othersWait();
      clock.block(20);
      await release(first);
      await backend.releases.answer({ kind: 'released' });
      // Nobody waits any more.
      await backend.tryAcquires.answer(granted(5_000));
      clock.block(19);
      asked();
      await release(second?.lock);
      await release(third?.lock);
      expect([fourth?.lock?.fencingToken, asked()]).toEqual([5_002, []]);
    });

    it('by a message of another key: of no matter', async () => {
      const first = await hold();
      const callers = await enterMany(20);
      backend.wakeUp.tell({ kind: 'othersWait', owner: 'lock:{other}' });
      asked();
      await release(first);
      expect(await releaseInTurn(callers)).toBe(20);
      expect(asked()).toEqual(['release']);
    });
  });

  describe('who waits here', () => {
    it('listens, so that it is told when others begin to wait', async () => {
      const first = await hold();
      backend.wakeUp.listening = false;
      await enter();
      expect(backend.wakeUp.subscribed).toBe(1);
      await enter();
      expect(backend.wakeUp.subscribed).toBe(1);
      await release(first);
    });

    it('is shown as waiting, in no place of the backend', async () => {
      const first = await hold();
      const second = await enter();
      const pending = async () => {
        const state = locker.inspect('k');
        await backend.queries.answer({ kind: 'found', state: { key: 'k', held: [], pending: [] } });
        return (await state).pending;
      };
      expect(await pending()).toEqual([{ sequence: undefined, access: 'exclusive' }]);
      await release(first);
      expect(await pending()).toEqual([]);
      await release(second.lock);
    });

    it('waits no longer than its deadline, and the next moves up', async () => {
      const first = await hold();
      const second = await enter({ waitTimeout: 10 });
      const third = await enter();
      await clock.advance(9);
      expect(second.settled).toBe(false);
      await clock.advance(1);
      expect(second.error).toBeInstanceOf(LockTimeoutError);
      expect(second.error).toMatchObject({ key: 'k', waited: 10 });
      expect(events.at(-1)).toBe('timedOut 10');
      await release(first);
      expect(third.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual(['tryAcquire']);
    });

    it('waits no longer than its signal says, and the next moves up', async () => {
      const first = await hold();
      const controller = new AbortController();
      const second = await enter({ signal: controller.signal });
      const third = await enter();
      controller.abort('enough');
      await settled();
      expect(second.error).toBe('enough');
      await release(first);
      expect(third.lock).toMatchObject({ fencingToken: FENCE + 1 });
      expect(asked()).toEqual(['tryAcquire']);
    });

    it('is refused when the locker closes, unless it holds another', async () => {
      const first = await hold();
      const second = await enter();
      let third: Caller | undefined;
      const other = locker.using('other', async (lock) => {
        third = new Caller({});
        await settled();
        void locker.close();
        await settled();
        await release(first);
        await release(third.lock);
        return lock.isHeld;
      });
      await settled();
      backend.releases.auto = () => ({ kind: 'released' });
      await backend.tryAcquires.answer(granted());
      expect(await other).toBe(true);
      expect(second.error).toBeInstanceOf(LockUnavailableError);
      expect(second.error).toMatchObject({ reason: 'shutting-down' });
      expect(third?.lock).toMatchObject({ state: 'released', fencingToken: FENCE + 1 });
    });

    it('leaves nothing to be passed on where all have given up: the lease is released', async () => {
      const first = await hold();
      const controller = new AbortController();
      await enter({ signal: controller.signal });
      await enter({ waitTimeout: 5 });
      controller.abort();
      await clock.advance(5);
      asked();
      await release(first);
      expect(asked()).toEqual(['release']);
      await backend.releases.answer({ kind: 'released' });
      // The record of the key is gone with it: who comes now, begins anew.
      await enter();
      expect(asked()).toEqual(['tryAcquire']);
    });

    it.each<[string, AcquireOptions, number, string[]]>([
      ['at its deadline', {}, TTL, ['extend', 'cancel', 'tryAcquire']],
      ['at maxHold', { maxHold: 500 }, 500, ['release', 'tryAcquire']],
    ])('tries at the backend when the lease is lost: %s', async (_how, holds, after, commands) => {
      const first = await hold(holds);
      const [second, third] = await enterMany(2);
      asked();
      await clock.advance(after);
      expect(first.state).toBe('lost');
      expect(asked()).toEqual(commands);
      await backend.tryAcquires.answer(busy);
      expect([second?.settled, third?.settled]).toEqual([false, false]);
      backend.wakeUp.wake(backend.tryAcquires.made.at(-1)?.token);
      await settled();
      await backend.tryAcquires.answer(granted(5_000));
      expect(second?.lock).toMatchObject({ fencingToken: 5_000 });
      asked();
      await release(second?.lock);
      expect([third?.lock?.fencingToken, asked()]).toEqual([5_001, []]);
    });

    it('tries at the backend when the lease was taken away, and undoes nothing there', async () => {
      await hold();
      const second = await enter();
      await clock.advance(TTL / 3);
      asked();
      await backend.extends.answer([{ kind: 'taken' }]);
      expect([asked(), second.settled]).toEqual([['tryAcquire'], false]);
    });

    it('tries at the backend when it comes to a lease that is over, though nobody has noticed yet', async () => {
      const first = await hold();
      clock.block(TTL);
      asked();
      const second = await enter();
      expect(asked()).toEqual(['cancel', 'tryAcquire']);
      await backend.tryAcquires.answer(granted(5_000));
      expect([first.state, second.lock?.fencingToken]).toEqual(['lost', 5_000]);
    });

    it('goes on waiting where the backend cannot be asked after the release', async () => {
      const first = await hold();
      const second = await enter();
      clock.block(20);
      await release(first);
      await backend.tryAcquires.answer(unreachable);
      expect(second.settled).toBe(false);
      await clock.advance(40);
      await backend.tryAcquires.answer(granted(5_000));
      expect(second.lock).toMatchObject({ fencingToken: 5_000 });
    });
  });

  describe('who has passed the lease on', () => {
    async function passedOn(): Promise<[Lock, Lock]> {
      const first = await hold();
      const second = await enter();
      // Made before the release, and so one that could abort.
      expect(first.signal.aborted).toBe(false);
      await release(first);
      return [first, second.lock as Lock];
    }

    it('stays released, under its own fencing token, whatever becomes of the lease', async () => {
      const [first, second] = await passedOn();
      const { signal } = first;
      expect(second.signal).not.toBe(signal);
      expect(first).toMatchObject({ state: 'released', isHeld: false, remaining: 0 });
      await clock.advance(TTL);
      expect(second).toMatchObject({ state: 'lost', fencingToken: FENCE + 1 });
      expect(second.signal.reason).toMatchObject({ reason: 'expired', fencingToken: FENCE + 1 });
      expect(first).toMatchObject({ state: 'released', isHeld: false, fencingToken: FENCE });
      expect([signal.aborted, first.signal]).toEqual([false, signal]);
      expect(await first.release()).toBe('released');
    });

    it('has a signal that never aborts also where that is asked for afterwards', async () => {
      const first = await hold();
      const second = await enter();
      await release(first);
      const asBefore = first.signal;
      await clock.advance(TTL);
      expect([second.lock?.state, asBefore.aborted, first.signal.aborted]).toEqual([
        'lost',
        false,
        false,
      ]);
    });

    it("can't release or extend what is another's now", async () => {
      const [first, second] = await passedOn();
      const of = { key: 'k', reason: 'released', fencingToken: FENCE };
      asked();
      expect(await first.release()).toBe('released');
      await expect(first.extend()).rejects.toMatchObject(of);
      expect(() => first.assertHeld()).toThrow(expect.objectContaining(of));
      expect([second.isHeld, asked()]).toEqual([true, []]);
    });

    it('no longer lets anybody in who was to enter it again', async () => {
      const first = await hold();
      const second = await enter();
      await release(first);
      await expect(locker.acquire('k', { within: first })).rejects.toMatchObject({
        code: 'LOCK_LOST',
        reason: 'released',
        fencingToken: FENCE,
      });
      const again = locker.acquire('k', { within: second.lock as Lock });
      expect(await again).toMatchObject({ fencingToken: FENCE + 1 });
    });
  });
});
