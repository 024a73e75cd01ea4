import { Backoff } from './backoff.js';
import type {
  CancelRequest,
  HeldToken,
  LockBackend,
  ReleaseRequest,
} from './backend/lock-backend.js';
import type { Clock, Timer } from './clock.js';
import type { LockName } from './lock-name.js';

/** Our idea of the server's clock may be off by about this much, in ms. */
const CLOCK_MARGIN = 50;
const FIRST_RETRY = 50;
const LONGEST_RETRY = 1_000;

/**
 * Undoes, behind the caller's back, what a token may have left at the backend: an acquire whose outcome is unknown,
 * a place in the queue that's no longer wanted, a release that failed, a lease that was lost, a run that never began.
 *
 * Each is tried until it succeeds or until the key would have expired anyway; no caller can cancel it. Where the
 * command it follows may still be on its way (over another connection, so in any order), it's done once more when
 * that command would be refused as late: whatever it did in between is undone by then.
 */
export class CleanUp {
  readonly #running = new Set<Promise<void>>();
  readonly #pauses = new Set<() => void>();
  #closing = false;

  constructor(
    private readonly backend: LockBackend,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {}

  /** How many are under way. */
  get size(): number {
    return this.#running.size;
  }

  /** `refusedAfter`: monotonic time from which on a command in doubt would be refused; leave it out where none is. */
  cancel(held: HeldToken & CancelRequest, refusedAfter?: number): void {
    void this.#start(() => this.backend.cancel(held), held.ttl, settledAfter(refusedAfter));
  }

  /** Goes on with a release that failed. Unlike a cancel, it keeps the key for what is left of `holdAtLeast`. Resolves at the end. */
  release(request: () => ReleaseRequest): Promise<void> {
    const send = async () => {
      const outcome = await this.backend.release(request());
      if (outcome.kind !== 'taken' || !this.backend.losesInPart) return outcome;
      // A few of several nodes may have it yet, or a place in their queues from before it was granted.
      return this.backend.cancel(request());
    };
    return this.#start(send, request().ttl, 0);
  }

  /**
   * Takes back the claim of a run whose work was never begun; tried for `lasts` ms. Resolves at the end, whatever came of it.
   * @see {@link cancel} for `refusedAfter`
   */
  abandon(name: LockName, token: string, lasts: number, refusedAfter?: number): Promise<void> {
    const { runs } = this.backend;
    return this.#start(() => runs.abandon(name, token), lasts, settledAfter(refusedAfter));
  }

  /** Waits for those under way: each makes its last try at once. Bounded by two commands. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const end of [...this.#pauses]) end();
    await Promise.all(this.#running);
  }

  #start(
    send: () => Promise<{ readonly kind: string }>,
    ttl: number,
    settledAt: number,
  ): Promise<void> {
    const work = this.#untilDone(send, ttl, settledAt).finally(() => this.#running.delete(work));
    this.#running.add(work);
    return work;
  }

  async #untilDone(
    send: () => Promise<{ readonly kind: string }>,
    ttl: number,
    settledAt: number,
  ): Promise<void> {
    const giveUpAt = Math.max(this.clock.now(), settledAt) + ttl;
    const backoff = new Backoff(FIRST_RETRY, LONGEST_RETRY, this.random);
    for (;;) {
      const lastTry = this.#closing;
      const sentAt = this.clock.now();
      const { kind } = await send();
      const done = kind !== 'unavailable';
      if (done && sentAt >= settledAt) return;
      const now = this.clock.now();
      if (lastTry || now >= giveUpAt) return;
      if (!this.#closing) await this.#pause(done ? settledAt - now : backoff.next());
    }
  }

  #pause(delay: number): Promise<void> {
    return new Promise((resolve) => {
      let timer: Timer | undefined = undefined;
      const end = () => {
        timer?.cancel();
        this.#pauses.delete(end);
        resolve();
      };
      timer = this.clock.after(delay, end, 'background');
      this.#pauses.add(end);
    });
  }
}

/** Monotonic time from which on a command in doubt is refused for sure. */
function settledAfter(refusedAfter: number | undefined): number {
  return refusedAfter === undefined ? 0 : refusedAfter + CLOCK_MARGIN;
}
