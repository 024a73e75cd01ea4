import type { HolderState } from './backend/lock-backend.js';
import type { ForcedBy, LockErrorCode, LockUnavailableError, LostReason } from './errors.js';

/** What can be observed of a {@link Locker}'s locks: one entry an event, with its facts. Durations are in ms. */
export interface LockEvents {
  /**
   * A caller has the lock: granted by the backend, or passed on (re-entry and waiting for one's own parent aren't). Of several
   * keys, each is told when it's taken; where that was one after the other, with a fencing token of its own, and the lock gets
   * the largest of them when it has all.
   */
  acquired: { key: string; fencingToken: number; waited: number };
  /** A caller has begun to wait behind others. */
  waiting: { key: string; remaining: number | undefined };
  /**
   * A released lease passed to the next caller of this process, without Redis: told between `released` of the one and
   * `acquired` of the other. `from`: the fencing token of the one.
   */
  handedOver: { key: string; from: number; fencingToken: number; waited: number };
  renewed: { key: string; fencingToken: number; remaining: number };
  /** A renewal is overdue or failed; the lease holds on until its deadline, which is `remaining` away. */
  jeopardy: { key: string; fencingToken: number; remaining: number; cause: unknown };
  /** `by`: who released it by force, where that is the reason. */
  lost: {
    key: string;
    fencingToken: number;
    held: number;
    reason: LostReason;
    by: ForcedBy | undefined;
  };
  /** This process released a key by force: from whom, and what it told them of itself. */
  forced: { key: string; held: readonly HolderState[]; by: ForcedBy };
  /** `kept`: the key stays taken for so much longer (`holdAtLeast`). */
  released: { key: string; fencingToken: number; held: number; kept: number };
  /** The release could not be confirmed. It's retried in the background; at worst the key stays taken for its ttl. */
  releaseFailed: { key: string; fencingToken: number; cause: unknown };
  /** `onBusy: 'skip'` or `'throw'`, or `tryAcquire`, met a key that is held. */
  busy: { key: string; remaining: number | undefined };
  /** A call ended without the lock and without an error: `onBusy: 'skip'`, whose work isn't run, or `tryAcquire`. */
  skipped: { key: string; remaining: number | undefined };
  /**
   * A call ended without the lock, by an error: its code, or `ABORTED` where it's the reason of the caller's signal.
   * `key`: none where it's no text.
   */
  refused: {
    key: string | undefined;
    code: LockErrorCode | 'ABORTED';
    waited: number;
    error: unknown;
  };
  /** A caller gave up: its `waitTimeout` passed. */
  timedOut: { key: string; waited: number };
  /** The connection to Redis was lost, or could not be made. Once an outage. */
  unavailable: { error: LockUnavailableError };
  /** The connection to Redis is there again. */
  available: Record<never, never>;
  /**
   * With `guard`: a server grants nothing new for so many ms, and why. Once for each such time. `node`: which one it is of
   * several independent ones; the others go on, if they're a majority.
   */
  guarded: { remaining: number; why: GuardReason; node?: string };
}

/**
 * Why a server may have forgotten leases: it has no record (its first use, or its data was lost), the record is another
 * server's (it restarted, or is a replica that was promoted), or one that is older than what was seen (an old master is back).
 */
export type GuardReason = 'no-record' | 'other-server' | 'older-data';

export type LockEventName = keyof LockEvents;
/** Any event with its name as `type`: a union that `switch (event.type)` tells apart. */
export type LockEvent = {
  [N in LockEventName]: { readonly type: N } & Readonly<LockEvents[N]>;
}[LockEventName];

/** Complete, or it doesn't compile. */
const EVERY_EVENT: Record<LockEventName, true> = {
  acquired: true,
  waiting: true,
  handedOver: true,
  renewed: true,
  jeopardy: true,
  lost: true,
  forced: true,
  released: true,
  releaseFailed: true,
  busy: true,
  skipped: true,
  refused: true,
  timedOut: true,
  unavailable: true,
  available: true,
  guarded: true,
};

export const LOCK_EVENT_NAMES = Object.keys(EVERY_EVENT) as readonly LockEventName[];

export type LockListener<N extends LockEventName> = (event: LockEvents[N]) => void;

/**
 * Hands events to listeners. A listener that throws breaks neither the lock nor the other listeners: its error
 * becomes a process warning.
 */
export class LockEmitter {
  readonly #listeners = new Map<LockEventName, Set<LockListener<never>>>();

  /** Returns the function that removes the listener again. */
  on<N extends LockEventName>(name: N, listener: LockListener<N>): () => void {
    let listeners = this.#listeners.get(name);
    if (listeners === undefined) this.#listeners.set(name, (listeners = new Set()));
    // A wrapper each, so that one function given twice is called twice and removed once.
    const entry: LockListener<N> = (event) => listener(event);
    listeners.add(entry);
    return () => void listeners.delete(entry);
  }

  /** Whether anybody listens to an event: asked once by one who has many to tell of. */
  has(name: LockEventName): boolean {
    return (this.#listeners.get(name)?.size ?? 0) > 0;
  }

  /** Takes a function, so that an event nobody listens to costs no object on the hot path. */
  emit<N extends LockEventName>(name: N, describe: () => LockEvents[N]): void {
    const listeners = this.#listeners.get(name);
    if (listeners === undefined || listeners.size === 0) return;
    const event = describe();
    for (const listener of listeners as Set<LockListener<N>>) {
      const warn = (error: unknown) =>
        process.emitWarning(
          new Error(`A listener of the lock event '${name}' threw; the lock is not affected.`, {
            cause: error,
          }),
        );
      try {
        // An asynchronous listener may reject, which nobody would handle.
        const result: unknown = listener(event);
        if (result instanceof Promise) result.catch(warn);
      } catch (error) {
        warn(error);
      }
    }
  }

  clear(): void {
    this.#listeners.clear();
  }
}
