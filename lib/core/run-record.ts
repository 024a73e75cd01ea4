import type { ResultOmitted, RunError, RunState, StoredRun } from './backend/run-store.js';

/**
 * What is known of one run of a job: a tick that was claimed, or skipped because an earlier one was still running. A tick
 * that was taken up again after a crash has a record for each attempt.
 *
 *     running ──the work has ended──▶ done | failed
 *        └──its lock has ended, and nothing was recorded──▶ crashed      as seen by whoever asks next
 *     skipped
 */
export interface RunRecord {
  readonly job: string;
  /**
   * The scheduled instant, by the wall clock of who claimed it: as given, or to the full minute (with a `per` below that, to
   * a multiple of it) where that's near, else to the full second.
   */
  readonly tick: Date;
  readonly state: RunState;
  /** 1; or 2, where it was taken up after a crash. */
  readonly attempt: number;
  /** When it was claimed or skipped, by the server's clock. */
  readonly start: Date;
  /** How long it took, in ms, by the server's clock; known once it's done or failed. */
  readonly duration: number | undefined;
  readonly host: string;
  readonly pid: number;
  readonly application: string | undefined;
  /**
   * That of the lock it ran under; none where it was skipped. Of a tick's attempts, the second has the larger one. From tick
   * to tick it rises with the server's clock, unless that was set back in between.
   */
  readonly fencingToken: number | undefined;
  /** What the work resolved with, if it's small and can be written as JSON. */
  readonly result: unknown;
  /** Why `result` was left out: it has more than 1 kB as JSON, or can't be written as JSON or read as such. */
  readonly resultOmitted: ResultOmitted | undefined;
  /** What the work threw, or the loss of its lock; long texts are cut. */
  readonly error: RunError | undefined;
  /** The tick that was still running when this one was skipped. */
  readonly behind: Date | undefined;
}

/** What came of a call of `runOnce`. */
export type RunOutcome<T> =
  | {
      readonly kind: 'ran';
      readonly tick: Date;
      readonly attempt: number;
      readonly result: T;
    }
  | {
      readonly kind: 'skipped';
      readonly reason: SkipReason;
      /** The record that decided: that of the tick, or with `late`, of the later tick. */
      readonly run: RunRecord;
    };

/**
 * Why a tick wasn't run here: another replica runs it now (`claimed`), has run it (`done`, also where it failed), or has
 * crashed while it did (`crashed`); an earlier tick was still running (`overlap`); a later one has begun,
 * or so many are recorded that this one would be forgotten (`late`).
 */
export type SkipReason = 'claimed' | 'done' | 'crashed' | 'overlap' | 'late';

/** Which tick it is that the work runs for. */
export interface RunInfo {
  readonly tick: Date;
  readonly attempt: number;
}

/** How a run ended, as it's stored. */
export type RunEnd = Pick<StoredRun, 'result' | 'omitted' | 'error'> & {
  readonly state: 'done' | 'failed';
};

const LONGEST_RESULT_BYTES = 1_024;
const LONGEST_NAME = 100;
const LONGEST_MESSAGE = 500;

export function doneWith(result: unknown): RunEnd {
  if (result === undefined) return { state: 'done' };
  if (lengthOfBinary(result) > LONGEST_RESULT_BYTES) return { state: 'done', omitted: 'too-long' };
  let json: string | undefined;
  try {
    json = JSON.stringify(result, sizeCheck(LONGEST_RESULT_BYTES)) as string | undefined;
  } catch (error) {
    if (error === TOO_LONG) return { state: 'done', omitted: 'too-long' };
    // Circular, or with a BigInt in it.
  }
  if (json === undefined) return { state: 'done', omitted: 'not-json' };
  return Buffer.byteLength(json) > LONGEST_RESULT_BYTES
    ? { state: 'done', omitted: 'too-long' }
    : { state: 'done', result: json };
}

const TOO_LONG = Symbol('too long');

/**
 * A replacer for `JSON.stringify` that replaces nothing, and throws TOO_LONG as soon as the text is sure to be longer than
 * the limit: to write a result of many MB in full, only to leave it out, would block the process for seconds.
 */
function sizeCheck(limit: number): (this: unknown, key: string, value: unknown) => unknown {
  let least = 0;
  const add = (length: number) => {
    least += length;
    if (least > limit) throw TOO_LONG;
  };
  return function check(key, value) {
    const isOmitted = value === undefined || typeof value === 'function';
    if (Array.isArray(this)) add(1);
    else if (!isOmitted) add(key.length);
    if (typeof value === 'string') {
      add(value.length);
    } else if (typeof value === 'object' && value !== null) {
      // With a comma or a bracket for each, beside what it is.
      if (Array.isArray(value)) add(value.length);
      for (const part of Object.values(value)) add(lengthOfBinary(part));
    }
    return value;
  };
}

/** Of how many numbers binary data consists. They would all be listed before the first of them could be counted. */
function lengthOfBinary(value: unknown): number {
  return ArrayBuffer.isView(value) && 'length' in value ? (value as Uint8Array).length : 0;
}

export function failedWith(error: unknown): RunEnd {
  return { state: 'failed', error: described(error) };
}

function described(error: unknown): RunError {
  try {
    // By shape: an Error of another realm is as good.
    const { name, message } = (error ?? {}) as Partial<RunError>;
    if (typeof name === 'string' && typeof message === 'string') {
      return { name: cut(name, LONGEST_NAME), message: cut(message, LONGEST_MESSAGE) };
    }
    return { name: typeof error, message: cut(String(error), LONGEST_MESSAGE) };
  } catch {
    // A getter that throws, or an object without a text.
    return { name: typeof error, message: '' };
  }
}

/** Well-formed, since half of a surrogate pair is no text to the server's reader of JSON. */
function cut(text: string, length: number): string {
  return (text.length > length ? `${text.slice(0, length)}…` : text).toWellFormed();
}

/** A stored run as callers see it. */
export function recordOf(job: string, run: StoredRun): RunRecord {
  const { result, omitted } = readResult(run);
  return {
    job,
    tick: new Date(run.tick),
    state: run.state,
    attempt: run.attempt,
    start: new Date(run.start),
    duration: run.duration,
    host: run.host,
    pid: run.pid,
    application: run.application,
    fencingToken: run.fence === undefined ? undefined : Number(run.fence),
    result,
    resultOmitted: omitted,
    error: run.error,
    behind: run.behind === undefined ? undefined : new Date(run.behind),
  };
}

function readResult({ result, omitted }: StoredRun): {
  result: unknown;
  omitted?: ResultOmitted | undefined;
} {
  if (result === undefined) return { result, omitted };
  try {
    return { result: JSON.parse(result) as unknown, omitted };
  } catch {
    // Not as it was written: somebody else has changed it.
    return { result: undefined, omitted: 'not-json' };
  }
}
