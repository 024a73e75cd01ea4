import type { Duration } from './duration.js';
import {
  boolean,
  type Check,
  checked,
  duration,
  invalid,
  LOCK_OPTION_CHECKS,
  oneOf,
  resolveLockOptions,
  type LockOptions,
  type ResolvedLockOptions,
  SHORTEST_TTL,
} from './options.js';

/** How the ticks of a scheduled job are told apart, and how each is run. */
export interface RunOnceOptions extends Pick<LockOptions, 'maxHold' | 'prefix'> {
  /**
   * The time from one tick of the schedule to the next, 1 s at least; where they differ, the shortest. Calls less than
   * half of it apart are of one tick.
   */
  per: Duration;
  /**
   * The scheduled instant, where the scheduler knows it.
   * @default the wall clock of this process
   */
  at?: Date;
  /**
   * What becomes of a tick that comes while the run of an earlier one lasts: it's skipped and recorded as such, or it
   * runs beside it.
   * @default 'skip'
   */
  overlap?: 'skip' | 'run';
  /**
   * Whether a tick whose runner crashes is run once more, by another replica. The others then wait, for a period at most,
   * until the runner is done. The work may have been done in part, or even wholly, by the one that crashed.
   * @default false
   */
  retryCrashed?: boolean;
  /**
   * The records of how many ticks are kept, 1000 at most.
   * @default 10
   */
  keep?: number;
  /**
   * For how long records are kept, two periods at least.
   * @default 10 periods or one day, whichever is longer
   */
  retain?: Duration;
  /**
   * How soon a crash of the runner is noticed; it renews for as long as it works. With `retryCrashed`, shorter than `per`.
   * @default that of the locker, and at most half of `per`
   */
  ttl?: Duration;
}

/** {@link RunOnceOptions} with every default filled in and every duration in ms. */
export interface ResolvedRunOnceOptions {
  readonly per: number;
  readonly at: Date | undefined;
  readonly overlap: 'skip' | 'run';
  readonly retryCrashed: boolean;
  readonly keep: number;
  readonly retain: number;
  readonly ttl: number;
  /** Infinity: none. */
  readonly maxHold: number;
  readonly prefix: string;
}

const SHORTEST_PERIOD = 1_000;
/** A year of 366 days. No timer runs for so long. */
const LONGEST_PERIOD = 366 * 86_400_000;
const LONGEST_RETENTION = 10 * LONGEST_PERIOD;
/** The locks of runs have longer ones. */
const LONGEST_PREFIX = 100;
const DAY = 86_400_000;
const DEFAULT_KEEP = 10;
const MOST_KEPT = 1_000;

const CHECKS: { readonly [K in keyof Required<RunOnceOptions>]: Check } = {
  per: (option, value) => duration(option, value, SHORTEST_PERIOD, '', LONGEST_PERIOD),
  at: date,
  overlap: (option, value) => oneOf(option, value, ['skip', 'run']),
  retryCrashed: boolean,
  keep: count,
  // A tick must be known until no replica can come with it any more.
  retain: (option, value) => duration(option, value, 2 * SHORTEST_PERIOD, '', LONGEST_RETENTION),
  ttl: LOCK_OPTION_CHECKS.ttl,
  maxHold: LOCK_OPTION_CHECKS.maxHold,
  prefix: LOCK_OPTION_CHECKS.prefix,
};

/**
 * Fills the options of a call up from the locker's defaults.
 * @throws LockConfigError that names the option, its value and the remedy.
 */
export function resolveRunOnceOptions(
  options: RunOnceOptions,
  defaults: ResolvedLockOptions = resolveLockOptions(undefined),
): ResolvedRunOnceOptions {
  const given = checked(options, CHECKS, 'options of a run') as Partial<ResolvedRunOnceOptions>;
  const { per } = given;
  const { prefix = defaults.prefix } = given;
  if (per === undefined) {
    throw invalid('per', undefined, "the time from tick to tick, as in { per: '1m' }");
  }
  if (prefix.length > LONGEST_PREFIX) {
    throw invalid('prefix', prefix, `at most ${LONGEST_PREFIX} characters for \`runOnce\``);
  }
  const { retain = Math.max(10 * per, DAY), retryCrashed = false } = given;
  if (retain < 2 * per) {
    throw invalid('retain', retain, `at least two periods, ${2 * per} ms`);
  }
  if (retryCrashed && given.ttl !== undefined && given.ttl >= per) {
    throw invalid(
      'ttl',
      given.ttl,
      `less than \`per\`, ${per} ms`,
      'A crash is noticed after the ttl, and the other replicas wait for no longer than a period.',
    );
  }
  return {
    per,
    at: given.at,
    overlap: given.overlap ?? 'skip',
    retryCrashed,
    keep: given.keep ?? DEFAULT_KEEP,
    retain,
    ttl: given.ttl ?? Math.max(SHORTEST_TTL, Math.min(defaults.ttl, Math.floor(per / 2))),
    maxHold: given.maxHold ?? defaults.maxHold,
    prefix,
  };
}

function date(option: string, value: unknown): Date {
  // By shape: a Date of another realm (a test runner's sandbox) is as good.
  const time =
    Object.prototype.toString.call(value) === '[object Date]' ? (value as Date).getTime() : NaN;
  if (Number.isNaN(time)) throw invalid(option, value, 'a valid Date');
  return value as Date;
}

function count(option: string, value: unknown): number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > MOST_KEPT) {
    throw invalid(option, value, `a whole number from 1 to ${MOST_KEPT}`);
  }
  return value as number;
}
