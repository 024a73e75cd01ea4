/** What reads as a length of time, and what doesn't. */
import { describe, expect, it } from '@jest/globals';
import { millisecondsOf } from '../../lib/core/duration.js';

describe('millisecondsOf', () => {
  it.each([
    [0, 0],
    [1, 1],
    [1.5, 1.5],
    [-7, -7],
    ['500ms', 500],
    ['30s', 30_000],
    ['1.5s', 1_500],
    ['.5s', 500],
    ['5m', 300_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['2 hours', 7_200_000],
    ['10S', 10_000],
    ['-5s', -5_000],
    ['0s', 0],
  ])('reads %j as %d ms', (value, milliseconds) => {
    expect(millisecondsOf(value)).toBe(milliseconds);
  });

  it.each([
    ['NaN', Number.NaN],
    ['Infinity', Number.POSITIVE_INFINITY],
    ['-Infinity', Number.NEGATIVE_INFINITY],
    ['undefined', undefined],
    ['null', null],
    ['true', true],
    ['a bigint', 10n],
    ['an object', {}],
    ['a Date', new Date()],
    ['an array', [10]],
    ['an empty text', ''],
    ['a text without a unit', '10'],
    ['a text without a number', 's'],
    ['another unit', '10 parsecs'],
    ['two units', '1m30s'],
    ['two points', '1..5s'],
    ['a leading space', ' 10s'],
    ['a trailing space', '10s '],
    ['two lines', '10s\n'],
    ['hexadecimal', '0x10s'],
    ['an exponent', '1e3s'],
    ['something endless', `${'9'.repeat(400)}s`],
  ])('refuses %s', (_what, value) => {
    expect(millisecondsOf(value)).toBeUndefined();
  });
});
