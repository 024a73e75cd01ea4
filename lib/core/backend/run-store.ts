import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import type { Unavailable } from './unavailable.js';

/**
 * Where the runs of jobs are recorded, beside the locks that they hold: a part of every `LockBackend`.
 *
 * A run holds a lock of its own from before it's recorded until after its end is. So a run that's recorded as running, and
 * whose lock is no longer held under its fencing token, has ended without a word, and for good: nobody gets a lease back.
 * The store doesn't look at locks; its callers do, and tell it what they found.
 *
 * The name is the job's; each call is one atomic step, and every time is the server's, but for the ticks themselves.
 */
export interface RunStore {
  /** Claims a tick, or says what speaks against it. Asked again with the same token, says the same. */
  claim(name: LockName, request: ClaimRequest): Promise<ClaimOutcome>;

  /**
   * Removes a run that was claimed, or may have been, and whose work was never begun: its tick can be claimed again. What
   * has ended with a word, stays.
   */
  abandon(name: LockName, token: string): Promise<AbandonOutcome>;

  /** The jobs of which runs are recorded, under a prefix of the store's own. */
  names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome>;

  /** Records how a run ended. */
  finish(name: LockName, request: FinishRequest): Promise<FinishOutcome>;

  /** All that are kept, newest first. `dead`: tokens of those found to have ended without a word. */
  list(name: LockName, dead: readonly string[]): Promise<ListOutcome>;
}

export interface ClaimRequest {
  readonly run: ClaimedRun;
  /** The tick, in ms: less than half a period from a recorded one, it's that one. */
  readonly instant: number;
  readonly per: number;
  readonly overlap: 'skip' | 'run';
  /** How often a tick may be begun. */
  readonly attempts: number;
  readonly keep: number;
  readonly retain: number;
  /** The command is refused so many ms after the lock was granted: its caller has given up. */
  readonly within: number;
  /** Tokens of running ones whose lock was found to be held no more. */
  readonly dead: readonly string[];
  /** Tokens of running ones whose lock was found to be held. */
  readonly alive: readonly string[];
  /** Tokens of those that this process has given up before their work began, and that may be recorded still. */
  readonly abandoned: readonly string[];
}

/** Who claims. Without a lock, nothing is begun: it's only asked whether it could be. */
export interface ClaimedRun {
  /** Random, of one attempt. */
  readonly token: string;
  /** Which lock it holds: the attempts of a tick share one. */
  readonly lock?: string;
  /** The lock's fencing token, as text: it has more digits than the server's reader of JSON keeps. */
  readonly fence?: string;
  /** The tick as it's shown, in ms. */
  readonly tick: number;
  readonly host: string;
  readonly pid: number;
  readonly application?: string;
}

export type RunState = 'running' | 'done' | 'failed' | 'crashed' | 'skipped';

export type ResultOmitted = 'too-long' | 'not-json';

export interface RunError {
  readonly name: string;
  readonly message: string;
}

/** A record, as it's stored: JSON, so that what isn't known is left out. */
export interface StoredRun extends ClaimedRun {
  readonly instant: number;
  readonly state: RunState;
  readonly attempt: number;
  readonly start: number;
  readonly duration?: number;
  /** As JSON. */
  readonly result?: string;
  readonly omitted?: ResultOmitted;
  readonly error?: RunError;
  readonly behind?: number;
}

/**
 * What a claim is told. `run`: the record it's about. `running`: all that are recorded as running, for the caller to find
 * out which of them live.
 */
export type ClaimOutcome = ClaimReply | Unavailable;

export type ClaimReply =
  | {
      /**
       * `begun`: it's the caller's. `running`: this tick's run is recorded as running. `decided`: this tick needs nobody any
       * more. `late`: a later tick has begun, which is `run`; or so many later ones are recorded that nobody knows what was
       * decided of this one, and `run` is the last of those.
       */
      readonly kind: 'begun' | 'running' | 'decided' | 'late';
      readonly run: StoredRun;
      readonly running: readonly StoredRun[];
    }
  | {
      /** The caller could begin it, had it a lock; `run`: the attempt that crashed, where one did. */
      readonly kind: 'open';
      readonly run: StoredRun | undefined;
      readonly running: readonly StoredRun[];
    }
  | {
      /** `unsure`: first it has to be known which of the running ones live. `expired`: the command came too late. */
      readonly kind: 'unsure' | 'expired';
      readonly run: undefined;
      readonly running: readonly StoredRun[];
    };

export interface FinishRequest {
  readonly token: string;
  readonly state: 'done' | 'failed';
  readonly result?: string;
  readonly omitted?: ResultOmitted;
  readonly error?: RunError;
  readonly retain: number;
}

export type JobsOutcome =
  { readonly kind: 'names'; readonly names: readonly LockName[] } | Unavailable;

export type AbandonOutcome = { readonly kind: 'abandoned' } | Unavailable;

export type FinishOutcome =
  | { readonly kind: 'finished' }
  /** There's no record of it any more. */
  | { readonly kind: 'gone' }
  | Unavailable;

export type ListOutcome =
  { readonly kind: 'listed'; readonly runs: readonly StoredRun[] } | Unavailable;
