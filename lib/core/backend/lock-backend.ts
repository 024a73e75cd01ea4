import type { Access } from '../access.js';
import type { ForcedBy } from '../errors.js';
import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import type { RunRecord } from '../run-record.js';
import type { Survey } from '../survey.js';
import type { WakeUp } from '../wake-up.js';
import type { RunStore } from './run-store.js';
import type { Unavailable } from './unavailable.js';

export type { Unavailable };

/**
 * Where locks are kept: one interface over one Redis, several independent ones, or this process's memory.
 *
 * A backend tries once and says what came of it: waiting, retrying, deadlines and re-entry live above it, in
 * `Locker`, `WaitQueue` and `Lease`. It rejects for nothing that can be expected of a network; every outcome is
 * a tagged value. Each of its commands ends within the command timeout.
 *
 * Every backend passes the whole suite in `test/conformance/`.
 */
export interface LockBackend {
  readonly wakeUp: WakeUp;
  /** The runs of scheduled jobs. */
  readonly runs: RunStore;

  /** Waits for the first connection, within its bound. */
  connect(): Promise<{ kind: 'connected' } | Unavailable>;

  /**
   * Takes the key if it's free, or held by others with whom it can be shared, and no live waiter is ahead; or if it's
   * reserved for this token. Asked again with a token that already holds the key, grants it again, for a full ttl from now.
   */
  tryAcquire(request: AcquireRequest): Promise<AcquireOutcome>;

  /** Whether it can count who is inside, and so keep to a limit. */
  readonly countsHolders: boolean;

  /** Whether a lease that was lost may still stand at some of its servers, and is to be undone there. */
  readonly losesInPart: boolean;

  /** Whether {@link tryAcquireAll} can take any keys at once; else it's given one at a time. */
  readonly joinsKeys: boolean;

  /**
   * Takes several keys, all or none of them; never queues. With `fencingToken`, all of them are held by these tokens, and
   * get that one.
   */
  tryAcquireAll(request: AcquireAllRequest): Promise<AcquireAllOutcome>;

  /** Prolongs leases to a full ttl from now, each only if its token still holds its key. One outcome each, in order. */
  extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]>;

  /** Gives the key back if this token holds it, and hands it on to the first live waiters. */
  release(request: ReleaseRequest): Promise<ReleaseOutcome>;

  /** Turns a key that this token holds alone into one that it shares with readers, and lets in those who wait. */
  downgrade(request: DowngradeRequest): Promise<DowngradeOutcome>;

  /** Notes at a key that its holder waits for another key. */
  markBlocked(request: MarkBlockedRequest): Promise<MarkBlockedOutcome>;

  /** Takes such a note back. */
  unmarkBlocked(request: UnmarkBlockedRequest): Promise<UnmarkBlockedOutcome>;

  /** Who holds a key alone, and what this holder is known to wait for. */
  holderOf(name: LockName): Promise<HolderOutcome>;

  /** Undoes whatever an acquire with this token has done or left: a grant, a reservation, a place in the queue. */
  cancel(request: CancelRequest): Promise<CancelOutcome>;

  /**
   * Takes the key from whoever holds it, or from nobody where it's kept, tells the holders' processes, and hands the key
   * on to the first live waiter. The next fencing token is larger than any that a holder may have used.
   */
  forceRelease(request: ForceRequest): Promise<ForceOutcome>;

  /** Who holds the key and who waits for it. */
  query(name: LockName): Promise<QueryOutcome>;

  /**
   * The names in use under a prefix whose keys match: all that are held or waited for, and perhaps some that aren't any
   * more. Takes as many commands as it needs, each within its timeout; where one fails, there's no answer.
   */
  names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome>;

  /** What the servers that keep locks are, and how they're set up. Where some don't answer, it says so of them. */
  survey(): Promise<SurveyOutcome>;

  /**
   * Says to the server's guard that no lease can be running under a prefix, so that it needn't wait. Only where there's no trace
   * of one, and no guard yet.
   */
  initializeGuard(prefix: string): Promise<InitializeOutcome>;

  /** Closes what the backend opened, and nothing else. */
  close(): Promise<void>;
}

/** A claim on a key: random, of one attempt, told to nobody else. */
export interface HeldToken {
  readonly name: LockName;
  readonly token: string;
  /** In ms. */
  readonly ttl: number;
  /** @default 'exclusive' */
  readonly access?: Access;
}

export interface AcquireRequest extends HeldToken {
  /**
   * Monotonic local time after which the command must no longer take the key: its caller has given up. Backends
   * translate it into server time, so that a command that was delayed on its way is refused there.
   */
  readonly notAfter: number;
  /** Where given, and the key is held or a guard lets nobody in, the token is queued (or keeps its place). */
  readonly place: Place | undefined;
  /** What the key is wanted for, where the caller says so: shown with the holder. */
  readonly label?: string | undefined;
  /**
   * Monotonic local time at which the caller began to wait here, where others of its process stood at the backend in its
   * stead: it's ahead of those who came later. For those who share a key; left out: it comes now.
   */
  readonly waitsSince?: number | undefined;
}

/** What a quorum asks of one of its nodes. */
export interface FencedRequest {
  /** The fencing token is to be this at least, as far as the node's clock isn't too far behind it. */
  readonly fenceFloor?: number | undefined;
}

export interface AcquireAllRequest extends Pick<AcquireRequest, 'ttl' | 'notAfter' | 'label'> {
  readonly wanted: readonly Pick<HeldToken, 'name' | 'token'>[];
  readonly access: Access;
  readonly fencingToken: number | undefined;
}

export type AcquireAllOutcome =
  /** One fencing token for all of them. */
  | {
      readonly kind: 'granted';
      readonly fencingToken: number;
      readonly sentAt: number;
      readonly othersWait: boolean;
    }
  /** The first that isn't to be had. */
  | { readonly kind: 'busy'; readonly index: number; readonly remaining: number | undefined }
  | { readonly kind: 'late' }
  | { readonly kind: 'conflict'; readonly index: number; readonly access: Access }
  | Unavailable;

/** A waiter's place in the queue of a key. */
export interface Place {
  /** How long the waiter counts as alive from now, in ms: it asks again well before. */
  readonly aliveFor: number;
  /** The place it was told before, to get it back where the queue was lost. */
  readonly sequence: number | undefined;
}

/**
 * `fencingToken`: the first of a range of {@link FENCE_RANGE} that belong to the lease. `sentAt`: local monotonic time
 * just before the command was written; the lease's validity counts from there. `othersWait`: somebody is in the queue.
 */
export interface Granted {
  readonly kind: 'granted';
  readonly fencingToken: number;
  readonly sentAt: number;
  readonly othersWait: boolean;
}

/**
 * How many fencing tokens a grant gives: one for each caller of a process that the lease may be passed to. They are
 * microseconds of the server's clock, so a range must be used up more slowly than that clock runs.
 */
export const FENCE_RANGE = 10_000;

export type AcquireOutcome =
  | Granted
  /**
   * `remaining`: how long the present lease or reservation lasts if nobody prolongs it, in ms; `undefined` where it has no
   * end. `sequence`: the caller's place.
   */
  | {
      readonly kind: 'busy';
      readonly remaining: number | undefined;
      readonly sequence: number | undefined;
      readonly spent?: Spent;
    }
  /** The command arrived after `notAfter` and did nothing; of several servers, those where it came in time may have queued it. */
  | { readonly kind: 'late'; readonly spent?: Spent }
  /** It's held under another limit; nothing was taken. */
  | { readonly kind: 'conflict'; readonly access: Access }
  | Unavailable;

/**
 * The token must not be used again: the backend is still undoing what it may have left somewhere, and would undo a later
 * grant with it. Its place is gone; another token may ask for it.
 */
export type Spent = true;

export type ExtendOutcome =
  | { readonly kind: 'extended'; readonly sentAt: number }
  /** The key is free or another's. */
  | { readonly kind: 'taken' }
  | Unavailable;

export interface ReleaseRequest extends HeldToken {
  /** The last fencing token that was used of the lease's range. */
  readonly lastFence: number;
  /** Keep the key taken for so many ms more, held by nobody (`holdAtLeast`); 0: free it now. */
  readonly keepFor: number;
}

export type ReleaseOutcome =
  | { readonly kind: 'released' }
  /** The key was no longer this token's; nothing was done. */
  | { readonly kind: 'taken' }
  | Unavailable;

export interface DowngradeRequest extends HeldToken {
  /** That of the present holder. */
  readonly fencingToken: number;
}

export type DowngradeOutcome = ReleaseOutcome;

export interface MarkBlockedRequest extends Pick<HeldToken, 'name' | 'token'> {
  /** Of this wait; random. */
  readonly mark: string;
  readonly waitsFor: LockName;
  /** Server time in µs since when it's noted elsewhere; left out: from now. */
  readonly since: number | undefined;
  /** In ms. */
  readonly lasts: number;
}

export type MarkBlockedOutcome =
  { readonly kind: 'marked'; readonly since: number } | { readonly kind: 'taken' } | Unavailable;

export interface UnmarkBlockedRequest {
  readonly name: LockName;
  readonly mark: string;
}

export type UnmarkBlockedOutcome = { readonly kind: 'unmarked' } | Unavailable;

export type HolderOutcome =
  | {
      readonly kind: 'held';
      readonly token: string;
      readonly blocked:
        { readonly mark: string; readonly since: number; readonly waitsFor: LockName } | undefined;
    }
  /** It's free, or held in another way. */
  | { readonly kind: 'none' }
  | Unavailable;

export interface CancelRequest extends Pick<HeldToken, 'name' | 'token'> {
  /** How long what's undone would last by itself, in ms, where it's known. */
  readonly ttl?: number;
  /** The last fencing token that was used of the lease's range; left out where nobody ever held it. */
  readonly lastFence?: number;
}

export type CancelOutcome = { readonly kind: 'cancelled' } | Unavailable;

export interface ForceRequest {
  readonly name: LockName;
  readonly reason: string | undefined;
  /** One of the holder that's meant; left out: all who hold the key. */
  readonly fencingToken?: number | undefined;
  /** Monotonic local time after which the command must do nothing any more: it would hit a holder that came since. */
  readonly notAfter: number;
}

export type ForceOutcome =
  /** `held`: from whom it was taken; none where nobody held it. `by`: what they were told. */
  | {
      readonly kind: 'forced';
      readonly held: readonly HolderState[];
      readonly by: ForcedBy;
      /** Of one node: what the lease of each is known by at all nodes, in the same order. */
      readonly leases?: readonly string[];
    }
  /** The command arrived after `notAfter` and did nothing. */
  | { readonly kind: 'late' }
  | Unavailable;

export type QueryOutcome =
  | {
      readonly kind: 'found';
      readonly state: LockState;
      /**
       * Of several nodes: each lease that's held, as those nodes show it that do. One that couldn't be told its fencing token has
       * another for it; but at least one has this token or more, and one has this or less.
       */
      readonly asShown?: readonly (readonly HolderState[])[];
      /** Of several nodes: how many hold what is held. Where some are silent, a lease that fewer show is held perhaps. */
      readonly majority?: number;
      /** Of one node: what the lease of each holder is known by at all nodes, in the same order. */
      readonly leases?: readonly string[];
    }
  | Unavailable;

export type NamesOutcome =
  { readonly kind: 'names'; readonly names: readonly LockName[] } | Unavailable;

export type SurveyOutcome = Survey | Unavailable;

export type InitializeOutcome =
  | { readonly kind: 'initialized' }
  /** It was done before, or the server has waited by itself. */
  | { readonly kind: 'present' }
  /** There are locks, or records of jobs. */
  | { readonly kind: 'in-use'; readonly names: readonly LockName[] }
  /** The backend has no guard. */
  | { readonly kind: 'unguarded' }
  | Unavailable;

/**
 * Whether one who holds the key so, under this fencing token or an earlier one of the same lease, is among the holders.
 * `perhaps`: too few nodes show it, but others are silent.
 */
export function standingOf(
  found: Exclude<QueryOutcome, Unavailable>,
  access: Access,
  fencingToken: number,
): 'held' | 'perhaps' | 'gone' {
  const { state, asShown = state.held.map((holder) => [holder]), majority = 1 } = found;
  // Who shares a key is shown by its own; of a lease that's held alone, by the first of its range.
  const range = access === 'exclusive' ? FENCE_RANGE : 1;
  const shown = asShown.filter(
    (lease) =>
      lease.some((holder) => !holder.kept && holder.fencingToken <= fencingToken) &&
      lease.some((holder) => !holder.kept && fencingToken < holder.fencingToken + range),
  );
  if (shown.length === 0) return 'gone';
  return shown.some((lease) => lease.length >= majority) ? 'held' : 'perhaps';
}

/** Who holds a key and who waits for it, as {@link Locker.inspect} and {@link Locker.query} tell it. */
export interface LockState {
  readonly key: string;
  readonly held: readonly HolderState[];
  /** One entry for each process that waits: within a process, callers queue without Redis. */
  readonly pending: readonly WaiterState[];
  /** Of the job of this name, the newest first; only where a query asks for them, and there are any. */
  readonly runs?: readonly RunRecord[];
}

export interface HolderState {
  /** The first of its lease: a holder to which the lease was passed on within the process has a larger one. */
  readonly fencingToken: number;
  /** When the lease was granted, by the server's clock. */
  readonly since: Date;
  /** How long the lease lasts if it isn't renewed, in ms. */
  readonly remaining: number;
  /** `unknown`, with a `pid` of 0, where what is recorded of the holder isn't ours and can't be read. */
  readonly host: string;
  readonly pid: number;
  readonly application: string | undefined;
  /** What it said that it holds the key for. */
  readonly label: string | undefined;
  /** The work is done and the key is kept for `holdAtLeast`. */
  readonly kept: boolean;
  readonly access: Access;
}

export interface WaiterState {
  /**
   * Its place: waiters are served by rising sequence. `undefined` for those that wait in the process that asks, behind a
   * holder of its own, and would be served by it without asking Redis; no other process knows of them.
   */
  readonly sequence: number | undefined;
  readonly access: Access;
}
