/**
 * The list of mutations is up to date: each line is where it's said to be. (What they are for: `npm run mutate`, which takes
 * longer than a test may.)
 */
import { existsSync, readFileSync } from 'node:fs';

import { describe, expect, it } from '@jest/globals';

import { mutated, mutations } from './mutations.mjs';

describe('Each mutation', () => {
  it.each(mutations)('$name', (mutation) => {
    const text = readFileSync(mutation.file, 'utf8');
    expect(mutated(mutation, text)).not.toBe(text);
    expect(existsSync(mutation.test.spec)).toBe(true);
  });

  it('has a name of its own', () => {
    expect(new Set(mutations.map(({ name }) => name)).size).toBe(mutations.length);
  });
});
