import { describe, expect, it } from '@jest/globals';

import { hashSlotOf } from '../../lib/core/redis/hash-slot.js';

describe('hashSlotOf', () => {
  // What CLUSTER KEYSLOT of a real server answers.
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
