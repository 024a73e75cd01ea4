/** What `replica.ts` (the test's side) and `replica-process.ts` (the replica's side) say to each other. */
import type { ForcedBy } from '../../../lib/core/errors.js';
import type { LockEventName } from '../../../lib/core/events.js';

export interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

export interface Result {
  readonly type: 'result';
  readonly id: number;
  readonly outcome: Outcome;
}

/** `from` and `to`: when the call began and ended, in monotonic ms. */
export type Outcome =
  | { readonly value: unknown; readonly from: number; readonly to: number }
  | { readonly error: RemoteErrorFacts; readonly from: number; readonly to: number };

export type FromReplica = { readonly type: 'ready' } | Result;

export interface RemoteErrorFacts {
  readonly name: string;
  readonly message: string;
  readonly code: string | undefined;
  readonly reason: string | undefined;
  readonly heldKeys: readonly string[] | undefined;
}

export interface RecordedEvent {
  readonly name: LockEventName;
  readonly at: number;
  readonly key: string | undefined;
  readonly reason: string | undefined;
}

/** When and why a lock's signal aborted. */
export interface Loss {
  readonly at: number;
  readonly error: string;
  readonly reason: string | undefined;
  /** Who released it by force. */
  readonly by: ForcedBy | undefined;
}

/** What a holder saw right after it had kept the event loop busy, before any timer could run. */
export interface Spin {
  readonly assertHeld: string;
  readonly abortedAtOnce: boolean;
  /** What came of `using`: 'resolved', or the name of its error. */
  readonly outcome: string;
}
