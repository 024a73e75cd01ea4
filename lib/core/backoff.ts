/**
 * Delays between tries: exponential with full jitter, bounded. Each is drawn from `[0, min(longest, first * 2^n)]`
 * plus `first`, so that callers who failed together don't come back together.
 *
 * @see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export class Backoff {
  #tries = 0;

  constructor(
    private readonly first: number,
    private readonly longest: number,
    private readonly random: () => number = Math.random,
  ) {}

  /** The next delay in ms. */
  next(): number {
    const ceiling = Math.min(this.longest, this.first * 2 ** this.#tries);
    // Counting on beyond the bound would overflow the power after a day of tries.
    if (ceiling < this.longest) this.#tries += 1;
    return Math.min(this.longest, this.first + this.random() * ceiling);
  }

  reset(): void {
    this.#tries = 0;
  }
}
