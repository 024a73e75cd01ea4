import type { UnavailableFacts, UnavailableReason } from '../errors.js';

/**
 * The server could not be asked, or its answer can't be relied on. `mayHaveRun`: the command was sent, so that it may have
 * been, or may yet be, executed. `sequence`: whoever asked has this place in the queue, although nothing is granted for a while.
 */
export interface Unavailable {
  readonly kind: 'unavailable';
  readonly reason: UnavailableReason;
  readonly cause: unknown;
  readonly mayHaveRun: boolean;
  readonly facts?: UnavailableFacts;
  readonly sequence?: number | undefined;
}
