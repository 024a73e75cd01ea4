import { describe, expect, it } from '@jest/globals';
import { TokenSource } from '../../lib/core/token-source.js';

describe('TokenSource', () => {
  it('makes none twice, over many pools of randomness', () => {
    const source = new TokenSource();
    const tokens = Array.from({ length: 10_000 }, () => source.next());
    expect(new Set(tokens).size).toBe(10_000);
    for (const token of tokens) expect(token).toMatch(/^[\w-]{12}\.[\w-]{16}$/);
    expect(new Set(tokens.map((token) => token.split('.')[0])).size).toBe(1);
  });

  it('has another first half in each process', () => {
    const first = () => new TokenSource().next().split('.')[0];
    expect(new Set(Array.from({ length: 100 }, first)).size).toBe(100);
  });
});
