/** The arithmetic of a lease: what it's good for is counted from before its command, by our clock, and by nothing else. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { LockLostError, type LostReason } from '../../lib/core/errors.js';
import { type HoldOptions, Lease, type LeaseGrant, validUntil } from '../../lib/core/lease.js';
import { LockName } from '../../lib/core/lock-name.js';
import { FakeClock } from '../support/fake-clock.js';

const TTL = 1_000;
/** 1 % for clocks that run apart, and 2 ms for their precision. */
const VALID = 988;

describe('Lease', () => {
  let clock: FakeClock;
  let lost: LostReason[];

  beforeEach(() => {
    clock = new FakeClock(50_000);
    lost = [];
  });

  function leaseOf({
    renew = true,
    maxHold = Number.POSITIVE_INFINITY,
    holdAtLeast = 0,
    ...grant
  }: Partial<LeaseGrant & HoldOptions> = {}): Lease {
    return new Lease(
      {
        name: LockName.of('lock', 'k'),
        token: 't',
        fencingToken: 42,
        sentAt: clock.now(),
        othersSince: Number.POSITIVE_INFINITY,
        ttl: TTL,
        hold: { renew, maxHold, holdAtLeast, access: 'exclusive' },
        ...grant,
      },
      clock,
      (_lease, reason) => lost.push(reason),
    );
  }

  it.each([
    [100, 97],
    [1_000, 988],
    [10_000, 9_898],
    [60_000, 59_398],
  ])('of %d ms is good for %d ms', (ttl, valid) => {
    expect(validUntil(7, ttl)).toBeCloseTo(7 + valid, 6);
  });

  it('counts from when its command was sent, not from when the reply came', () => {
    const lease = leaseOf({ sentAt: clock.now() - 300 });
    expect(lease.remaining).toBeCloseTo(VALID - 300, 6);
    expect(lease.deadline).toBeCloseTo(clock.now() + VALID - 300, 6);
  });

  it('is held up to its deadline and lost from then on, without a timer', () => {
    const lease = leaseOf();
    clock.block(VALID - 0.01);
    expect(lease).toMatchObject({ state: 'jeopardy', isHeld: true, lostReason: undefined });
    expect(lease.remaining).toBeCloseTo(0.01, 6);
    clock.block(0.01);
    expect(lease).toMatchObject({ state: 'lost', isHeld: false, remaining: 0 });
    expect(lease.lostReason).toBe('expired');
    expect(lost).toEqual(['expired']);
    expect(clock.pending).toEqual([]);
  });

  it('is prolonged from when its renewal was sent', () => {
    const lease = leaseOf();
    clock.block(400);
    const sentAt = clock.now();
    clock.block(500);
    lease.prolong(sentAt);
    expect(lease.remaining).toBeCloseTo(VALID - 500, 6);
    expect(lease).toMatchObject({ state: 'held', sentAt, retryAt: 0 });
  });

  it("isn't shortened by the reply to an older renewal", () => {
    const lease = leaseOf();
    const start = clock.now();
    clock.block(600);
    lease.prolong(start + 500);
    const { deadline } = lease;
    lease.prolong(start + 300);
    expect(lease.deadline).toBe(deadline);
  });

  it("doesn't come back by a renewal that is answered after its deadline", () => {
    const lease = leaseOf();
    clock.block(400);
    const sentAt = clock.now();
    // The event loop was blocked: nobody has looked at the lease meanwhile.
    clock.block(VALID - 400);
    lease.prolong(sentAt);
    expect(lease).toMatchObject({ state: 'lost', remaining: 0 });
    expect(lost).toEqual(['expired']);
  });

  it('goes into jeopardy and back, which is news once each time', () => {
    const lease = leaseOf();
    expect([lease.endanger(), lease.state, lease.isHeld]).toEqual([true, 'jeopardy', true]);
    expect(lease.endanger()).toBe(false);
    lease.prolong(clock.now());
    expect(lease.state).toBe('held');
    expect(lease.endanger()).toBe(true);
    clock.block(VALID);
    expect([lease.endanger(), lease.state]).toEqual([false, 'lost']);
  });

  it('ends at maxHold, however often it is prolonged', () => {
    const lease = leaseOf({ maxHold: 1_500 });
    clock.block(900);
    lease.prolong(clock.now());
    expect(lease.remaining).toBeCloseTo(600, 6);
    clock.block(599);
    lease.prolong(clock.now());
    expect(lease.isHeld).toBe(true);
    clock.block(1);
    expect(lease.state).toBe('lost');
    expect(lost).toEqual(['max-hold']);
  });

  it('has the reason that came first, once', () => {
    const lease = leaseOf();
    lease.lose('taken');
    lease.lose('shutdown');
    clock.block(TTL);
    expect([lease.state, lease.lostReason, lost]).toEqual(['lost', 'taken', ['taken']]);
    expect(lease.lostError()).toMatchObject({ key: 'k', reason: 'taken', fencingToken: 42 });
  });

  it('is released once, and only while it is held', () => {
    const lease = leaseOf();
    expect(lease.markReleased()).toBe(true);
    expect([lease.state, lease.isHeld, lease.markReleased()]).toEqual(['released', false, false]);
    lease.lose('taken');
    clock.block(TTL);
    expect([lease.state, lost]).toEqual(['released', []]);
    expect(lease.lostError()).toMatchObject({ reason: 'released' });

    const expired = leaseOf();
    clock.block(VALID);
    expect(expired.markReleased()).toBe(false);
    expect(expired.state).toBe('lost');
  });

  describe('signal', () => {
    it('aborts when the lease is lost, before anybody else is told', () => {
      const order: string[] = [];
      const lease = new Lease(
        {
          name: LockName.of('lock', 'k'),
          token: 't',
          fencingToken: 42,
          sentAt: clock.now(),
          othersSince: Number.POSITIVE_INFINITY,
          ttl: TTL,
          hold: {
            renew: true,
            maxHold: Number.POSITIVE_INFINITY,
            holdAtLeast: 0,
            access: 'exclusive',
          },
        },
        clock,
        () => order.push('clean-up'),
      );
      const { signal } = lease;
      signal.addEventListener('abort', () => order.push(`holder sees ${lease.state}`));
      lease.lose('taken');
      expect(order).toEqual(['holder sees lost', 'clean-up']);
      expect(signal.reason).toBeInstanceOf(LockLostError);
      expect(signal.reason).toMatchObject({ reason: 'taken', fencingToken: 42 });
    });

    it('asked for after the loss is aborted already', () => {
      const lease = leaseOf();
      clock.block(TTL);
      const { signal } = lease;
      expect(signal.aborted).toBe(true);
      expect(signal.reason).toMatchObject({ code: 'LOCK_LOST', reason: 'expired' });
      expect(lease.signal).toBe(signal);
    });

    it('asked for after the release never aborts', () => {
      const lease = leaseOf();
      lease.markReleased();
      const { signal } = lease;
      lease.lose('shutdown');
      expect(signal.aborted).toBe(false);
    });
  });

  it('is to be kept for what is left of holdAtLeast', () => {
    const lease = leaseOf({ holdAtLeast: 500 });
    clock.block(200);
    expect(lease.keepFor).toBe(300);
    lease.prolong(clock.now());
    expect(lease.keepFor).toBe(300);
    clock.block(400);
    expect(lease.keepFor).toBe(0);
    expect(leaseOf().keepFor).toBe(0);
  });
});
