import { performance } from 'node:perf_hooks';

/**
 * Time as this process sees it. Every client-side time of the library is monotonic and comes from here; wall clocks
 * jump, and a lock that trusts one is held too long after the jump. Tests and simulations bring their own.
 */
export interface Clock {
  /** Monotonic milliseconds, with fractions, from an arbitrary start. */
  now(): number;
  /** Calls back once after at least `delay` ms. `background` timers don't keep the process alive. */
  after(delay: number, callback: () => void, kind?: 'foreground' | 'background'): Timer;
}

export interface Timer {
  cancel(): void;
  /** Whether the process lives at least until it has called back. */
  keepAlive(keep: boolean): void;
}

class SystemTimer implements Timer {
  readonly #timeout: NodeJS.Timeout;

  constructor(delay: number, callback: () => void, kind: 'foreground' | 'background') {
    this.#timeout = setTimeout(callback, delay);
    if (kind === 'background') this.#timeout.unref();
  }

  cancel(): void {
    clearTimeout(this.#timeout);
  }

  keepAlive(keep: boolean): void {
    if (keep) this.#timeout.ref();
    else this.#timeout.unref();
  }
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (delay, callback, kind = 'foreground') =>
    new SystemTimer(Math.max(0, delay), callback, kind),
};
