import type { Cluster, Redis, RedisOptions } from 'ioredis';

import { type Access, accessOf, capacityOf } from './access.js';
import { type Duration, LONGEST_DURATION, millisecondsOf } from './duration.js';
import { LockConfigError } from './errors.js';
import { givenAddress } from './redis/server-address.js';
import type { LockLayout } from './survey.js';

/**
 * What to do when another holds the key: wait for up to `waitTimeout`, skip the guarded work (it isn't run, the
 * call gives `undefined`), or throw {@link LockBusyError} at once.
 */
export type OnBusy = 'wait' | 'skip' | 'throw';

/** How a lock is taken and held. Given per module as defaults, and per call. */
export interface LockOptions {
  /**
   * How long the lock outlives a holder that stops renewing it (crashed, cut off), 100 ms at least. With `renew`
   * the holder may work for longer than this; without, it must be done by then.
   * @default '10s'
   */
  ttl?: Duration;
  /**
   * How long a caller waits while others hold the key.
   * @default '10s'
   */
  waitTimeout?: Duration;
  /** @default 'wait' */
  onBusy?: OnBusy;
  /**
   * Whether the lease is renewed, at a third of its ttl, for as long as it's held.
   * @default true
   */
  renew?: boolean;
  /**
   * How long the key stays taken at least, from its acquisition, even when the work is done sooner. For cron jobs:
   * longer than the replicas' clocks differ, so that a tick isn't run twice.
   * @default none
   */
  holdAtLeast?: Duration;
  /**
   * How long the lock may be held at most: a stuck holder then loses it, however well it renews.
   * @default none
   */
  maxHold?: Duration;
  /**
   * What the lock is held for, shown where its holder is shown: a text of 1 to 100 characters. A lock isn't passed on
   * within the process to a caller with another label.
   * @default none
   */
  label?: string;
  /**
   * `'shared'`: any number of readers hold the key together, and no writer with them. A waiting writer stops readers that
   * come later. `'exclusive'`: one alone.
   * @default 'exclusive'
   */
  mode?: 'exclusive' | 'shared';
  /**
   * How many may hold the key together, 1 at least: a semaphore. Everybody who uses the key must give the same; one who
   * gives another while it's held is refused with {@link LockConfigError}. Not together with `mode`.
   * @default none
   */
  limit?: number;
  /** Cancels the waiting: the call rejects with the signal's reason. A lock that is already held isn't affected. */
  signal?: AbortSignal;
  /**
   * What the lock's Redis keys begin with. Two applications exclude each other only under one prefix.
   * @default 'lock'
   */
  prefix?: string;
}

/**
 * Where the locks are kept: a URL (`redis://` or `rediss://`), ioredis options, an ioredis instance or Cluster of the
 * application's (it's duplicated, never used or closed by us), or `'memory'`: this process alone.
 */
export type LockConnection = string | RedisOptions | Redis | Cluster;

/**
 * Three or more independent Redis servers, each a URL, ioredis options or an ioredis instance: a lock is held where a majority
 * of them grants it (Redlock).
 */
export type QuorumConnection = readonly (string | RedisOptions | Redis)[];

/** What a {@link Locker} is made with: where it finds Redis, and the defaults of every lock it takes. */
export interface LockerOptions extends Omit<LockOptions, 'signal' | 'label'> {
  connection: LockConnection | QuorumConnection;
  /**
   * How long one Redis command may take before its outcome counts as unknown.
   * @default '1s'
   */
  commandTimeout?: Duration;
  /**
   * How long one of several independent nodes may take to answer, at most `commandTimeout`: then the others decide without
   * it. For a `connection` of several nodes only. Well below the ttl, and well above what a node takes to answer.
   * @default '200ms', or `commandTimeout` where that is shorter
   */
  nodeTimeout?: Duration;
  /**
   * Whether `connect()` (in Nest: the boot) fails while Redis can't be reached. By default it succeeds, says so by
   * an event, and calls fail with `LockUnavailableError` until Redis is there.
   * @default false
   */
  requireConnection?: boolean;
  /**
   * Whether a lock that is released while others of this process wait for it is passed to the next of them without
   * asking Redis, for a few hand-overs or ms, before other processes get their turn. It applies between holders with
   * `renew` and the same `ttl`.
   * @default true
   */
  localHandover?: boolean;
  /**
   * Whether a caller that waits while it holds other locks is refused, with {@link LockDeadlockError}, when the wait closes a
   * circle: at once within this process; across processes after a second. A call that a holder starts counts as awaited by it:
   * work that's only set off inside a lock, and itself takes another, begins outside (`AsyncLocalStorage.snapshot()`), or
   * this is off.
   * @default true
   */
  detectDeadlocks?: boolean;
  /**
   * How a waiter learns that the key may be had: by a message (`'publish'`), or by looking again and again (`'poll'`),
   * for proxies and permissions that don't let messages through.
   * @default 'publish'
   */
  wakeUp?: 'publish' | 'poll';
  /**
   * The pauses of a waiter that polls: from `first` to `longest`, which is at most 500 ms, exponential with full jitter.
   * @default { first: 20, longest: 500 }
   */
  backoff?: { first?: Duration; longest?: Duration };
  /**
   * How long `close()` lets holders finish before it takes their locks from them.
   * @default '10s'
   */
  drainTimeout?: Duration;
  /**
   * How this process is called where a lock's holder is shown.
   * @default none
   */
  application?: string;
  /**
   * Keeps a server that may have forgotten leases from granting new ones until all of those must have ended: one that
   * restarted, was promoted, or lost its data (FLUSHALL). Calls then fail with {@link LockUnavailableError} of reason `guard`,
   * and `retryAfter`; one whose `waitTimeout` is long enough waits. Who holds a lock may renew and release it meanwhile.
   *
   * All processes that use the locks must have it, and the first use of a server is such a time as well: see
   * {@link Locker.initializeGuard}.
   *
   * @default false
   * @example
   * guard: { longestTtl: '1m', lag: '15s' }
   */
  guard?: boolean | ServerGuardOptions;
  /**
   * Confirms every grant, every renewal and every claim of a tick (`runOnce`) by replicas (WAIT): one that too few have in time
   * is undone, and the call fails
   * with {@link LockUnavailableError} of reason `replicas`; a renewal that they don't confirm doesn't count, so that a lease
   * ends at its deadline when they are gone for long. Closes the double grant after a failover as far as the replica that is
   * promoted has confirmed. Grants then cost another round trip, from the master to its replicas.
   *
   * @default none: a master's word is enough
   * @see https://redis.io/docs/latest/commands/wait/ (what WAIT promises, and what it doesn't)
   * @example
   * replicas: { atLeast: 2, timeout: '100ms' }
   */
  replicas?: ReplicaOptions;
  /**
   * What becomes of the diagnosis of the servers (see {@link Locker.diagnose}) at the start. `'report'`: the Nest module logs
   * it: a line where all is well, one for each weakness otherwise. `'strict'`: `connect()` (in Nest: the boot) fails with
   * {@link LockSafetyError} unless P1 to P3 hold under a server's restart, failover (also with the old master cut off and still
   * serving) and eviction, and also where that can't be found out or Redis can't be reached; and the option `guard` is on,
   * unless it's given. `'off'`: nothing is asked at the start.
   * @default 'report'
   */
  safety?: 'report' | 'strict' | 'off';
}

/** How a server that lost its data is kept from granting: see {@link LockerOptions.guard}. */
export interface ServerGuardOptions {
  /**
   * The longest lease that anybody takes: so long nothing new is granted. No `ttl` and no `holdAtLeast` may be longer. All
   * processes must say the same.
   * @default the largest of the module's `ttl`, its `holdAtLeast` and '30s'
   */
  longestTtl?: Duration;
  /**
   * How long an old master may still grant or prolong when another has been promoted: added to `longestTtl`. With
   * `min-replicas-to-write` on the servers, their `min-replicas-max-lag`; in a Cluster, its `cluster-node-timeout`. 0 where
   * nothing is ever promoted.
   * @default '15s' with Sentinel and in a Cluster, else 0
   */
  lag?: Duration;
  /**
   * Whether there's a proxy for Redis' protocol in front (not one that only passes on TCP, such as a load balancer): behind
   * it, another server may take over while our connection stays. Each grant then asks the server itself who it is, about 15 µs
   * of its time; in a Cluster that's done in any case.
   * @default false
   */
  proxied?: boolean;
}

/** How grants are confirmed by replicas: see {@link LockerOptions.replicas}. */
export interface ReplicaOptions {
  /**
   * How many replicas must have a grant before it counts. All of them, and no failover can lose it; fewer, and one that
   * elects a replica without it still can.
   */
  atLeast: number;
  /**
   * How long a grant waits for them; less than `commandTimeout` (of several independent nodes: `nodeTimeout`), and at most a
   * quarter of the ttl, of which the waiting is a part.
   * @default a quarter of `commandTimeout`, of several independent nodes: of `nodeTimeout`
   */
  timeout?: Duration;
  /**
   * Whether the master and those replicas must have it on disk as well (WAITAOF; Redis 7.2 or later, with AOF switched on). With
   * `appendfsync everysec` each grant and renewal takes up to a second, which `timeout` must leave; with `always`, some ms.
   * @default false
   */
  aof?: boolean;
}

/** Options of {@link Locker.forceRelease}. */
export interface ForceReleaseOptions extends Pick<LockOptions, 'prefix'> {
  /**
   * Why: told to the holder, and in the events of both sides. A text of 1 to 200 characters.
   * @default none
   */
  reason?: string;
  /**
   * The fencing token of the holder that's meant, as `inspect` shows it: whoever else holds the key keeps it, also one that
   * came since. Safe to try again, and of several holders it takes one.
   * @default none: all who hold the key at that moment
   */
  fencingToken?: number;
}

/** Options of {@link Locker.query}. */
export interface QueryOptions extends Pick<LockOptions, 'prefix'> {
  /**
   * Also what is recorded of the runs of scheduled jobs (`runOnce`) whose names match, whether or not anybody holds a lock of
   * that name. Walks through the keys once more, and asks for each job.
   * @default false
   */
  runs?: boolean;
}

/** {@link LockOptions} with every default filled in and every duration in ms. */
export interface ResolvedLockOptions {
  readonly ttl: number;
  readonly waitTimeout: number;
  readonly onBusy: OnBusy;
  readonly renew: boolean;
  /** 0: none. */
  readonly holdAtLeast: number;
  /** Infinity: none. */
  readonly maxHold: number;
  readonly label: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly prefix: string;
  /** What comes of `mode` and `limit`. */
  readonly access: Access;
  /** What the module's other options demand of a ttl; none: nothing. */
  readonly bounds?: TtlBounds | undefined;
}

/** Between which durations a lease must be, and which option says so. */
export interface TtlBounds {
  /** In ms, with `replicas`; else 0. */
  readonly shortest: number;
  /** In ms, with `guard`; else Infinity. */
  readonly longest: number;
}

export interface ResolvedGuard {
  /** In ms. */
  readonly longestTtl: number;
  /** In ms; `undefined`: by the kind of server. */
  readonly lag: number | undefined;
  readonly proxied: boolean;
}

export interface ResolvedReplicas {
  readonly atLeast: number;
  /** In ms. */
  readonly timeout: number;
  readonly aof: boolean;
}

/** In ms. */
export interface ResolvedBackoff {
  readonly first: number;
  readonly longest: number;
}

export interface ResolvedLockerOptions {
  readonly connection: LockConnection | QuorumConnection;
  readonly defaults: ResolvedLockOptions;
  readonly commandTimeout: number;
  readonly nodeTimeout: number;
  readonly requireConnection: boolean;
  readonly drainTimeout: number;
  readonly localHandover: boolean;
  readonly detectDeadlocks: boolean;
  readonly wakeUp: 'publish' | 'poll';
  readonly backoff: ResolvedBackoff;
  readonly application: string | undefined;
  readonly replicas: ResolvedReplicas | undefined;
  readonly safety: 'report' | 'strict' | 'off';
  readonly guard: ResolvedGuard | undefined;
}

/** Below this, timers and the network are too coarse for a renewal to come in time. */
export const SHORTEST_TTL = 100;

const DEFAULTS: ResolvedLockOptions = {
  ttl: 10_000,
  waitTimeout: 10_000,
  onBusy: 'wait',
  renew: true,
  holdAtLeast: 0,
  maxHold: Number.POSITIVE_INFINITY,
  label: undefined,
  signal: undefined,
  prefix: 'lock',
  access: 'exclusive',
};

const DEFAULT_COMMAND_TIMEOUT = 1_000;
const DEFAULT_NODE_TIMEOUT = 200;
/** Of two nodes, a majority is both: less available than one, and no safer. */
const FEWEST_NODES = 3;
const DEFAULT_DRAIN_TIMEOUT = 10_000;
const DEFAULT_BACKOFF: ResolvedBackoff = { first: 20, longest: 500 };
/** A waiter must look at a key while it's reserved for it, which is for a second. */
const LONGEST_BACKOFF = 500;

/** Leases that a guard reckons with at least. */
const DEFAULT_LONGEST_TTL = 30_000;

/** For as long as a master that was replaced may go on, by the usual settings of Sentinel and Cluster. */
const DEFAULT_LAG = 15_000;

/** How much of a ttl may be spent on waiting for replicas: the rest must do for the work, or for another try to renew. */
const LONGEST_CONFIRMATION = 1 / 4;
/** No master has more. */
const MOST_REPLICAS = 1_000;

/** More holders than this at once are no use of a lock. */
const LARGEST_LIMIT = 100_000;

/** Reads the value of an option, or throws a LockConfigError that names it. */
export type Check = (option: string, value: unknown) => unknown;

export const LOCK_OPTION_CHECKS: { readonly [K in keyof Required<LockOptions>]: Check } = {
  ttl: (option, value) => duration(option, value, SHORTEST_TTL),
  waitTimeout: (option, value) =>
    duration(option, value, 1, "To not wait at all, use tryAcquire, or onBusy: 'skip' or 'throw'."),
  onBusy: (option, value) => oneOf(option, value, ['wait', 'skip', 'throw']),
  renew: boolean,
  holdAtLeast: (option, value) => duration(option, value, 1, 'For none, leave it out.'),
  maxHold: (option, value) => duration(option, value, SHORTEST_TTL, 'For no limit, leave it out.'),
  label: (option, value) => text(option, value, 100),
  mode: (option, value) => oneOf(option, value, ['exclusive', 'shared']),
  limit,
  signal: abortSignal,
  prefix,
};

const BACKOFF_CHECKS: Record<'first' | 'longest', Check> = {
  first: (option, value) => duration(option, value, 1, '', LONGEST_BACKOFF),
  longest: (option, value) => duration(option, value, 1, '', LONGEST_BACKOFF),
};

const LOCKER_OPTION_CHECKS = {
  connection,
  commandTimeout: (option: string, value: unknown) => duration(option, value, 10),
  nodeTimeout: (option: string, value: unknown) => duration(option, value, 10),
  requireConnection: boolean,
  drainTimeout: (option: string, value: unknown) => duration(option, value, 1),
  localHandover: boolean,
  detectDeadlocks: boolean,
  wakeUp: (option: string, value: unknown) => oneOf(option, value, ['publish', 'poll']),
  backoff,
  application: (option: string, value: unknown) => text(option, value, 100),
  guard,
  replicas,
  safety: (option: string, value: unknown) => oneOf(option, value, ['report', 'strict', 'off']),
} satisfies Record<Exclude<keyof LockerOptions, keyof LockOptions>, Check>;

/**
 * Fills a call's options up from the defaults.
 * @throws LockConfigError that names the option, its value and the remedy.
 */
export function resolveLockOptions(
  options: LockOptions | undefined,
  defaults: ResolvedLockOptions = DEFAULTS,
): ResolvedLockOptions {
  if (options === undefined) return defaults;
  return withDefaults(checked(options, LOCK_OPTION_CHECKS, 'lock options'), defaults);
}

/** A mode or a limit that is given takes the place of either default. */
function withDefaults(
  { mode, limit: most, ...given }: Record<string, unknown>,
  defaults: ResolvedLockOptions,
): ResolvedLockOptions {
  if (mode === undefined && most === undefined) return withinBounds({ ...defaults, ...given });
  if (mode !== undefined && most !== undefined) {
    throw invalid('limit', most, `left out where \`mode\` is given (here '${String(mode)}')`);
  }
  const access = accessOf((mode ?? 'exclusive') as 'exclusive' | 'shared', most as number);
  return withinBounds({ ...defaults, ...given, access });
}

function withinBounds(options: ResolvedLockOptions): ResolvedLockOptions {
  const { bounds, ttl } = options;
  if (bounds === undefined) return options;
  for (const option of ['ttl', 'holdAtLeast'] as const) {
    if (options[option] <= bounds.longest) continue;
    throw invalid(
      option,
      options[option],
      `at most ${bounds.longest} ms, the option \`guard.longestTtl\``,
      'Raise that one, in all processes, or shorten this.',
    );
  }
  if (ttl < bounds.shortest) {
    throw invalid(
      'ttl',
      ttl,
      `at least ${bounds.shortest} ms, four times \`replicas.timeout\``,
      'Raise the ttl, or lower `replicas.timeout`.',
    );
  }
  return options;
}

/** @throws LockConfigError that names the option, its value and the remedy. */
export function resolveLockerOptions(options: LockerOptions): ResolvedLockerOptions {
  const { signal: _signal, label: _label, ...perLock } = LOCK_OPTION_CHECKS;
  const given = checked(options, { ...perLock, ...LOCKER_OPTION_CHECKS }, 'module options');
  if (given.connection === undefined) {
    throw invalid(
      'connection',
      undefined,
      "a URL, ioredis options, an ioredis instance, an array of three or more of these, or 'memory'",
    );
  }
  const {
    connection: where,
    commandTimeout,
    nodeTimeout,
    requireConnection,
    drainTimeout,
    localHandover,
    detectDeadlocks,
    wakeUp,
    backoff: pauses,
    application: name,
    guard: guarding,
    replicas: confirmation,
    safety,
    ...defaults
  } = given;
  const timeout = (commandTimeout as number | undefined) ?? DEFAULT_COMMAND_TIMEOUT;
  const onRedis = where !== 'memory';
  const ofNode = nodeTimeoutOf(nodeTimeout as number | undefined, timeout, isQuorum(where));
  const confirmedBy = resolvedReplicas(
    confirmation as CheckedReplicas | undefined,
    isQuorum(where) ? ofNode : timeout,
  );
  if (!onRedis && confirmedBy !== undefined) throw needsRedis('replicas', confirmation);
  const plain = withDefaults(defaults, DEFAULTS);
  // What `strict` promises, nothing holds without it.
  const asked = (guarding as CheckedGuard | undefined) ?? (safety === 'strict' && onRedis);
  const guardedBy = resolvedGuard(asked, plain);
  if (!onRedis && guardedBy !== undefined) throw needsRedis('guard', guarding);
  const bounds = boundsOf(confirmedBy, guardedBy);
  const resolved: ResolvedLockerOptions = {
    connection: where as LockConnection | QuorumConnection,
    defaults: bounds === undefined ? plain : withinBounds({ ...plain, bounds }),
    commandTimeout: timeout,
    nodeTimeout: ofNode,
    requireConnection: (requireConnection as boolean | undefined) ?? false,
    drainTimeout: (drainTimeout as number | undefined) ?? DEFAULT_DRAIN_TIMEOUT,
    localHandover: (localHandover as boolean | undefined) ?? true,
    detectDeadlocks: (detectDeadlocks as boolean | undefined) ?? true,
    wakeUp: (wakeUp as 'publish' | 'poll' | undefined) ?? 'publish',
    backoff: (pauses as ResolvedBackoff | undefined) ?? DEFAULT_BACKOFF,
    application: name as string | undefined,
    replicas: confirmedBy,
    safety: (safety as ResolvedLockerOptions['safety'] | undefined) ?? 'report',
    guard: guardedBy,
  };
  if (isQuorum(where) && resolved.defaults.access.startsWith('limit:')) {
    throw quorumLimitError(capacityOf(resolved.defaults.access));
  }
  return resolved;
}

/** How long an old master may still grant or prolong, in ms. */
export function promotionLag({ lag }: ResolvedGuard, layout: LockLayout): number {
  return lag ?? (layout === 'sentinel' || layout === 'cluster' ? DEFAULT_LAG : 0);
}

function boundsOf(
  confirmedBy: ResolvedReplicas | undefined,
  guardedBy: ResolvedGuard | undefined,
): TtlBounds | undefined {
  if (confirmedBy === undefined && guardedBy === undefined) return undefined;
  return {
    shortest: Math.ceil((confirmedBy?.timeout ?? 0) / LONGEST_CONFIRMATION),
    longest: guardedBy?.longestTtl ?? Number.POSITIVE_INFINITY,
  };
}

function needsRedis(option: string, value: unknown): LockConfigError {
  return invalid(
    option,
    value,
    "left out with connection 'memory'",
    'There is no server that could lose its data while this process goes on.',
  );
}

export function isQuorum(where: unknown): where is QuorumConnection {
  return Array.isArray(where);
}

/** For who asks for a limit on several independent nodes. */
export function quorumLimitError(limited: number): LockConfigError {
  return new LockConfigError(
    `Expected option \`limit\` to be left out where \`connection\` is several independent nodes, got ${limited}: each node counts for itself, and majorities that overlap in one node only let in more than the limit. Use one Redis for it, or ${limited} keys of one holder each.`,
    'limit',
    limited,
  );
}

function nodeTimeoutOf(
  given: number | undefined,
  commandTimeout: number,
  ofQuorum: boolean,
): number {
  if (given === undefined) return Math.min(DEFAULT_NODE_TIMEOUT, commandTimeout);
  if (!ofQuorum) {
    const hint = 'For one Redis, it is commandTimeout that counts.';
    throw invalid('nodeTimeout', given, 'left out where `connection` is one Redis', hint);
  }
  if (given > commandTimeout) {
    throw invalid('nodeTimeout', given, `at most \`commandTimeout\`, ${commandTimeout} ms`);
  }
  return given;
}

/** @throws LockConfigError that names the option, its value and the remedy. */
export function resolveForceReleaseOptions(
  options: ForceReleaseOptions,
  defaults: ResolvedLockOptions,
): {
  readonly prefix: string;
  readonly reason: string | undefined;
  readonly fencingToken: number | undefined;
} {
  const checks = {
    prefix: LOCK_OPTION_CHECKS.prefix,
    reason: (option: string, value: unknown) => text(option, value, 200),
    fencingToken,
  };
  const given = checked(options, checks, 'options of forceRelease');
  return {
    prefix: (given['prefix'] as string | undefined) ?? defaults.prefix,
    reason: given['reason'] as string | undefined,
    fencingToken: given['fencingToken'] as number | undefined,
  };
}

export function resolveQueryOptions(
  options: QueryOptions,
  defaults: ResolvedLockOptions,
): { readonly prefix: string; readonly runs: boolean } {
  const checks = { prefix: LOCK_OPTION_CHECKS.prefix, runs: boolean };
  const given = checked(options, checks, 'options of query');
  return {
    prefix: (given['prefix'] as string | undefined) ?? defaults.prefix,
    runs: (given['runs'] as boolean | undefined) ?? false,
  };
}

export function checked(
  options: unknown,
  checks: Record<string, Check>,
  what: string,
  within = '',
): Record<string, unknown> {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new LockConfigError(
      `Expected ${what} as an object, got ${shown(options)}.`,
      undefined,
      options,
    );
  }
  const result: Record<string, unknown> = {};
  for (const [option, value] of Object.entries(options)) {
    // Inherited names such as `constructor` would otherwise find a function of Object's.
    const check = Object.hasOwn(checks, option) ? checks[option] : undefined;
    if (check === undefined) {
      throw new LockConfigError(
        `Unknown option \`${option}\` in the ${what}. Known are: ${Object.keys(checks).join(', ')}.`,
        within + option,
        value,
      );
    }
    if (value !== undefined) result[option] = check(within + option, value);
  }
  return result;
}

export function duration(
  option: string,
  value: unknown,
  least: number,
  hint = '',
  most = LONGEST_DURATION,
): number {
  const given = millisecondsOf(value);
  // Redis takes whole ms, and '16.1s' is a little more than 16,100 in floating point.
  const milliseconds = given === undefined ? undefined : Math.round(given);
  if (milliseconds === undefined || milliseconds < least || milliseconds > most) {
    throw invalid(
      option,
      value,
      `a duration from ${least} ms to ${most} ms, as a number of milliseconds or a text like '30s'`,
      hint,
    );
  }
  return milliseconds;
}

function backoff(option: string, value: unknown): ResolvedBackoff {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(option, value, 'an object with `first`, `longest`, or both');
  }
  const given = checked(value, BACKOFF_CHECKS, `option \`${option}\``, `${option}.`);
  const { first, longest } = { ...DEFAULT_BACKOFF, ...given } as ResolvedBackoff;
  if (first > longest) {
    throw invalid(`${option}.first`, first, `at most \`${option}.longest\`, ${longest} ms`);
  }
  return { first, longest };
}

type CheckedGuard = boolean | { longestTtl?: number; lag?: number; proxied?: boolean };

const GUARD_CHECKS: Record<keyof ServerGuardOptions, Check> = {
  longestTtl: (option, value) => duration(option, value, SHORTEST_TTL),
  lag: (option, value) => duration(option, value, 0),
  proxied: boolean,
};

function guard(option: string, value: unknown): CheckedGuard {
  if (typeof value === 'boolean') return value;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(option, value, 'true, false, or an object such as { longestTtl: "1m" }');
  }
  return checked(value, GUARD_CHECKS, `option \`${option}\``, `${option}.`);
}

function resolvedGuard(
  given: CheckedGuard,
  { ttl, holdAtLeast }: ResolvedLockOptions,
): ResolvedGuard | undefined {
  if (given === false) return undefined;
  const {
    longestTtl = Math.max(ttl, holdAtLeast, DEFAULT_LONGEST_TTL),
    lag,
    proxied = false,
  } = given === true ? {} : given;
  return { longestTtl, lag, proxied };
}

interface CheckedReplicas {
  readonly atLeast: number;
  readonly timeout?: number;
  readonly aof?: boolean;
}

const REPLICA_CHECKS: Record<keyof ReplicaOptions, Check> = {
  atLeast: (option, value) => {
    if (Number.isInteger(value) && Number(value) >= 1 && Number(value) <= MOST_REPLICAS)
      return value;
    throw invalid(option, value, `a whole number from 1 to ${MOST_REPLICAS}`);
  },
  timeout: (option, value) => duration(option, value, 1),
  aof: boolean,
};

function replicas(option: string, value: unknown): CheckedReplicas {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(option, value, 'an object such as { atLeast: 1 }');
  }
  const given = checked(value, REPLICA_CHECKS, `option \`${option}\``, `${option}.`);
  if (given['atLeast'] === undefined) {
    throw invalid(`${option}.atLeast`, undefined, `a whole number from 1 to ${MOST_REPLICAS}`);
  }
  return given as unknown as CheckedReplicas;
}

function resolvedReplicas(
  given: CheckedReplicas | undefined,
  commandTimeout: number,
): ResolvedReplicas | undefined {
  if (given === undefined) return undefined;
  const { atLeast, timeout = Math.max(1, Math.floor(commandTimeout / 4)), aof = false } = given;
  if (timeout >= commandTimeout) {
    throw invalid(
      'replicas.timeout',
      timeout,
      `less than \`commandTimeout\`, ${commandTimeout} ms`,
      'Redis answers only when it has waited for so long.',
    );
  }
  return { atLeast, timeout, aof };
}

export function boolean(option: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw invalid(option, value, 'true or false');
  return value;
}

export function oneOf(option: string, value: unknown, allowed: readonly string[]): unknown {
  if (!allowed.includes(value as string))
    throw invalid(option, value, `one of ${allowed.map((a) => `'${a}'`).join(', ')}`);
  return value;
}

function abortSignal(option: string, value: unknown): AbortSignal {
  // By shape: a signal of another realm (a test runner's sandbox, a polyfill) is as good.
  const signal = value as Partial<AbortSignal> | null;
  if (
    typeof signal !== 'object' ||
    typeof signal?.aborted !== 'boolean' ||
    typeof signal.addEventListener !== 'function'
  ) {
    throw invalid(option, value, 'an AbortSignal', 'Pass `controller.signal`, not the controller.');
  }
  return signal as AbortSignal;
}

function fencingToken(option: string, value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 1) {
    throw invalid(option, value, 'a fencing token, as a lock or `inspect` shows it');
  }
  return value as number;
}

function limit(option: string, value: unknown): number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > LARGEST_LIMIT) {
    throw invalid(option, value, `a whole number from 1 to ${LARGEST_LIMIT}`);
  }
  return value as number;
}

function prefix(option: string, value: unknown): string {
  if (typeof value !== 'string' || !/^[^{}\s]{1,128}$/u.test(value) || !value.isWellFormed()) {
    // A brace would move the Cluster hash tag, and two locks could share a Redis key.
    throw invalid(option, value, 'a text of 1 to 128 characters without braces or white space');
  }
  return value;
}

function text(option: string, value: unknown, longest: number): string {
  if (typeof value !== 'string' || value === '' || value.length > longest) {
    throw invalid(option, value, `a text of 1 to ${longest} characters`);
  }
  return value;
}

function connection(option: string, value: unknown): unknown {
  if (value === 'memory') return value;
  if (Array.isArray(value)) return nodes(option, value);
  if (
    typeof value === 'string'
      ? /^rediss?:\/\/./.test(value)
      : typeof value === 'object' && value !== null && !Array.isArray(value)
  ) {
    return value;
  }
  throw invalid(
    option,
    value,
    "a URL that begins with redis:// or rediss://, ioredis options, an ioredis instance or Cluster, an array of three or more independent ones, or 'memory'",
  );
}

function nodes(option: string, value: readonly unknown[]): readonly unknown[] {
  if (value.length < FEWEST_NODES) {
    throw invalid(
      option,
      value,
      `at least ${FEWEST_NODES} independent nodes, where it's an array`,
      `It has ${value.length}: with fewer than ${FEWEST_NODES}, one that fails stops all. For one Redis, give it without the array.`,
    );
  }
  const known = new Map<string, number>();
  for (const [index, node] of value.entries()) {
    const at = `${option}[${index}]`;
    const isOther =
      node === 'memory' || (node as { isCluster?: unknown } | null)?.isCluster === true;
    if (isOther || Array.isArray(node)) {
      throw invalid(at, node, 'a URL, ioredis options or an ioredis instance of one server');
    }
    const address = givenAddress(connection(at, node) as QuorumConnection[number]);
    const before = known.get(address);
    if (before !== undefined) {
      throw new LockConfigError(
        `Expected the nodes in option \`${option}\` to be independent servers, got ${address} twice (${option}[${before}] and ${at}): one server must not count twice. Name each once, whatever the database.`,
        at,
        node,
      );
    }
    known.set(address, index);
  }
  return value;
}

export function invalid(
  option: string,
  value: unknown,
  expected: string,
  hint = '',
): LockConfigError {
  return new LockConfigError(
    `Expected option \`${option}\` to be ${expected}, got ${shown(value)}.${hint === '' ? '' : ` ${hint}`}`,
    option,
    value,
  );
}

function shown(value: unknown): string {
  if (typeof value === 'string') return `'${value.slice(0, 60)}'`;
  if (typeof value === 'object' && value !== null)
    return Array.isArray(value) ? 'an array' : 'an object';
  if (typeof value === 'function') return 'a function';
  return String(value);
}
