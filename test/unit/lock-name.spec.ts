/** Two locks never share a Redis key, whatever their names are made of; names that can't be kept apart are refused. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { LockKeyError } from '../../lib/core/errors.js';
import { LockName, LONGEST_KEY_BYTES } from '../../lib/core/lock-name.js';

const keysOf = (prefix: string, key: string): string[] => {
  const { owner, queue, waiters } = LockName.of(prefix, key);
  return [owner, queue, waiters];
};

/** The key of the name, or why there's none. */
function made(text: string): unknown {
  try {
    return LockName.of('lock', text).key;
  } catch (error) {
    return error;
  }
}

/** Texts out of what could make two names alike: our separators, our escapes, our suffixes. */
const treacherous = fc
  .array(
    fc.oneof(
      fc.constantFrom('{', '}', ':', '%', '%7B', '%7D', '%25', '25', '7B', ':q', ':w', '}:q'),
      fc.constantFrom('lock', 'k', ' ', '\n', '\0', 'é', 'e\u0301', '🔒', '\u{10FFFF}', 'ключ'),
    ),
    { minLength: 1, maxLength: 12 },
  )
  .map((parts) => parts.join(''));
const anyText = fc.string({ minLength: 1, maxLength: 40, unit: 'binary' });
const key = fc.oneof(treacherous, anyText);
/** As the option `prefix` allows it. */
const prefix = key.map((text) => text.replace(/[{}\s]/g, '')).filter((text) => text !== '');

describe('LockName', () => {
  it('keeps the keys of a lock under one hash tag', () => {
    expect(keysOf('lock', 'stock:42')).toEqual([
      'lock:{stock:42}',
      'lock:{stock:42}:q',
      'lock:{stock:42}:w',
    ]);
    expect(LockName.of('lock', 'stock:42').key).toBe('stock:42');
  });

  it.each([
    ['{', 'lock:{%7B}'],
    ['}', 'lock:{%7D}'],
    ['{a}', 'lock:{%7Ba%7D}'],
    ['%', 'lock:{%25}'],
    ['%7B', 'lock:{%257B}'],
    [':', 'lock:{:}'],
    ['a b', 'lock:{a b}'],
    ['🔒 ключ', 'lock:{🔒 ключ}'],
  ])('writes the key %j as %j', (given, owner) => {
    expect(LockName.of('lock', given).owner).toBe(owner);
  });

  it('gives two different pairs of prefix and key no Redis key in common', () => {
    fc.assert(
      fc.property(prefix, key, prefix, key, (prefixA, keyA, prefixB, keyB) => {
        fc.pre(prefixA !== prefixB || keyA !== keyB);
        const a = new Set(keysOf(prefixA, keyA));
        expect(keysOf(prefixB, keyB).filter((each) => a.has(each))).toEqual([]);
      }),
      { numRuns: 5_000 },
    );
  });

  it('is found again by its owner key, and by no other', () => {
    fc.assert(
      fc.property(prefix, key, (givenPrefix, givenKey) => {
        const name = made(givenKey);
        fc.pre(typeof name === 'string');
        const { owner, queue } = LockName.of(givenPrefix, givenKey);
        expect(LockName.ofOwner(givenPrefix, owner)).toEqual(LockName.of(givenPrefix, givenKey));
        expect(LockName.ofOwner(`${givenPrefix}x`, owner)).toBeUndefined();
        expect(LockName.ofOwner(givenPrefix, queue)).toBeUndefined();
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    'lock:{}',
    'lock:{a}}',
    'lock:{{a}',
    'lock:{%}',
    'lock:{%7b}',
    'lock:{%41}',
    'lock:a',
    '{a}',
  ])('knows that %j is no owner key of its own making', (owner) => {
    expect(LockName.ofOwner('lock', owner)).toBeUndefined();
  });

  it('gives one name three different keys, with the whole key as the hash tag of each', () => {
    fc.assert(
      fc.property(prefix, key, (somePrefix, someKey) => {
        const keys = keysOf(somePrefix, someKey);
        expect(new Set(keys).size).toBe(3);
        // What a Cluster hashes: between the first brace and the next that closes.
        const tags = keys.map((each) => /\{(.*?)\}/s.exec(each)?.[1]);
        expect(new Set(tags).size).toBe(1);
        expect(tags[0]).not.toBe('');
        expect(decodeURIComponent((tags[0] as string).replace(/%(?!25|7B|7D)/g, '%25'))).toBe(
          someKey,
        );
      }),
      { numRuns: 2_000 },
    );
  });

  it('still keeps two keys apart that UTF-8 would write alike: they are refused', () => {
    for (const half of ['\uD83D', '\uDD12', 'a\uDD12\uD83D', 'k\uD800']) {
      expect(() => LockName.of('lock', half)).toThrow(LockKeyError);
      expect(() => LockName.of('lock', half)).toThrow('surrogate');
    }
    expect(LockName.of('lock', '\uD83D\uDD12').owner).toBe('lock:{🔒}');
  });

  it.each([
    ['512 bytes', 'x'.repeat(LONGEST_KEY_BYTES), true],
    ['513 bytes', 'x'.repeat(LONGEST_KEY_BYTES + 1), false],
    ['256 characters of 2 bytes', 'é'.repeat(256), true],
    ['257 characters of 2 bytes', 'é'.repeat(257), false],
    ['128 characters of 4 bytes', '🔒'.repeat(128), true],
    ['129 characters of 4 bytes', '🔒'.repeat(129), false],
    ['512 bytes that grow by escaping', '{'.repeat(512), true],
  ])('has at most 512 bytes: %s', (_what, text, allowed) => {
    const refusal = expect.objectContaining({
      constructor: LockKeyError,
      key: text,
      message: expect.stringMatching(/at most 512 bytes, got 51[346]\. Use an id or a hash/),
    });
    expect(made(text)).toEqual(allowed ? text : refusal);
  });

  it.each([
    ['an empty text', '', 'an empty one'],
    ['undefined', undefined, 'undefined'],
    ['null', null, 'null'],
    ['a number', 7, 'number'],
    ['an object', {}, 'object'],
    ['a String object', Object('k'), 'object'],
    ['an array', ['k'], 'object'],
    ['a symbol', Symbol('k'), 'symbol'],
  ])('is made from a non-empty string, not from %s', (_what, value, got) => {
    const make = () => LockName.of('lock', value as string);
    expect(make).toThrow(LockKeyError);
    expect(make).toThrow(`got ${got}`);
  });
});
