/** The queue of one key in one process, with every order of replies, wake-ups, deadlines and second thoughts. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import type { AcquireRequest } from '../../lib/core/backend/lock-backend.js';
import { CleanUp } from '../../lib/core/clean-up.js';
import { LockTimeoutError, LockUnavailableError } from '../../lib/core/errors.js';
import { LockEmitter } from '../../lib/core/events.js';
import { Lease, type LeaseGrant } from '../../lib/core/lease.js';
import { HeldLock, type LockKeeper } from '../../lib/core/lock.js';
import { LockName } from '../../lib/core/lock-name.js';
import { LockRequest } from '../../lib/core/lock-request.js';
import { resolveLockOptions } from '../../lib/core/options.js';
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
    const emitter = new LockEmitter();
    emitter.on('waiting', ({ remaining }) => events.push(`waiting ${remaining}`));
    emitter.on('timedOut', ({ waited }) => events.push(`timedOut ${waited}`));
    let tokens = 0;
    queue = new WaitQueue(
      LockName.of('lock', 'k'),
      {
        backend,
        clock,
        random: () => 0.5,
        events: emitter,
        cleanUp,
        deadlines,
        commandTimeout: COMMAND_TIMEOUT,
        // So each caller stands at the backend. How a lease is passed on is below.
        localHandover: false,
        backoff: { first: 20, longest: 500 },
        stands,
        newToken: () => `t${(tokens += 1)}`,
        newLock: (grant, othersSince, _request, granting) => {
          lease = new Lease(grant, clock, () => {});
          granting.adopt(lease, othersSince);
          const lock = new HeldLock(lease, keeper);
          grants.set(lock, grant);
          return lock;
        },
        handOver: () => {
          throw new Error('Nothing is released here.');
        },
        outside: (work) => work(),
      },
      () => (ended += 1),
    );
  });

  interface Wanted {
    readonly ttl?: number;
    readonly wait?: number;
    readonly signal?: AbortSignal;
    readonly heldKeys?: readonly string[];
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
      queue.enter(new LockRequest('k', options, clock.now(), heldKeys)).then(
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

  /** Nothing is left of anybody who waited, once the holder has released. */
  function expectNothingLeft(): void {
    // The record of the key stays for as long as this process holds it.
    expect(ended).toBe(lease === undefined ? 1 : 0);
    if (lease !== undefined) queue.leaseEnded(lease);
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
