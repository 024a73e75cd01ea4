/**
 * Our idea of the server's clock may be wrong in one direction only: a deadline that we tell the server must never lie
 * after the caller's own, or a command that was held up would take a lock for somebody who has given up.
 */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { ServerClock } from '../../lib/core/redis/server-clock.js';

/** What two clocks are allowed to run apart, as a part of the time that passes; here they do by half of it. */
const DRIFT = 0.001;
/** Floating point, over times of about 1e12 ms. */
const EPSILON = 0.01;

/** Times in ms, to a tenth. (`fc.double` draws exponents evenly: most of what it draws is next to nothing.) */
const upTo = (max: number) => fc.integer({ min: 0, max: max * 10 }).map((tenths) => tenths / 10);

/** One exchange with the server: a pause before, the way there, the way back, in ms. */
const exchange = fc.record({
  pause: upTo(10_000),
  there: upTo(2_000),
  back: upTo(2_000),
});
const exchanges = fc.array(exchange, { minLength: 1, maxLength: 30 });
/** The server's clock is wall time, ours counts from the start of the process. */
const offset = fc.oneof(upTo(100), fc.integer({ min: -1e6, max: 2e12 }));

describe('ServerClock', () => {
  it('knows nothing before it has seen a reply, or after it was told to forget', () => {
    const clock = new ServerClock();
    expect(clock.known).toBe(false);
    clock.observe(1_000, 0, 10);
    expect(clock.known).toBe(true);
    clock.forget();
    expect(clock.known).toBe(false);
  });

  it('is never late, and early by no more than the fastest round trip it has seen', () => {
    fc.assert(
      fc.property(offset, exchanges, (trueOffset, all) => {
        const clock = new ServerClock();
        let now = 0;
        let fastest = Number.POSITIVE_INFINITY;
        for (const { pause, there, back } of all) {
          const sentAt = now + pause;
          now = sentAt + there + back;
          fastest = Math.min(fastest, there + back);
          clock.observe(sentAt + there + trueOffset, sentAt, now);
          const error = clock.notAfter(now) - (now + trueOffset);
          expect(error).toBeLessThanOrEqual(EPSILON);
          expect(error).toBeGreaterThanOrEqual(-fastest - DRIFT * now - EPSILON);
        }
      }),
    );
  });

  it('is never late when a clock drifts, however long nothing was heard', () => {
    fc.assert(
      fc.property(
        offset,
        fc.integer({ min: -500, max: 500 }).map((millionths) => millionths / 1e6),
        exchanges,
        upTo(3_600_000),
        (trueOffset, drift, all, silence) => {
          const clock = new ServerClock();
          const serverTime = (local: number) => trueOffset + local * (1 + drift);
          let now = 0;
          for (const { pause, there, back } of all) {
            const sentAt = now + pause;
            now = sentAt + there + back;
            clock.observe(serverTime(sentAt + there), sentAt, now);
            expect(clock.notAfter(now)).toBeLessThanOrEqual(serverTime(now) + EPSILON);
          }
          const later = now + silence;
          expect(clock.notAfter(later)).toBeLessThanOrEqual(serverTime(later) + EPSILON);
        },
      ),
    );
  });

  it('sees with the next reply that the clock was set, ahead or back', () => {
    fc.assert(
      fc.property(
        offset,
        exchanges,
        fc.oneof(upTo(1_000), upTo(100_000_000)),
        fc.boolean(),
        exchange,
        (trueOffset, all, jump, back, last) => {
          const clock = new ServerClock();
          let now = 0;
          for (const each of all) {
            const sentAt = now + each.pause;
            now = sentAt + each.there + each.back;
            clock.observe(sentAt + each.there + trueOffset, sentAt, now);
          }
          const setTo = trueOffset + (back ? -jump : jump);
          const sentAt = now + last.pause;
          const receivedAt = sentAt + last.there + last.back;
          clock.observe(sentAt + last.there + setTo, sentAt, receivedAt);
          const error = clock.notAfter(receivedAt) - (receivedAt + setTo);
          // A jump of less than a round trip can't be told from a slow network; one that is larger is seen.
          const tolerated = last.there + last.back + EPSILON;
          expect(Math.abs(error)).toBeLessThanOrEqual(tolerated);
        },
      ),
    );
  });

  it('believes only the first reply of another server', () => {
    const clock = new ServerClock();
    clock.observe(1_000_000, 0, 1);
    clock.forget();
    clock.observe(5_000, 10, 20);
    expect(clock.notAfter(20)).toBe(5_000);
    clock.observe(5_020.5, 30, 31);
    expect(clock.notAfter(31)).toBe(5_020.5);
  });
});
