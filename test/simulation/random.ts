/**
 * Numbers that depend on a seed alone. Each part of a simulation draws from a stream of its own, named by a path, so that
 * what one part draws more or less of doesn't change what the others get.
 */
export class Random {
  #state: number;

  private constructor(state: number) {
    this.#state = state;
  }

  static of(seed: number, ...path: (string | number)[]): Random {
    let state = 0x811c9dc5;
    for (const character of `${seed}/${path.join('/')}`) {
      state = Math.imul(state ^ (character.codePointAt(0) as number), 0x01000193);
    }
    return new Random(state >>> 0);
  }

  /** From 0 to 1, the latter excluded: mulberry32, small and good enough. */
  readonly next = (): number => {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };

  between(from: number, to: number): number {
    return from + this.next() * (to - from);
  }

  /** A whole number, both ends included. */
  whole(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.next() * from.length)] as T;
  }
}
