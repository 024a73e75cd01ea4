/** How far two clocks may run apart, as a part of the time that passes. */
const DRIFT = 0.001;

/**
 * What the server's clock shows, seen from this process: an interval for its offset from our monotonic clock. A reply
 * that carries server time `s`, to a command sent at `a` and answered at `b`, says that the offset is in
 * `[s - b, s - a]`; each reply narrows the interval, and time widens it.
 *
 * @see Keith Marzullo, Susan Owicki: Maintaining the Time in a Distributed System (1983)
 */
export class ServerClock {
  #low = 0;
  #high = 0;
  #observedAt: number | undefined;

  get known(): boolean {
    return this.#observedAt !== undefined;
  }

  observe(serverTime: number, sentAt: number, receivedAt: number): void {
    const low = serverTime - receivedAt;
    const high = serverTime - sentAt;
    const widening = this.#observedAt === undefined ? 0 : (receivedAt - this.#observedAt) * DRIFT;
    const narrowedLow = Math.max(low, this.#low - widening);
    const narrowedHigh = Math.min(high, this.#high + widening);
    // Nothing in common: the server's clock was set, so what was known before is worthless.
    const fits = this.#observedAt !== undefined && narrowedLow <= narrowedHigh;
    this.#low = fits ? narrowedLow : low;
    this.#high = fits ? narrowedHigh : high;
    this.#observedAt = receivedAt;
  }

  /** A server time that isn't after the given local time. Too early by the uncertainty, so that a late command isn't let in. */
  notAfter(localTime: number): number {
    const sinceObserved = Math.max(0, localTime - (this.#observedAt ?? localTime));
    return localTime + this.#low - sinceObserved * DRIFT;
  }

  /** A server time that isn't before the given local time: of one who began to wait then, so that it passes nobody. */
  notBefore(localTime: number): number {
    return localTime + this.#high + Math.abs(localTime - (this.#observedAt ?? localTime)) * DRIFT;
  }

  /** The server time that is most likely at the given local time. */
  estimate(localTime: number): number {
    return localTime + (this.#low + this.#high) / 2;
  }

  /** Another server may answer next. */
  forget(): void {
    this.#observedAt = undefined;
  }
}
