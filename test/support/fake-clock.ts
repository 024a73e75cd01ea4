/**
 * A clock that stands still until a test moves it, so that an hour of lease arithmetic takes no time and comes out the
 * same every run.
 *
 *     await clock.advance(500)   time passes: what falls due fires in order, each with the promises it settles
 *     clock.block(500)           the event loop is blocked: time passes, but no timer fires before the next `advance`
 */
import type { Clock, Timer } from '../../lib/core/clock.js';

export class FakeClock implements Clock {
  #now: number;
  readonly #timers = new Set<FakeTimer>();

  constructor(start = 1_000) {
    this.#now = start;
  }

  now(): number {
    return this.#now;
  }

  after(
    delay: number,
    callback: () => void,
    kind: 'foreground' | 'background' = 'foreground',
  ): Timer {
    if (!(delay < Number.POSITIVE_INFINITY)) throw new Error(`A timer of ${delay} ms.`);
    const timer = new FakeTimer(this.#now + Math.max(0, delay), callback, kind, (ended) =>
      this.#timers.delete(ended),
    );
    this.#timers.add(timer);
    return timer;
  }

  /** The timers that are set: how far away each is, the next first. */
  get pending(): readonly { readonly in: number; readonly kind: 'foreground' | 'background' }[] {
    return [...this.#timers]
      .toSorted((a, b) => a.at - b.at)
      .map(({ at, kind }) => ({ in: at - this.#now, kind }));
  }

  async advance(ms: number): Promise<void> {
    await settled();
    const end = this.#now + ms;
    for (let next = this.#firstUntil(end); next !== undefined; next = this.#firstUntil(end)) {
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.at);
      next.callback();
      await settled();
    }
    this.#now = Math.max(this.#now, end);
  }

  block(ms: number): void {
    this.#now += ms;
  }

  #firstUntil(end: number): FakeTimer | undefined {
    let first: FakeTimer | undefined;
    for (const timer of this.#timers) {
      if (timer.at <= end && (first === undefined || timer.at < first.at)) first = timer;
    }
    return first;
  }
}

/** Lets every promise that can settle by itself do so. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

class FakeTimer implements Timer {
  constructor(
    readonly at: number,
    readonly callback: () => void,
    public kind: 'foreground' | 'background',
    private readonly onEnd: (timer: FakeTimer) => void,
  ) {}

  cancel(): void {
    this.onEnd(this);
  }

  keepAlive(keep: boolean): void {
    this.kind = keep ? 'foreground' : 'background';
  }
}
