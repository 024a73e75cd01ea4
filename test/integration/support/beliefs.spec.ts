import { describe, expect, it } from '@jest/globals';
import { type Belief, contradictions } from './beliefs.js';

describe('contradictions', () => {
  const belief = (from: number, to: number, fencingToken: number, key = 'k'): Belief => ({
    key,
    fencingToken,
    from,
    to,
  });

  it.each([
    { what: 'one after the other', beliefs: [belief(0, 5, 1), belief(6, 9, 2)], found: 0 },
    { what: 'told in another order', beliefs: [belief(6, 9, 2), belief(0, 5, 1)], found: 0 },
    { what: 'on different keys', beliefs: [belief(0, 5, 1), belief(1, 4, 1, 'other')], found: 0 },
    { what: 'two at a time', beliefs: [belief(0, 5, 1), belief(4, 9, 2)], found: 1 },
    { what: 'one within another', beliefs: [belief(0, 9, 1), belief(1, 2, 2)], found: 1 },
    {
      what: 'a long one and two later ones within it',
      beliefs: [belief(0, 9, 1), belief(1, 2, 2), belief(5, 6, 3)],
      found: 2,
    },
    { what: 'an equal token', beliefs: [belief(0, 5, 1), belief(6, 9, 1)], found: 1 },
    { what: 'a smaller token', beliefs: [belief(0, 5, 2), belief(6, 9, 1)], found: 1 },
  ])('$what: $found', ({ beliefs, found }) => {
    expect(contradictions(beliefs)).toHaveLength(found);
  });
});
