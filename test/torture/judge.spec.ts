import { describe, expect, it } from '@jest/globals';
import type { Entry } from './journal.js';
import { type Evidence, INVARIANTS, judge } from './judge.js';

const calm: Evidence = {
  journals: new Map(),
  faults: [],
  writes: { accepted: 0, stale: 0, rejected: 0 },
  remains: [],
  unended: [],
  bounds: { acquire: 1_000, release: 500 },
};

function hold(
  id: string,
  from: number,
  to: number,
  { fence, key = 'k' }: { fence?: number; key?: string } = {},
): Entry[] {
  return [
    { what: 'held', id, key, fence, since: from, at: from },
    { what: 'ended', id, at: to },
  ];
}

function ended(call: 'acquire' | 'release', took: number, stalled = false): Entry {
  return { what: 'call', call, outcome: 'granted', at: 0, took, stalled };
}

function told(id: string, at: number, more: { reason?: string; late?: number } = {}): Entry {
  return { what: 'told', id, at, reason: 'expired', late: 0, ...more };
}

/** What is broken, and how often. */
function found(...journals: Entry[][]): Record<string, number> {
  return foundIn({ ...calm, journals: new Map(journals.map((each, n) => [`p${n}`, each])) });
}

function foundIn(evidence: Evidence): Record<string, number> {
  const { violations } = judge(evidence);
  return Object.fromEntries(
    INVARIANTS.map((invariant) => [invariant, violations[invariant].length] as const).filter(
      ([, count]) => count > 0,
    ),
  );
}

describe('the judge finds', () => {
  it.each([
    {
      what: 'nothing where one follows the other',
      journals: [hold('a', 0, 5, { fence: 1 }), hold('b', 6, 9, { fence: 2 })],
      is: {},
    },
    {
      what: 'nothing on different keys',
      journals: [hold('a', 0, 5), hold('b', 1, 4, { key: 'other' })],
      is: {},
    },
    { what: 'two at a time', journals: [hold('a', 0, 5), hold('b', 4, 9)], is: { I1: 1 } },
    {
      what: 'two at a time, of which one was killed before it wrote an end',
      journals: [
        [
          { what: 'held', id: 'a', key: 'k', fence: undefined, since: 0, at: 0 },
          { what: 'still', id: 'a', at: 7 },
        ] satisfies Entry[],
        hold('b', 6, 9),
      ],
      is: { I1: 1 },
    },
    {
      what: 'a fencing token that falls',
      journals: [hold('a', 0, 5, { fence: 2 }), hold('b', 6, 9, { fence: 1 })],
      is: { I2: 1 },
    },
    {
      what: 'a fencing token that is given twice',
      journals: [hold('a', 0, 5, { fence: 1 }), hold('b', 6, 9, { fence: 1 })],
      is: { I2: 1 },
    },
    {
      what: 'a lock that was taken from its holder',
      journals: [[...hold('a', 0, 5), told('a', 6, { reason: 'taken' })]],
      is: { I4: 1 },
    },
    {
      what: 'nothing in a lock that has expired',
      journals: [[...hold('a', 0, 5), told('a', 6)]],
      is: {},
    },
    {
      what: 'a loss that is told after another holds the key',
      journals: [[...hold('a', 0, 5), told('a', 20)], hold('b', 10, 30)],
      is: { I9: 1 },
    },
    {
      what: 'nothing in a loss that is told late by a late event loop',
      journals: [[...hold('a', 0, 5), told('a', 20, { late: 9 })], hold('b', 10, 30)],
      is: {},
    },
    { what: 'a call beyond its bound', journals: [[ended('acquire', 1_001)]], is: { I7: 1 } },
    { what: 'a release beyond its bound', journals: [[ended('release', 501)]], is: { I7: 1 } },
    {
      what: 'nothing in a call whose process stood still',
      journals: [[ended('acquire', 1_001, true)]],
      is: {},
    },
    {
      what: 'an error that escaped',
      journals: [[{ what: 'unhandled', error: 'Error', at: 1 } satisfies Entry]],
      is: { I10: 1 },
    },
  ])('$what', ({ journals, is }) => {
    expect(found(...journals)).toEqual(is);
  });

  it('stale writes, keys that are left, processes that did not end', () => {
    expect(
      foundIn({
        ...calm,
        writes: { accepted: 9, stale: 2, rejected: 1 },
        remains: ['lock:{k}'],
        unended: ['p1'],
      }),
    ).toEqual({ I3: 2, I5: 1, I10: 1 });
  });
});

describe('the judge measures', () => {
  it('from a crash to the next holder, of keys that the killed process held', () => {
    const { afterCrash, grants } = judge({
      ...calm,
      journals: new Map([
        [
          'p0',
          [
            ...hold('ended', 0, 5, { key: 'other' }),
            { what: 'held', id: 'a', key: 'k', fence: 1, since: 0, at: 10 },
            { what: 'still', id: 'a', at: 90 },
          ],
        ],
        ['p1', [...hold('b', 400, 500), ...hold('c', 50, 60, { key: 'other' })]],
      ]),
      faults: [{ name: 'killed', at: 100, killed: 'p0' }],
    });
    expect(afterCrash).toEqual([300]);
    expect(grants).toBe(4);
  });

  it('from the return of the server to the next holder of another process', () => {
    const { afterOutage } = judge({
      ...calm,
      journals: new Map([
        ['p0', [...hold('a', 0, 90), ...hold('handed over', 110, 120)]],
        ['p1', hold('b', 150, 160)],
      ]),
      faults: [{ name: 'restarted', at: 80, back: 100 }],
    });
    expect(afterOutage).toEqual([50]);
  });
});
