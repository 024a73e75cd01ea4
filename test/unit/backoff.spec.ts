/** Delays between tries: bounded, growing, and not in step with anybody else's. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Backoff } from '../../lib/core/backoff.js';

const settings = fc
  .tuple(fc.integer({ min: 1, max: 1_000 }), fc.integer({ min: 1, max: 100 }))
  .map(([first, factor]) => ({ first, longest: first * factor }));
const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

describe('Backoff', () => {
  it('stays between the first and the longest delay, whatever is drawn', () => {
    fc.assert(
      fc.property(settings, fc.array(draw, { minLength: 1 }), ({ first, longest }, draws) => {
        let turn = 0;
        const backoff = new Backoff(first, longest, () => draws[turn++ % draws.length] as number);
        for (let n = 0; n < 40; n += 1) {
          const delay = backoff.next();
          expect(delay).toBeGreaterThanOrEqual(first);
          expect(delay).toBeLessThanOrEqual(Math.min(longest, first + first * 2 ** n));
        }
      }),
    );
  });

  it('grows: with the largest draws, up to the longest', () => {
    const backoff = new Backoff(50, 1_000, () => 0.999_999);
    const delays = Array.from({ length: 8 }, () => Math.round(backoff.next()));
    expect(delays).toEqual([100, 150, 250, 450, 850, 1_000, 1_000, 1_000]);
  });

  it('spreads those who failed together over the whole range', () => {
    const delays = Array.from({ length: 500 }, () => {
      const backoff = new Backoff(10, 10_000);
      for (let n = 0; n < 5; n += 1) backoff.next();
      return backoff.next();
    });
    // The sixth: from 10 to 330 ms.
    expect(Math.min(...delays)).toBeLessThan(60);
    expect(Math.max(...delays)).toBeGreaterThan(280);
    expect(new Set(delays).size).toBeGreaterThan(450);
  });

  it('begins anew after reset()', () => {
    const backoff = new Backoff(50, 1_000, () => 0.5);
    const first = backoff.next();
    backoff.next();
    backoff.reset();
    expect(backoff.next()).toBe(first);
  });

  it('still gives numbers after a day of tries', () => {
    const backoff = new Backoff(20, 500, () => 0.5);
    for (let n = 0; n < 100_000; n += 1) backoff.next();
    expect(backoff.next()).toBeGreaterThan(0);
    expect(backoff.next()).toBeLessThanOrEqual(500);
  });
});
