import { watchAbort } from './abort-watch.js';
import type { Clock, Timer } from './clock.js';

/**
 * Callers of this process that wait for one thing, first come, first served. Each leaves the line in one of three
 * ways: it's served (or refused) from outside, its deadline passes, or its signal aborts. What was started when it
 * joined (timer, abort listener) ends when it leaves.
 *
 * Used by the wait queue of a key, and by a held lock for those who enter it again.
 */
export class WaitingLine<T, R extends WaitRequest> {
  // Insertion order is the order of the line; a set, so that a caller in the middle leaves in constant time.
  readonly #callers = new Set<Caller<T, R>>();

  /**
   * `timedOut` makes the error of a caller whose deadline has passed; `onGaveUp` is told when a caller has left at its
   * deadline or by its signal.
   */
  constructor(
    private readonly clock: Clock,
    private readonly timedOut: (request: R) => unknown,
    private readonly onGaveUp: () => void = () => {},
  ) {}

  get size(): number {
    return this.#callers.size;
  }

  get first(): Caller<T, R> | undefined {
    for (const caller of this.#callers) return caller;
    return undefined;
  }

  /** Joins at the end. The deadline isn't watched before {@link watch}; the signal is at once. */
  join(request: R): Caller<T, R> {
    const caller = new Caller<T, R>(request);
    this.#callers.add(caller);
    const { signal } = request;
    if (signal !== undefined) {
      if (signal.aborted) {
        this.refuse(caller, signal.reason);
      } else {
        caller.unlisten = watchAbort(signal, () => this.#giveUp(caller, signal.reason));
      }
    }
    return caller;
  }

  /**
   * Starts the timer that ends a caller's wait at its deadline. Apart from `join`, because a caller that is served at
   * its first try, whose command has a timeout of its own, needs none.
   */
  watch(caller: Caller<T, R>): void {
    if (caller.timer !== undefined || !this.#callers.has(caller)) return;
    caller.timer = this.clock.after(caller.request.deadline - this.clock.now(), () => {
      this.#giveUp(caller, this.timedOut(caller.request));
    });
  }

  /** Whether it stood in the line until now. */
  serve(caller: Caller<T, R>, value: T): boolean {
    if (!this.#leave(caller)) return false;
    caller.resolve(value);
    return true;
  }

  refuse(caller: Caller<T, R>, error: unknown): void {
    if (this.#leave(caller)) caller.reject(error);
  }

  serveAll(value: T): void {
    for (const caller of [...this.#callers]) this.serve(caller, value);
  }

  refuseWhere(which: (request: R) => boolean, error: (request: R) => unknown): void {
    for (const caller of [...this.#callers]) {
      if (which(caller.request)) this.refuse(caller, error(caller.request));
    }
  }

  #giveUp(caller: Caller<T, R>, error: unknown): void {
    if (!this.#leave(caller)) return;
    caller.reject(error);
    this.onGaveUp();
  }

  #leave(caller: Caller<T, R>): boolean {
    if (!this.#callers.delete(caller)) return false;
    caller.timer?.cancel();
    caller.unlisten?.();
    return true;
  }
}

export interface WaitRequest {
  /** Monotonic time at which the caller stops waiting. */
  readonly deadline: number;
  readonly signal: AbortSignal | undefined;
}

/** One who waits. Its promise settles when it leaves the line. */
export class Caller<T, R extends WaitRequest> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
  timer: Timer | undefined;
  unlisten: (() => void) | undefined;

  constructor(readonly request: R) {
    let resolve!: (value: T) => void;
    let reject!: (error: unknown) => void;
    this.promise = new Promise<T>((yes, no) => {
      resolve = yes;
      reject = no;
    });
    this.resolve = resolve;
    this.reject = reject;
  }
}
