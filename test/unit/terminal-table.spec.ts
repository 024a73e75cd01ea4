/** How the command line shows things: tables that fit, texts that can do no harm, durations that can be read. */
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { readableDuration } from '../../lib/cli/readable-duration.js';
import { table } from '../../lib/cli/table.js';
import { cut, visible, widthOf } from '../../lib/cli/terminal-text.js';

describe('table', () => {
  const header = ['KEY', 'HELD BY', 'WAITING'];

  it('makes columns as wide as what they hold', () => {
    expect(
      table(
        header,
        [
          ['a', 'shop 1@h', '0'],
          ['order:42', '2@h', '12'],
        ],
        80,
      ),
    ).toEqual(['KEY       HELD BY   WAITING', 'a         shop 1@h  0', 'order:42  2@h       12']);
  });

  it('may have more rows than a call takes arguments', () => {
    const rows = Array.from({ length: 150_000 }, (_, n) => [String(n), 'h', '0']);
    expect(table(header, rows, 80).at(-1)).toBe('149999  h        0');
  });

  it('cuts the widest columns first, where there is no room', () => {
    const rows = [['a long key of an order', 'a holder', '1']];
    expect(table(header, rows, 30)).toEqual([
      'KEY          HELD BY   WAITING',
      'a long key…  a holder  1',
    ]);
    expect(table(header, rows, 22)).toEqual(['KEY     HELD …  WAITI…', 'a lon…  a hol…  1']);
  });

  it('never is wider than there is room for, whatever is in it', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 30 });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(text, text, text), { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 7, max: 60 }),
        (rows, room) => {
          for (const line of table(header, rows, room)) {
            expect(widthOf(line)).toBeLessThanOrEqual(room);
            expect(line).not.toMatch(/\p{Cc}/u);
          }
        },
      ),
    );
  });
});

describe('texts of a terminal', () => {
  it.each([
    ['plain ключ 名前', 'plain ключ 名前'],
    ['two\nlines', 'two\\u000alines'],
    ['\u001b[2Jgone', '\\u001b[2Jgone'],
    ['\u009b31m', '\\u009b31m'],
    ['\u2028', '\\u2028'],
    ['abc\u202edef', 'abc\\u202edef'],
  ])('%j is shown as %j', (text, shown) => {
    expect(visible(text)).toBe(shown);
  });

  it.each([
    ['', 0],
    ['abc', 3],
    ['ключ', 4],
    ['名前', 4],
    ['e\u0301', 1],
    ['🔒', 2],
    ['👩‍👩‍👧', 2],
  ])('%j takes %d cells', (text, width) => {
    expect(widthOf(text)).toBe(width);
  });

  it.each([
    ['abcdef', 6, 'abcdef'],
    ['abcdef', 4, 'abc…'],
    ['名前です', 5, '名前…'],
    ['名前です', 4, '名…'],
    ['abc', 1, '…'],
    ['abc', 0, ''],
  ])('%j in %d cells is %j', (text, width, shown) => {
    expect(cut(text, width)).toBe(shown);
  });
});

describe('readableDuration', () => {
  it.each([
    [-5, '0 ms'],
    [0, '0 ms'],
    [849.6, '850 ms'],
    [1_000, '1.0 s'],
    [12_345, '12.3 s'],
    [59_949, '59.9 s'],
    [59_960, '1 min'],
    [250_000, '4 min 10 s'],
    [3_599_900, '1 h'],
    [7_500_000, '2 h 5 min'],
    [86_400_000, '1 d'],
    [180_000_000, '2 d 2 h'],
  ])('%d ms are %s', (milliseconds, text) => {
    expect(readableDuration(milliseconds)).toBe(text);
  });
});
