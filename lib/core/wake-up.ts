import type { ForcedBy } from './errors.js';
import type { LockName } from './lock-name.js';

/**
 * How a release elsewhere reaches the waiters of this process, and a waiter elsewhere, or who releases by force, the
 * holder in it: one subscription a process, of which a waiter's and a holder's record tell the channel; on a Cluster one
 * more for each name that somebody waits for. It's an accelerator: whoever waits also polls, seldom, and whoever holds renews, so that a message that never comes costs time
 * and nothing else.
 *
 *     asleep ──subscribe()──▶ subscribing ──▶ listening ──connection lost──▶ subscribing …
 *
 * Each time it begins to listen (again), every waiter is woken once, and every holder looks whether it still holds: what was
 * published meanwhile is lost.
 */
export interface WakeUp {
  /** Whether a waiter for this name that queues now will be told. Where not, it must poll. */
  listensTo(name: LockName): boolean;
  /**
   * Somebody of this process waits for the name: begins to listen, unless it does. Ends within the command timeout, whether
   * or not it succeeded; never rejects.
   */
  subscribe(name: LockName): Promise<void>;
  /** Nobody of this process waits for the name any more; once for each `subscribe`. */
  unsubscribe(name: LockName): void;
  /**
   * Opens the subscription for what is told to holders, unless it's there. Whether it's heard matters to nobody, so that
   * nothing is waited for, and `listensTo` stays as it is: who has never waited needn't stand in a queue at its first try.
   */
  attend(): void;
  onWake(listener: WakeListener): void;
  /**
   * Makes sure, behind the caller's back, that it still hears: a link may be dead without either side knowing, while the
   * server takes it for a listener. Asked by a waiter for the name that had to look for itself.
   */
  check(name: LockName): void;
}

export type WakeMessage =
  /** The key may be had by the waiter with this token, now or by what is known in so many ms (`within`) at the latest. */
  | { readonly kind: 'woken'; readonly token: string; readonly within: number }
  /** Somebody of another process has begun to wait for a key that this one holds. */
  | { readonly kind: 'othersWait'; readonly owner: string }
  | Forced
  /** Messages may have been lost: every waiter, or those for one key, must look for themselves. */
  | { readonly kind: 'listening'; readonly owner?: string };

/** The lease of this token on this key was released by force. */
export interface Forced {
  readonly kind: 'forced';
  readonly token: string;
  readonly owner: string;
  readonly by: ForcedBy;
}

export type WakeListener = (message: WakeMessage) => void;
