import { describe, expect, it } from '@jest/globals';
import type { Entry } from './journal.js';
import { type Evidence, INVARIANTS, judge } from './judge.js';
import type { Step } from './steps.js';

const calm: Evidence = {
  journals: new Map(),
  faults: [],
  writes: { accepted: 0, stale: 0, rejected: 0 },
  remains: [],
  unended: [],
  ttl: 100,
  bounds: { acquire: 1_000, release: 500 },
};

function hold(
  id: string,
  from: number,
  to: number,
  { fence, key = 'k' }: { fence?: number; key?: string } = {},
): Entry[] {
  return [
    { what: 'held', id, ask: `${id}?`, key, fence, at: from },
    { what: 'ended', id, at: to },
  ];
}

/** A caller who asked, and was answered after so long. */
function waited(ask: string, at: number, took: number, stalled = false): Entry[] {
  return [
    { what: 'asked', ask, key: 'k', at },
    { what: 'call', call: 'acquire', ask, outcome: 'granted', at, took, stalled },
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
          { what: 'held', id: 'a', ask: 'a?', key: 'k', fence: undefined, at: 0 },
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
      what: 'one that is served before another who waited for long',
      journals: [
        [...waited('a?', 500, 100), ...hold('a', 600, 610)],
        [...waited('b?', 0, 700), ...hold('b', 700, 710)],
      ],
      is: { I6: 1 },
    },
    {
      what: 'nothing in one who comes first, but stood still',
      journals: [
        [...waited('a?', 500, 100), ...hold('a', 600, 610)],
        [...waited('b?', 0, 700, true), ...hold('b', 700, 710)],
      ],
      is: {},
    },
    {
      what: 'nothing in one who comes later, but has its place from a caller of its process',
      journals: [
        [
          { what: 'asked', ask: 'c?', key: 'k', at: 50 },
          {
            what: 'call',
            call: 'acquire',
            ask: 'c?',
            outcome: 'busy',
            at: 50,
            took: 500,
            stalled: false,
          },
          ...[...waited('a?', 540, 60), ...hold('a', 600, 610)],
        ] satisfies Entry[],
        [...waited('b?', 100, 600), ...hold('b', 700, 710)],
      ],
      is: {},
    },
    {
      what: 'nothing in one who comes a moment later',
      journals: [
        [...waited('a?', 200, 100), ...hold('a', 300, 310)],
        [...waited('b?', 0, 400), ...hold('b', 400, 410)],
      ],
      is: {},
    },
    {
      what: 'nothing in what a process that stands before others hands over to its own',
      journals: [
        [
          ...[...waited('a?', 0, 600), ...hold('a', 600, 610)],
          ...[...waited('c?', 500, 110), ...hold('c', 611, 620)],
        ],
        [...waited('b?', 10, 690), ...hold('b', 700, 710)],
      ],
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

describe('the judge finds of a limit', () => {
  it.each([
    { limit: 2, is: { I8: 1 } },
    { limit: 3, is: {} },
  ])('of $limit who holds it beyond that', ({ limit, is }) => {
    const journals = new Map([
      ['p0', [...hold('a', 0, 5), ...hold('b', 1, 5)]],
      ['p1', [...hold('c', 2, 5), ...hold('d', 6, 9)]],
    ]);
    expect(foundIn({ ...calm, journals, limit })).toEqual(is);
  });
});

describe('the judge finds in the fencing tokens of a limit', () => {
  it.each([
    { what: 'nothing in one who had asked before', asked: 5, is: {} },
    { what: 'one that falls', asked: 15, is: { I2: 1 } },
  ])('$what', ({ asked, is }) => {
    const journals = new Map([
      ['p0', hold('a', 10, 50, { fence: 9 })],
      ['p1', [...waited('b?', asked, 20), ...hold('b', asked + 20, 60, { fence: 8 })]],
    ]);
    expect(foundIn({ ...calm, journals, limit: 2 })).toEqual(is);
  });
});

describe('the judge finds of a partition', () => {
  const cut = { name: 'cut off', at: 0, until: 1_000, cutOff: 'p0' };

  it.each([
    { what: 'nothing in what was held before', from: 50, is: {} },
    { what: 'what is granted by a minority', from: 101, is: { I1: 1 } },
  ])('$what', ({ from, is }) => {
    const journals = new Map([['p0', hold('a', from, from + 20)]]);
    expect(foundIn({ ...calm, journals, faults: [cut] })).toEqual(is);
  });

  it('how many others were granted meanwhile', () => {
    const journals = new Map([['p1', [...hold('a', 10, 20), ...hold('b', 1_100, 1_200)]]]);
    const { partitions } = judge({ ...calm, journals, faults: [cut] });
    expect(partitions).toEqual({ count: 1, grantsOfOthers: 1 });
  });
});

describe('the judge measures', () => {
  it('in which steps processes were struck, where they were in it', () => {
    const struck = (step: Step, at: number) => ({ name: 'killed', step, at, killed: 'p0' });
    const { steps } = judge({
      ...calm,
      journals: new Map([['p0', [...waited('a?', 0, 10), ...hold('a', 10, 50)]]]),
      faults: [
        struck('holding', 30),
        struck('holding', 90),
        struck('waiting in the queue', 5),
        struck('waiting in the queue', 20),
        struck('release sent', 50),
      ],
    });
    expect(steps).toEqual({ holding: 1, 'waiting in the queue': 1, 'release sent': 1 });
  });

  it('from a crash to the next holder, of keys that the killed process held', () => {
    const { afterCrash, grants } = judge({
      ...calm,
      journals: new Map([
        [
          'p0',
          [
            ...hold('ended', 0, 5, { key: 'other' }),
            { what: 'held', id: 'a', ask: 'a?', key: 'k', fence: 1, at: 10 },
            { what: 'still', id: 'a', at: 90 },
          ],
        ],
        [
          'p1',
          [
            ...waited('b?', 150, 250),
            ...hold('b', 400, 500),
            ...hold('c', 50, 60, { key: 'other' }),
          ],
        ],
      ]),
      faults: [{ name: 'killed', at: 100, killed: 'p0' }],
    });
    // It was asked for only 50 ms after the crash.
    expect(afterCrash).toEqual([250]);
    expect(grants).toBe(4);
  });

  it('for how long, after the return of the server, nobody held what was asked for', () => {
    const { afterOutage } = judge({
      ...calm,
      journals: new Map([
        ['p0', [...hold('a', 0, 110)]],
        [
          'p1',
          [
            // Not yet given up when the first was over; nobody asked for long.
            ...[...waited('b?', 90, 60), ...hold('b', 150, 160)],
            ...[...waited('c?', 500, 50), ...hold('c', 550, 560)],
          ],
        ],
      ]),
      faults: [
        { name: 'restarted', at: 80, back: 100 },
        { name: 'restarted', at: 170, back: 180 },
      ],
    });
    expect(afterOutage.map((each) => Math.round(each))).toEqual([40, 50]);
  });
});
