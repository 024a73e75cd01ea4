/** The options of `runOnce`: what they may be, what they become, and how a wrong one is told. */
import { describe, expect, it } from '@jest/globals';
import { LockConfigError } from '../../lib/core/errors.js';
import { resolveLockOptions } from '../../lib/core/options.js';
import { resolveRunOnceOptions, type RunOnceOptions } from '../../lib/core/run-options.js';

const DAY = 86_400_000;

describe('resolveRunOnceOptions', () => {
  it('fills in the defaults', () => {
    expect(resolveRunOnceOptions({ per: '1m' })).toEqual({
      per: 60_000,
      at: undefined,
      overlap: 'skip',
      retryCrashed: false,
      keep: 10,
      retain: DAY,
      ttl: 10_000,
      maxHold: Number.POSITIVE_INFINITY,
      prefix: 'lock',
    });
  });

  it("takes the locker's for what every lock has", () => {
    const defaults = resolveLockOptions({ ttl: '20s', maxHold: '1h', prefix: 'shop' });
    expect(resolveRunOnceOptions({ per: '1m' }, defaults)).toMatchObject({
      ttl: 20_000,
      maxHold: 3_600_000,
      prefix: 'shop',
    });
    expect(
      resolveRunOnceOptions({ per: '1m', ttl: '1s', maxHold: '2s', prefix: 'other' }, defaults),
    ).toMatchObject({ ttl: 1_000, maxHold: 2_000, prefix: 'other' });
  });

  it.each<[RunOnceOptions, Partial<Record<keyof RunOnceOptions, unknown>>]>([
    [{ per: '1s' }, { per: 1_000, ttl: 500, retain: DAY }],
    [{ per: '5s' }, { ttl: 2_500 }],
    [{ per: '3h' }, { retain: 30 * 3_600_000 }],
    [{ per: '30d' }, { per: 30 * DAY, retain: 300 * DAY }],
    [{ per: '1m', retain: '2m' }, { retain: 120_000 }],
    [{ per: '1m', retain: '366d' }, { retain: 366 * DAY }],
    [{ per: '1m', ttl: '5m' }, { ttl: 300_000 }],
    [
      { per: '1m', ttl: '59s', retryCrashed: true },
      { ttl: 59_000, retryCrashed: true },
    ],
    [
      { per: '1m', keep: 1_000, overlap: 'run' },
      { keep: 1_000, overlap: 'run' },
    ],
    [{ per: '1m', at: new Date(7) }, { at: new Date(7) }],
  ])('%p', (given, resolved) => {
    expect(resolveRunOnceOptions(given)).toMatchObject(resolved);
  });

  it.each<[unknown, string | undefined, RegExp]>([
    [undefined, undefined, /an object/],
    [null, undefined, /an object/],
    ['1m', undefined, /an object/],
    [{}, 'per', /per: '1m'/],
    [{ per: 999 }, 'per', /from 1000 ms/],
    [{ per: '367d' }, 'per', /to 31622400000 ms/],
    [{ per: '* * * * *' }, 'per', /a duration/],
    [{ per: '1m', every: 1 }, 'every', /Unknown option `every`.*per, at, overlap/],
    [{ per: '1m', onBusy: 'skip' }, 'onBusy', /Unknown option/],
    [{ per: '1m', holdAtLeast: '5s' }, 'holdAtLeast', /Unknown option/],
    [{ per: '1m', at: Date.now() }, 'at', /a valid Date/],
    [{ per: '1m', at: new Date('x') }, 'at', /a valid Date/],
    [{ per: '1m', overlap: 'wait' }, 'overlap', /'skip', 'run'/],
    [{ per: '1m', retryCrashed: 1 }, 'retryCrashed', /true or false/],
    [{ per: '1m', keep: 0 }, 'keep', /from 1 to 1000/],
    [{ per: '1m', keep: 1.5 }, 'keep', /from 1 to 1000/],
    [{ per: '1m', keep: 1_001 }, 'keep', /from 1 to 1000/],
    [{ per: '1m', retain: '1s' }, 'retain', /from 2000 ms/],
    [{ per: '1m', retain: '119s' }, 'retain', /two periods, 120000 ms/],
    [{ per: '1m', ttl: 99 }, 'ttl', /from 100 ms/],
    [{ per: '1m', ttl: '1m', retryCrashed: true }, 'ttl', /less than `per`.*A crash is noticed/],
    [{ per: '1m', maxHold: 0 }, 'maxHold', /a duration/],
    [{ per: '1m', prefix: 'a b' }, 'prefix', /without braces/],
    [{ per: '1m', prefix: 'x'.repeat(101) }, 'prefix', /at most 100 characters/],
  ])('refuses %p', (given, option, message) => {
    let error: unknown;
    try {
      resolveRunOnceOptions(given as RunOnceOptions);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(LockConfigError);
    expect(error).toMatchObject({ option, message: expect.stringMatching(message) });
  });
});
