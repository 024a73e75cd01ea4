import type { Locker } from '../../../lib/core/locker.js';
import { LockError, LockUnavailableError } from '../../../lib/core/errors.js';

/** A call that took a lock and gave it back, or failed. All times are `performance.now()`. */
export interface Round {
  readonly from: number;
  readonly to: number;
  readonly fencingToken: number | undefined;
  readonly error: unknown;
}

/**
 * A caller that takes a lock and gives it back, over and over, while something happens to the servers: how long did
 * nobody get a lock, and what were they told?
 */
export class Patrol {
  readonly rounds: Round[] = [];
  #ended = false;
  readonly #walk: Promise<void>;

  constructor(
    private readonly locker: Locker,
    private readonly key: string,
  ) {
    this.#walk = this.#untilEnded();
  }

  /** Ends with the round that is under way. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.#walk;
  }

  /** Whether a lock was taken by a call that began at or after this time. */
  hasSucceededSince(time: number): boolean {
    return this.rounds.some(({ from, error }) => error === undefined && from >= time);
  }

  get failures(): readonly Round[] {
    return this.rounds.filter(({ error }) => error !== undefined);
  }

  /** What the failures said: how often each, by code, reason and the cause's message. */
  get complaints(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { error } of this.failures) {
      const said = complaintOf(error);
      counts[said] = (counts[said] ?? 0) + 1;
    }
    return counts;
  }

  get longestCall(): number {
    return Math.max(0, ...this.rounds.map(({ from, to }) => to - from));
  }

  /** The longest time without a success, in ms. */
  get longestGap(): number {
    let [longest, last] = [0, this.rounds[0]?.from ?? 0];
    for (const { to, error } of this.rounds) {
      if (error !== undefined) continue;
      longest = Math.max(longest, to - last);
      last = to;
    }
    return longest;
  }

  /** How long after `time` the first lock was taken by a call that began after it, in ms. */
  recoveredAfter(time: number): number {
    const first = this.rounds.find(({ from, error }) => error === undefined && from >= time);
    return first === undefined ? Number.POSITIVE_INFINITY : first.to - time;
  }

  get fencingTokens(): readonly number[] {
    return this.rounds.flatMap(({ fencingToken }) => fencingToken ?? []);
  }

  async #untilEnded(): Promise<void> {
    while (!this.#ended) {
      const from = performance.now();
      try {
        const lock = await this.locker.acquire(this.key);
        const to = performance.now();
        await lock.release();
        this.rounds.push({ from, to, fencingToken: lock.fencingToken, error: undefined });
      } catch (error) {
        this.rounds.push({ from, to: performance.now(), fencingToken: undefined, error });
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

function complaintOf(error: unknown): string {
  if (!LockError.is(error)) return String(error);
  const { code, cause } = error;
  const reason = code === 'LOCK_UNAVAILABLE' ? (error as LockUnavailableError).reason : '';
  return `${code} ${reason}: ${(cause as Error | undefined)?.message ?? 'no cause'}`;
}
