import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { LockKeyError } from '../../lib/core/errors.js';
import { EVERY_KEY, KeyPattern } from '../../lib/core/key-pattern.js';

describe('KeyPattern', () => {
  it.each([
    ['*', 'anything, also {this}', true],
    ['order:*', 'order:', true],
    ['order:*', 'order:42', true],
    ['order:*', 'orders:42', false],
    ['*:42', 'order:42', true],
    ['*:42', 'order:42:items', false],
    ['order:?', 'order:4', true],
    ['order:?', 'order:', false],
    ['order:?', 'order:42', false],
    ['?', '👍', true],
    ['??', '👍', false],
    ['?*', 'a', true],
    ['a**b', 'ab', true],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'a-c-b', false],
    ['a.c', 'abc', false],
    ['[ab]', 'a', false],
    ['[ab]', '[ab]', true],
    ['\\*', '*', true],
    ['\\*', 'a', false],
    ['a\\\\b', 'a\\b', true],
    ['\\a', 'a', true],
    ['Order', 'order', false],
    ['two\nlines', 'two\nlines', true],
    ['*s', 'two\nlines', true],
  ])('%j on %j: %s', (pattern, key, matches) => {
    expect(KeyPattern.of(pattern).matches(key)).toBe(matches);
  });

  it.each([
    ['order:42', 'order:42', 'order:42', ''],
    ['order\\?', 'order?', 'order?', ''],
    ['order:*', undefined, 'order:', ''],
    ['a?b*c?d', undefined, 'a', 'd'],
    ['*', undefined, '', ''],
  ])('knows of %j that it is exactly %j, or begins with %j and ends with %j', (...row) => {
    const [pattern, exact, head, tail] = row;
    expect(KeyPattern.of(pattern)).toMatchObject({ exact, head, tail });
  });

  it.each([
    ['', 'empty'],
    [null, 'null'],
    [7, 'number'],
    ['\\', 'backslash'],
    ['\ud800', 'Unicode'],
  ])('refuses %j and says why', (pattern, why) => {
    expect(() => KeyPattern.of(pattern as string)).toThrow(LockKeyError);
    expect(() => KeyPattern.of(pattern as string)).toThrow(why);
  });

  it('refuses one that is longer than any key', () => {
    expect(() => KeyPattern.of('é'.repeat(256))).not.toThrow();
    expect(() => KeyPattern.of('é'.repeat(257))).toThrow('512 bytes');
  });

  it('takes no longer for a pattern made to be slow', () => {
    const start = performance.now();
    expect(KeyPattern.of('*a'.repeat(200) + '*b').matches('a'.repeat(512))).toBe(false);
    expect(performance.now() - start).toBeLessThan(200);
  });

  it('agrees with a regular expression', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?', '👍'), maxLength: 8 });
    fc.assert(
      fc.property(text, text, (pattern, key) => {
        fc.pre(pattern !== '');
        const expression = Array.from(pattern, (character) =>
          character === '*' ? '[^]*' : character === '?' ? '[^]' : character,
        ).join('');
        expect(KeyPattern.of(pattern).matches(key)).toBe(
          new RegExp(`^${expression}$`, 'u').test(key),
        );
      }),
    );
  });

  it('has one for every key', () => {
    expect(EVERY_KEY.matches('any')).toBe(true);
  });
});
