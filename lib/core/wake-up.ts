/**
 * How a release elsewhere reaches the waiters of this process: one subscription a process, of which a waiter's
 * record tells the channel. It's an accelerator: whoever waits also polls, seldom, so that a message that never
 * comes costs time and nothing else.
 *
 *     asleep ──subscribe()──▶ subscribing ──▶ listening ──connection lost──▶ subscribing …
 *
 * Each time it begins to listen (again), every waiter is woken once: what was published meanwhile is lost.
 */
export interface WakeUp {
  /** Whether a waiter that queues now will be told. Where not, it must poll. */
  readonly listening: boolean;
  /** Begins to listen, unless it does. Ends within the command timeout, whether or not it succeeded; never rejects. */
  subscribe(): Promise<void>;
  onWake(listener: WakeListener): void;
  /**
   * Makes sure, behind the caller's back, that it still hears: a link may be dead without either side knowing, while the
   * server takes it for a listener. Asked by a waiter that had to look for itself.
   */
  check(): void;
}

/**
 * Told with the token that was woken, or with `undefined` where every waiter must look for itself. `within`: not to look
 * now, but in so many ms at the latest.
 */
export type WakeListener = (token: string | undefined, within?: number) => void;
