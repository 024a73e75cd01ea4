import { describe, expect, it } from '@jest/globals';

import { HASH_SLOTS, hashSlotOf, tagOfSlot } from '../../lib/core/redis/hash-slot.js';

describe('hashSlotOf', () => {
  // What CLUSTER KEYSLOT of a real server answers.
  it('has a tag for each slot, the same in every order of asking', () => {
    for (const slot of [16_383, 0, 5_000])
      expect(hashSlotOf(`lock:{${tagOfSlot(slot)}}`)).toBe(slot);
    const tags = Array.from({ length: HASH_SLOTS }, (_, slot) => tagOfSlot(slot));
    expect(tags.map(hashSlotOf)).toEqual(tags.map((_, slot) => slot));
    expect(tags[16_383]).toBe(tagOfSlot(16_383));
  });

  it.each([
    ['', 0],
    ['123456789', 12739],
    ['foo', 12182],
    ['lock:{foo}', 12182],
    ['lock:{foo}:q', 12182],
    ['{}foo', 9500],
    ['foo{}{bar}', 8363],
    ['foo{{bar}}zap', 4015],
    ['foo{bar}{zap}', 5061],
    ['ключ🔒', 2324],
  ])('%j is in slot %i', (key, slot) => {
    expect(hashSlotOf(key)).toBe(slot);
  });
});
