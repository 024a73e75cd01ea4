/** One timer for all leases: each renewed in time, in batches, and each ended at its deadline and not a tick later. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type {
  ExtendOutcome,
  HeldToken,
  HolderState,
  QueryOutcome,
} from '../../lib/core/backend/lock-backend.js';
import type { LostReason } from '../../lib/core/errors.js';
import { LockEmitter } from '../../lib/core/events.js';
import { type HoldOptions, Lease, type LeaseGrant } from '../../lib/core/lease.js';
import { LockName } from '../../lib/core/lock-name.js';
import { Renewal } from '../../lib/core/renewal.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { FakeBackend, noAnswer } from './fake-backend.js';

const TTL = 3_000;
/** When a lease of that ttl is due, in jeopardy, and over. */
const [DUE, OVERDUE, OVER] = [1_000, 2_000, 2_968];

const NO_BOUNDS = { maxHold: Number.POSITIVE_INFINITY, holdAtLeast: 0 };

describe('Renewal', () => {
  let clock: FakeClock;
  let backend: FakeBackend;
  let renewal: Renewal;
  let start: number;
  let events: string[];
  let lost: { readonly token: string; readonly reason: LostReason; readonly at: number }[];
  let tokens: number;

  function setUp(random = () => 0.5): void {
    clock = new FakeClock();
    start = clock.now();
    backend = new FakeBackend();
    const emitter = new LockEmitter();
    renewal = new Renewal(backend, clock, random, emitter);
    events = [];
    lost = [];
    tokens = 0;
    const note = (text: string) => events.push(`${Math.round(clock.now() - start)} ${text}`);
    emitter.on('renewed', ({ key, remaining }) => note(`renewed ${key} ${Math.round(remaining)}`));
    emitter.on('jeopardy', ({ key, remaining, cause }) =>
      note(`jeopardy ${key} ${Math.round(remaining)}${cause === undefined ? '' : ' by an error'}`),
    );
  }

  beforeEach(() => setUp());

  function hold({
    renew = true,
    maxHold = Number.POSITIVE_INFINITY,
    holdAtLeast = 0,
    ...grant
  }: Partial<LeaseGrant & HoldOptions> = {}): Lease {
    tokens += 1;
    const lease = new Lease(
      {
        name: LockName.of('lock', `k${tokens}`),
        token: `t${tokens}`,
        fencingToken: tokens,
        sentAt: clock.now(),
        othersSince: Number.POSITIVE_INFINITY,
        ttl: TTL,
        hold: { renew, maxHold, holdAtLeast, access: 'exclusive' },
        ...grant,
      },
      clock,
      (over, reason) => {
        renewal.unwatch(over);
        lost.push({ token: over.token, reason, at: clock.now() });
      },
    );
    renewal.watch(lease);
    return lease;
  }

  const extended = (): ExtendOutcome => ({ kind: 'extended', sentAt: clock.now() });
  const tokensOf = (leases: readonly HeldToken[] | undefined) => leases?.map(({ token }) => token);

  describe('renews', () => {
    it('when a third of the ttl has passed since its command was sent', async () => {
      hold({ sentAt: start - 400 });
      await clock.advance(DUE - 400 - 1);
      expect(backend.extends.openCount).toBe(0);
      await clock.advance(1);
      expect(backend.extends.made).toEqual([
        [{ name: expect.any(LockName), token: 't1', ttl: TTL }],
      ]);
    });

    it('again a third later, counted from when the renewal was sent', async () => {
      const lease = hold();
      await clock.advance(DUE);
      const sentAt = clock.now();
      await clock.advance(300);
      await backend.extends.answer([{ kind: 'extended', sentAt }]);
      expect(events).toEqual([`1300 renewed k1 ${OVER - 300}`]);
      expect(lease.deadline).toBeCloseTo(sentAt + OVER, 6);
      await clock.advance(DUE - 300 - 1);
      expect(backend.extends.openCount).toBe(0);
      await clock.advance(1);
      expect(backend.extends.openCount).toBe(1);
    });

    it('all that are due or nearly so in one batch', async () => {
      // 250 ms, a twelfth of the ttl, is near enough.
      for (const delay of [0, 100, 150, 200]) {
        await clock.advance(delay);
        hold();
      }
      await clock.advance(DUE - 450);
      expect(backend.extends.made.map(tokensOf)).toEqual([['t1', 't2', 't3']]);
      await backend.extends.answer([extended(), extended(), extended()]);
      await clock.advance(450);
      expect(backend.extends.made.map(tokensOf)).toEqual([['t1', 't2', 't3'], ['t4']]);
    });

    it('at most 500 with one command', async () => {
      const leases = Array.from({ length: 1_200 }, () => hold());
      await clock.advance(DUE);
      expect(backend.extends.made.map(({ length }) => length)).toEqual([500, 500, 200]);
      expect(backend.extends.made.flat().map(({ token }) => token)).toEqual(
        expect.arrayContaining(leases.map(({ token }) => token)),
      );
    });

    it('a lease with one command at a time', async () => {
      hold();
      hold();
      await clock.advance(DUE);
      await clock.advance(OVER - DUE - 1);
      expect(backend.extends.made).toHaveLength(1);
    });

    it('what was released in time no more', async () => {
      const [first, second] = [hold(), hold()];
      first.markReleased();
      renewal.unwatch(first);
      await clock.advance(DUE);
      expect(backend.extends.made.map(tokensOf)).toEqual([[second.token]]);
    });

    it('nothing with renew: false', async () => {
      hold({ renew: false });
      await clock.advance(TTL);
      expect(backend.extends.made).toEqual([]);
      expect(lost).toEqual([{ token: 't1', reason: 'expired', at: start + OVER }]);
    });
  });

  describe('applies', () => {
    it('each outcome of a batch to its own lease', async () => {
      const [a, b, c] = [hold(), hold(), hold()];
      await clock.advance(DUE);
      const outcomes: Record<string, ExtendOutcome> = {
        t1: extended(),
        t2: { kind: 'taken' },
        t3: noAnswer,
      };
      const asked = tokensOf(backend.extends.made[0]) as string[];
      await backend.extends.answer(asked.map((token) => outcomes[token] as ExtendOutcome));
      expect([a.state, b.state, c.state]).toEqual(['held', 'lost', 'jeopardy']);
      expect([a, b, c].map(({ remaining }) => Math.round(remaining))).toEqual([
        OVER,
        0,
        OVER - DUE,
      ]);
      expect(lost).toMatchObject([{ token: 't2', reason: 'taken' }]);
      expect(events).toEqual([
        `1000 renewed k1 ${OVER}`,
        `1000 jeopardy k3 ${OVER - DUE} by an error`,
      ]);
    });

    it('no answer that comes after the deadline', async () => {
      const lease = hold();
      await clock.advance(DUE);
      await clock.advance(OVER - DUE);
      expect(lost).toEqual([{ token: 't1', reason: 'expired', at: start + OVER }]);
      await backend.extends.answer([{ kind: 'extended', sentAt: start + DUE }]);
      expect(lease.state).toBe('lost');
      expect(events).toEqual([`2000 jeopardy k1 ${OVER - OVERDUE}`]);
      expect(clock.pending).toEqual([]);
    });

    it('no answer to a lease that was released meanwhile', async () => {
      const lease = hold();
      await clock.advance(DUE);
      lease.markReleased();
      renewal.unwatch(lease);
      await backend.extends.answer([{ kind: 'taken' }]);
      expect([lease.state, lost, events]).toEqual(['released', [], []]);
    });
  });

  describe('jeopardy', () => {
    it('is told once when a renewal is not answered by two thirds of the ttl', async () => {
      const lease = hold();
      await clock.advance(OVERDUE - 1);
      expect(lease.state).toBe('held');
      await clock.advance(1);
      expect([lease.state, lease.isHeld]).toEqual(['jeopardy', true]);
      await clock.advance(OVER - OVERDUE - 1);
      expect(events).toEqual([`2000 jeopardy k1 ${OVER - OVERDUE}`]);
      await backend.extends.answer([extended()]);
      expect(lease.state).toBe('held');
    });

    it('is told once however often a renewal fails, and again after it had succeeded', async () => {
      const lease = hold();
      await clock.advance(DUE);
      await backend.extends.answer([noAnswer]);
      await clock.advance(TTL / 20);
      await backend.extends.answer([noAnswer]);
      await clock.advance(TTL / 20);
      await backend.extends.answer([extended()]);
      expect(lease.state).toBe('held');
      await clock.advance(DUE);
      await backend.extends.answer([noAnswer]);
      expect(events.map((event) => event.replace(/ \d+( by.*)?$/, ''))).toEqual([
        '1000 jeopardy k1',
        '1300 renewed k1',
        '2300 jeopardy k1',
      ]);
    });

    it('holds also right after a blocked event loop, in which the renewal became overdue', () => {
      const lease = hold();
      clock.block(OVERDUE + 100);
      expect(lease.state).toBe('jeopardy');
    });
  });

  describe('a failed renewal', () => {
    it.each([
      [0, 0.5],
      [0.5, 1],
      [0.999, 1.499],
    ])('is tried again after a twentieth of the ttl, with jitter (%d)', async (drawn, factor) => {
      setUp(() => drawn);
      hold();
      await clock.advance(DUE);
      await backend.extends.answer([noAnswer]);
      const delay = (TTL / 20) * factor;
      await clock.advance(delay - 1);
      expect(backend.extends.openCount).toBe(0);
      await clock.advance(2);
      expect(backend.extends.openCount).toBe(1);
    });

    it('is tried up to the deadline, and saves the lease at the last moment', async () => {
      const lease = hold();
      await clock.advance(DUE);
      backend.extends.auto = () => [noAnswer];
      await backend.extends.answer([noAnswer]);
      await clock.advance(OVER - DUE - 10);
      expect(backend.extends.made.length).toBeGreaterThan(8);
      expect(lease.state).toBe('jeopardy');
      backend.extends.auto = () => [extended()];
      await renewal.renewNow(lease);
      expect([lease.state, lost]).toEqual(['held', []]);
    });

    it('is not tried any more once the lease is lost', async () => {
      hold();
      backend.extends.auto = () => [noAnswer];
      await clock.advance(OVER);
      const { length } = backend.extends.made;
      expect(lost).toEqual([{ token: 't1', reason: 'expired', at: start + OVER }]);
      await clock.advance(10 * TTL);
      expect(backend.extends.made).toHaveLength(length);
      expect(clock.pending).toEqual([]);
    });
  });

  describe('ends', () => {
    it('a lease at its deadline, so that its signal aborts in time without anybody asking', async () => {
      const lease = hold();
      const { signal } = lease;
      let abortedAt = 0;
      signal.addEventListener('abort', () => (abortedAt = clock.now()));
      await clock.advance(2 * TTL);
      expect(abortedAt).toBeCloseTo(start + OVER, 6);
      expect(abortedAt).toBeLessThan(start + TTL);
    });

    it('a lease at maxHold however well it is renewed', async () => {
      backend.extends.auto = (leases) => leases.map(extended);
      hold({ maxHold: 4_500 });
      await clock.advance(2 * TTL);
      expect(lost).toEqual([{ token: 't1', reason: 'max-hold', at: start + 4_500 }]);
      expect(backend.extends.made).toHaveLength(4);
    });

    it('a lease that has ended during a blocked event loop at the first chance, instead of renewing it', async () => {
      hold();
      const short = hold({ ttl: 300 });
      clock.block(1_200);
      await clock.advance(0);
      expect(lost).toEqual([{ token: short.token, reason: 'expired', at: start + 1_200 }]);
      expect(backend.extends.made.map(tokensOf)).toEqual([['t1']]);
    });
  });

  describe('renewNow', () => {
    it('renews outside the turn', async () => {
      const lease = hold();
      await clock.advance(500);
      const outcome = renewal.renewNow(lease);
      await backend.extends.answer([extended()]);
      expect(await outcome).toMatchObject({ kind: 'extended' });
      expect(lease.deadline).toBeCloseTo(start + 500 + OVER, 6);
      await clock.advance(DUE - 1);
      expect(backend.extends.openCount).toBe(0);
      await clock.advance(1);
      expect(backend.extends.openCount).toBe(1);
    });

    it('shares what is under way, with the outcome of its own lease', async () => {
      const [a, b] = [hold(), hold()];
      await clock.advance(DUE);
      const outcomes = [renewal.renewNow(a), renewal.renewNow(b), renewal.renewNow(a)];
      await settled();
      expect(backend.extends.made).toHaveLength(1);
      await backend.extends.answer([extended(), noAnswer]);
      expect((await Promise.all(outcomes)).map(({ kind }) => kind)).toEqual([
        'extended',
        'unavailable',
        'extended',
      ]);
    });

    it('tells of a failure, while the lease holds on', async () => {
      const lease = hold();
      const outcome = renewal.renewNow(lease);
      await backend.extends.answer([noAnswer]);
      expect(await outcome).toEqual(noAnswer);
      expect([lease.state, lease.isHeld]).toEqual(['jeopardy', true]);
    });
  });

  describe('its timer', () => {
    it('is one, keeps no process alive, and goes with the last lease', async () => {
      const leases = Array.from({ length: 50 }, (_, n) => hold({ ttl: 1_000 + 10 * n }));
      expect(clock.pending).toMatchObject([{ kind: 'background' }]);
      expect(renewal.size).toBe(50);
      for (const lease of leases) {
        lease.markReleased();
        renewal.unwatch(lease);
      }
      expect(renewal.size).toBe(0);
      // It may fire once more, in vain.
      await clock.advance(2_000);
      expect([clock.pending, backend.extends.made]).toEqual([[], []]);
    });

    it('is set earlier for a lease that is due earlier', async () => {
      hold({ ttl: 30_000 });
      const [far] = clock.pending;
      hold({ ttl: 300 });
      expect(far?.in).toBeCloseTo(10_000, 6);
      expect(clock.pending.map((each) => Math.round(each.in))).toEqual([100]);
    });

    it('ends with stop(), also with a renewal under way', async () => {
      hold();
      await clock.advance(DUE);
      renewal.stop();
      expect(clock.pending).toEqual([]);
      await backend.extends.answer([extended()]);
      hold();
      expect(clock.pending).toEqual([]);
    });
  });

  it('forgets nobody and hurries nobody, whatever leases come and go', async () => {
    const lease = fc.record({
      at: fc.integer({ min: 0, max: 5_000 }),
      ttl: fc.integer({ min: 100, max: 8_000 }),
      renew: fc.boolean(),
      maxHold: fc.option(fc.integer({ min: 100, max: 8_000 }), {
        nil: Number.POSITIVE_INFINITY,
      }),
      releasedAfter: fc.option(fc.integer({ min: 0, max: 8_000 }), { nil: undefined }),
    });
    const END = 12_000;
    await fc.assert(
      fc.asyncProperty(fc.array(lease, { minLength: 1, maxLength: 25 }), async (plans) => {
        setUp();
        const renewedAt = new Map<string, number[]>();
        backend.extends.auto = (leases) =>
          leases.map(({ token }) => {
            renewedAt.get(token)?.push(clock.now());
            return extended();
          });
        const held: { lease: Lease; plan: (typeof plans)[number]; releasedAt: number }[] = [];
        for (const plan of plans) {
          clock.after(plan.at, () => {
            const made = hold(plan);
            renewedAt.set(made.token, [clock.now()]);
            const { releasedAfter = Number.POSITIVE_INFINITY } = plan;
            const releasedAt = clock.now() + releasedAfter;
            held.push({ lease: made, plan, releasedAt });
            if (releasedAt > start + END) return;
            clock.after(releasedAfter, () => {
              if (made.markReleased()) renewal.unwatch(made);
            });
          });
        }
        await clock.advance(END);
        for (const { lease: made, plan, releasedAt } of held) {
          const { grantedAt, token } = made;
          const times = renewedAt.get(token) as number[];
          const expiry = plan.renew ? Number.POSITIVE_INFINITY : made.deadline;
          const maxHeld = grantedAt + plan.maxHold;
          const over = Math.min(expiry, maxHeld);
          const end = Math.min(releasedAt, start + END);
          // Neither forgotten nor early. Two moments that are one but for the rounding may come in either order.
          const losses = lost.filter((each) => each.token === token);
          const reason = expiry < maxHeld ? 'expired' : 'max-hold';
          const loss = { token, reason, at: expect.closeTo(over, 3) };
          const expected = over < end ? [loss] : [];
          expect(losses).toEqual(Math.abs(over - end) < 0.001 ? losses : expected);
          // Renewed after a third of its ttl, and sooner only together with others, or because it ends anyway.
          const until = Math.min(over, end);
          const intervals = [...times.slice(1), until].map((at, n) => at - (times[n] as number));
          const longest = plan.renew ? plan.ttl / 3 : until - grantedAt;
          expect(Math.max(...intervals)).toBeLessThanOrEqual(longest + 0.001);
          const early = times.slice(1).filter((at, n) => {
            const tooSoon = at - (times[n] as number) < plan.ttl / 4 - 0.001;
            return tooSoon && at < maxHeld - plan.ttl / 12;
          });
          expect(early).toEqual([]);
          expect(plan.renew || times.length === 1).toBe(true);
        }
        const watched = held.filter(({ lease: made }) => made.isHeld);
        expect(renewal.size).toBe(watched.length);
      }),
      { numRuns: 60 },
    );
  });

  describe('looks at all leases where a message may have been missed:', () => {
    const state = (lease: Lease, held: Partial<HolderState>[]): QueryOutcome => ({
      kind: 'found',
      state: {
        key: lease.name.key,
        held: held.map((holder) => ({ ...(holder as HolderState) })),
        pending: [],
      },
    });
    const holder = (fencingToken: number, kept = false) => ({ fencingToken, kept });

    it('renews those that are renewed at once, in one batch, and loses what was taken', async () => {
      for (let n = 0; n < 3; n += 1) hold();
      await clock.advance(100);
      renewal.lookAtAll();
      expect(backend.extends.made.map(tokensOf)).toEqual([['t1', 't2', 't3']]);
      await backend.extends.answer([extended(), { kind: 'taken' }, extended()]);
      expect(lost).toMatchObject([{ token: 't2', reason: 'taken' }]);
      // And goes on from there.
      await clock.advance(DUE - 1);
      expect(backend.extends.openCount).toBe(0);
      await clock.advance(1);
      expect(tokensOf(backend.extends.made.at(-1))?.toSorted()).toEqual(['t1', 't3']);
    });

    it('once more where a renewal was under way, which may have been done before', async () => {
      hold();
      await clock.advance(DUE);
      renewal.lookAtAll();
      expect(backend.extends.made).toHaveLength(1);
      await backend.extends.answer([extended()]);
      expect(backend.extends.made).toHaveLength(2);
      await backend.extends.answer([{ kind: 'taken' }]);
      expect(lost).toMatchObject([{ token: 't1', reason: 'taken' }]);
    });

    it('asks for those that are not renewed, and prolongs none', async () => {
      const [lease, other] = [hold({ renew: false }), hold({ renew: false })];
      const { deadline } = lease;
      renewal.lookAtAll();
      await clock.advance(0);
      expect(backend.queries.made).toEqual([lease.name, other.name]);
      await backend.queries.answer(state(lease, [holder(lease.fencingToken)]));
      await backend.queries.answer(state(other, [holder(other.fencingToken + 1)]));
      // Twice, before it's believed.
      expect(lost).toEqual([]);
      await backend.queries.answer(state(other, [holder(other.fencingToken + 1)]));
      expect(lost).toMatchObject([{ token: 't2', reason: 'taken' }]);
      await clock.advance(OVER - 1);
      expect([lease.deadline, backend.extends.made, backend.queries.openCount]).toEqual([
        deadline,
        [],
        0,
      ]);
      expect(lost).toHaveLength(1);
    });

    it.each<[string, HoldOptions['access'], number, boolean, boolean]>([
      ['the first token of its range', 'exclusive', 0, false, true],
      ['the last', 'exclusive', -9_999, false, true],
      ['an earlier lease', 'exclusive', -10_000, false, false],
      ['one that is only kept', 'exclusive', 0, true, false],
      ['itself among sharers', 'shared', 0, false, true],
      ['another sharer', 'shared', -1, false, false],
      ['another under a limit', 'limit:3', -1, false, false],
    ])('takes for its own: %s, %s', async (_, access, offset, kept, itsOwn) => {
      const hold20 = { renew: false, fencingToken: 20_000 };
      const lease = hold({ ...hold20, hold: { ...hold20, ...NO_BOUNDS, access } });
      const answer = state(lease, [holder(20_000 + offset, kept)]);
      backend.queries.auto = () => answer;
      renewal.lookAtAll();
      await clock.advance(0);
      expect(lease.isHeld).toBe(itsOwn);
    });

    it('asks again where too few of several nodes show it and others are silent, until it is known', async () => {
      const lease = hold({ renew: false });
      const shownBy = (count: number): QueryOutcome => ({
        ...(state(lease, []) as Extract<QueryOutcome, { kind: 'found' }>),
        asShown: [Array.from({ length: count }, () => holder(lease.fencingToken) as HolderState)],
        majority: 2,
      });
      renewal.lookAtAll();
      await clock.advance(0);
      await backend.queries.answer(shownBy(1));
      expect([lease.isHeld, backend.queries.openCount]).toEqual([true, 0]);
      // A twentieth of the ttl later.
      await clock.advance(TTL / 10);
      await backend.queries.answer(shownBy(2));
      await clock.advance(OVER - TTL / 10 - 1);
      expect([lease.isHeld, backend.queries.made.length]).toEqual([true, 2]);
    });

    it('asks again where nobody answers, until its deadline', async () => {
      const lease = hold({ renew: false });
      backend.queries.auto = () => noAnswer;
      renewal.lookAtAll();
      await clock.advance(OVER + TTL);
      // A twentieth of the ttl apart.
      expect(backend.queries.made.length).toBeGreaterThan(15);
      expect(backend.queries.made.length).toBeLessThan(25);
      expect(lease.lostReason).toBe('expired');
      expect(events.filter((event) => event.includes('by an error'))).toEqual([]);
      expect(clock.pending).toEqual([]);
    });
  });
});
