import type { UnavailableReason } from '../errors.js';

/** The server could not be asked. `mayHaveRun`: the command was sent, so that it may have been, or may yet be, executed. */
export interface Unavailable {
  readonly kind: 'unavailable';
  readonly reason: UnavailableReason;
  readonly cause: unknown;
  readonly mayHaveRun: boolean;
}
