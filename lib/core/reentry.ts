import { Caller, type Deadlines, WaitingLine } from './waiting-line.js';

/**
 * The one place inside a held lock: a call below its holder may hold the same key again, on the same lease, one at
 * a time. Context is inherited by every call that the holder starts, also by those that run side by side; inheriting
 * isn't holding, so siblings take turns here.
 *
 * Who shares the key, shares this place as well.
 *
 *     free ──enter──▶ taken ──leave──▶ free, or the next in line
 *       └────────────────┴──end──▶ ended: the holder has released; who waits here competes like anyone
 */
export class Reentry {
  #taken = false;
  readonly #line: WaitingLine<ReentryCaller, ReentryOutcome>;

  constructor(
    deadlines: Deadlines,
    timedOut: (request: ReentryRequest) => unknown,
    private readonly shared = false,
  ) {
    this.#line = new WaitingLine(deadlines, { timedOut: ({ request }) => timedOut(request) });
  }

  /** Whether a call is inside, or waits to be. */
  get isTaken(): boolean {
    return this.#taken;
  }

  /** Called below a lock that's held at this very moment, so never after the end. */
  tryEnter(): 'entered' | 'busy' {
    if (this.shared) return 'entered';
    if (this.#taken) return 'busy';
    this.#taken = true;
    return 'entered';
  }

  /** @throws what `timedOut` makes, or the reason of the caller's signal. */
  async enter(request: ReentryRequest): Promise<ReentryOutcome> {
    const now = this.tryEnter();
    if (now !== 'busy') return now;
    const caller = new ReentryCaller(request);
    this.#line.join(caller);
    this.#line.watch(caller);
    return caller.promise;
  }

  leave(): void {
    const next = this.#line.first;
    if (next === undefined) this.#taken = false;
    else this.#line.serve(next, 'entered');
  }

  end(): void {
    this.#line.serveAll('ended');
  }

  refuse(
    which: (request: ReentryRequest) => boolean,
    error: (request: ReentryRequest) => unknown,
  ): void {
    this.#line.refuseWhere(
      ({ request }) => which(request),
      ({ request }) => error(request),
    );
  }
}

export type ReentryOutcome = 'entered' | 'ended';

export interface ReentryRequest {
  readonly key: string;
  /** Monotonic time of the call. */
  readonly since: number;
  /** Monotonic time at which the caller stops waiting. */
  readonly dueAt: number;
  readonly signal: AbortSignal | undefined;
  /** The keys that the call chain holds meanwhile. */
  readonly heldKeys: readonly string[];
}

class ReentryCaller extends Caller<ReentryOutcome> {
  constructor(readonly request: ReentryRequest) {
    super(request.dueAt, request.signal);
  }
}
