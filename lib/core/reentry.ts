import type { Clock } from './clock.js';
import { WaitingLine, type WaitRequest } from './waiting-line.js';

/**
 * The one place inside a held lock: a call below its holder may hold the same key again, on the same lease, one at
 * a time. Context is inherited by every call that the holder starts, also by those that run side by side; inheriting
 * isn't holding, so siblings take turns here.
 *
 *     free ──enter──▶ taken ──leave──▶ free, or the next in line
 *       └────────────────┴──end──▶ ended: the holder has released; who waits here competes like anyone
 */
export class Reentry<R extends WaitRequest> {
  #taken = false;
  #ended = false;
  readonly #line: WaitingLine<ReentryOutcome, R>;

  constructor(clock: Clock, timedOut: (request: R) => unknown) {
    this.#line = new WaitingLine(clock, timedOut);
  }

  tryEnter(): ReentryOutcome | 'busy' {
    if (this.#ended) return 'ended';
    if (this.#taken) return 'busy';
    this.#taken = true;
    return 'entered';
  }

  /** @throws what `timedOut` makes, or the reason of the caller's signal. */
  async enter(request: R): Promise<ReentryOutcome> {
    const now = this.tryEnter();
    if (now !== 'busy') return now;
    const caller = this.#line.join(request);
    this.#line.watch(caller);
    return caller.promise;
  }

  leave(): void {
    const next = this.#line.first;
    if (next === undefined) this.#taken = false;
    else this.#line.serve(next, 'entered');
  }

  end(): void {
    this.#ended = true;
    this.#line.serveAll('ended');
  }

  refuse(which: (request: R) => boolean, error: (request: R) => unknown): void {
    this.#line.refuseWhere(which, error);
  }
}

export type ReentryOutcome = 'entered' | 'ended';
