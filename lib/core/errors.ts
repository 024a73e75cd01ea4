/**
 * The errors a caller can meet. Each has a `name`, a stable `code` to match on, its facts as fields, a `cause` where
 * another error is behind it, and a message that says what to do.
 *
 * Match on `code` or {@link LockError.is}, not on `instanceof`, where a program may load this package both as ESM
 * and as CommonJS: each copy has its own classes.
 */

import { type Diagnosis, findingLine } from './safety.js';

const BRAND = Symbol.for('nestjs-redis-lock.LockError');

export type LockErrorCode =
  | 'LOCK_BUSY'
  | 'LOCK_TIMEOUT'
  | 'LOCK_UNAVAILABLE'
  | 'LOCK_LOST'
  | 'LOCK_DEADLOCK'
  | 'LOCK_KEY'
  | 'LOCK_CONFIG'
  | 'LOCK_SAFETY';

/** What every error of this library is. */
export abstract class LockError extends Error {
  abstract override readonly name: string;
  abstract readonly code: LockErrorCode;
  /** The key that the call was about, where there is one. */
  readonly key: string | undefined;

  constructor(message: string, key?: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.key = key;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** Whether a value is an error of this library, whichever copy of it made the value. */
  static is(value: unknown): value is LockError {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

/** Somebody else holds the key, and the caller asked not to wait (`onBusy: 'throw'`). */
export class LockBusyError extends LockError {
  override readonly name = 'LockBusyError';
  readonly code = 'LOCK_BUSY';
  /** How long the present holder's lease lasts if it isn't renewed, in ms; `undefined` where it isn't known. */
  readonly remaining: number | undefined;

  constructor(key: string, remaining?: number) {
    super(
      `The lock ${quote(key)} is held by another. Try again later, or wait for it with onBusy: 'wait' and a waitTimeout.`,
      key,
    );
    this.remaining = remaining;
  }
}

/** The key stayed held by others for the whole `waitTimeout`. */
export class LockTimeoutError extends LockError {
  override readonly name = 'LockTimeoutError';
  readonly code = 'LOCK_TIMEOUT';
  /** How long the caller waited, in ms. */
  readonly waited: number;
  /** The keys that the caller's own call chain held meanwhile. With two of them taken in opposite order, this is a deadlock. */
  readonly heldKeys: readonly string[];

  constructor(key: string, waited: number, heldKeys: readonly string[] = []) {
    const deadlockHint =
      heldKeys.length > 0
        ? ` This caller held ${heldKeys.map(quote).join(', ')} meanwhile: if another takes these keys in the opposite order, both wait for each other; take them in one order everywhere.`
        : '';
    super(
      `The lock ${quote(key)} was not free within ${Math.round(waited)} ms. Raise waitTimeout, shorten the work under the lock, or skip with onBusy: 'skip'.${deadlockHint}`,
      key,
    );
    this.waited = waited;
    this.heldKeys = heldKeys;
  }
}

/**
 * Why a lock can't be had, whoever holds it: `unreachable` (no connection), `no-answer` (connected, but no reply within
 * `commandTimeout`, or the connection broke), `refused` (Redis answered with an error), `replicas` (too few have confirmed
 * the grant), `guard` (the server may have forgotten leases that still run), `quorum` (of several independent nodes too few
 * answered), `shutting-down` (this process is closing).
 */
export type UnavailableReason =
  'unreachable' | 'no-answer' | 'refused' | 'replicas' | 'guard' | 'quorum' | 'shutting-down';

/** What one of several independent nodes said. */
export interface NodeAnswer {
  /** Its address, without credentials. */
  readonly node: string;
  /** `late`: the command came too late to be followed; `done`, `taken`: it was followed, or the key isn't this token's there. */
  readonly answer: 'granted' | 'busy' | 'late' | 'done' | 'taken' | UnavailableReason;
  /** Who holds the key there, where the node is busy and says so. */
  readonly holder?: string;
  /** `guard`: in how many ms this node grants again, where that's known. */
  readonly retryAfter?: number | undefined;
  readonly cause?: unknown;
}

/** What more is known, by reason. */
export interface UnavailableFacts {
  /** `guard`: in how many ms the server grants again. `quorum`: in how many a majority does, if nothing else keeps it from it. */
  readonly retryAfter?: number | undefined;
  /** `replicas`: how many have confirmed the grant, and how many were to. */
  readonly confirmed?: number | undefined;
  readonly wanted?: number | undefined;
  /** `quorum`: what each node answered. */
  readonly nodes?: readonly NodeAnswer[] | undefined;
}

const UNAVAILABLE_REMEDY: Record<UnavailableReason, string> = {
  unreachable:
    'There is no connection to Redis: check that it runs and that `connection` is right.',
  'no-answer':
    'Redis did not answer in time: check its load and the network, or raise commandTimeout.',
  refused: 'Redis refused the command: see `cause`.',
  replicas:
    'Too few replicas have confirmed the grant, so that a failover could lose it, and it was undone: check the replicas and their links, or change the option `replicas`.',
  guard:
    'The server may have forgotten leases that still run (it restarted, was promoted, or lost its data), so that it grants nothing new for a while: try again after `retryAfter`. On a new installation, call initializeGuard() once.',
  quorum:
    'Too few of the Redis nodes could be asked: check those that did not answer, or raise nodeTimeout.',
  'shutting-down':
    'This process is shutting down and grants no more locks: let another replica serve the call.',
};

const GUARD_FAILED =
  "Whether the server has forgotten leases that still run could not be found out, so that it grants nothing: see `cause`. The guard's scripts need INFO, GET, SET and PERSIST, and a record of theirs under the prefix.";

/** Redis can't be asked, or can't be trusted at the moment, so nobody knows whether the key is free; the guarded work was not started. */
export class LockUnavailableError extends LockError {
  override readonly name = 'LockUnavailableError';
  readonly code = 'LOCK_UNAVAILABLE';
  readonly reason: UnavailableReason;
  /**
   * With reason `guard`: in how many ms the server grants again; `undefined` where that couldn't be found out. With reason
   * `quorum`: in how many ms a majority grants again, where only the guards of nodes stand in the way.
   */
  readonly retryAfter: number | undefined;
  /** With reason `replicas`: how many have confirmed the grant, where that's known. */
  readonly confirmed: number | undefined;
  /** With reason `replicas`: how many were to confirm it. */
  readonly wanted: number | undefined;
  /** With reason `quorum`: what each of the nodes answered, where it's known. */
  readonly nodes: readonly NodeAnswer[] | undefined;

  constructor(
    key: string | undefined,
    reason: UnavailableReason,
    cause?: unknown,
    { retryAfter, confirmed, wanted, nodes }: UnavailableFacts = {},
  ) {
    const subject =
      key === undefined ? 'Locks are unavailable' : `The lock ${quote(key)} is unavailable`;
    const known =
      confirmed !== undefined
        ? ` (${confirmed} of ${wanted} replicas)`
        : retryAfter !== undefined
          ? ` (${forAnother(retryAfter)})`
          : '';
    const remedy =
      reason === 'guard' && retryAfter === undefined ? GUARD_FAILED : UNAVAILABLE_REMEDY[reason];
    const told = nodes === undefined ? '' : ` ${nodes.map(answerOf).join('; ')}.`;
    super(`${subject}${known}. ${remedy}${told}`, key, cause);
    this.reason = reason;
    this.retryAfter = retryAfter;
    this.confirmed = confirmed;
    this.wanted = wanted;
    this.nodes = nodes;
  }
}

/**
 * How a lease ended against its holder's will: `expired` (not renewed before its deadline), `taken` (the server says
 * that it's another's), `forced` (somebody released it by force), `max-hold` (`maxHold` was reached), `shutdown` (the
 * process closed before the holder was done), `released` (used after its release).
 */
export type LostReason = 'expired' | 'taken' | 'forced' | 'max-hold' | 'shutdown' | 'released';

/** Who released a lock by force, and why, as far as they said. */
export interface ForcedBy {
  readonly host: string;
  readonly pid: number;
  readonly application: string | undefined;
  readonly reason: string | undefined;
}

const LOST_REMEDY: Record<LostReason, string> = {
  expired:
    'It was not renewed in time (Redis unreachable, or the event loop blocked for longer than the ttl). Raise ttl, or split the blocking work.',
  taken:
    'Redis no longer has it (data lost, evicted, or removed by hand). Check persistence and maxmemory-policy.',
  forced:
    "Somebody released it by force, and another may hold it now. Undo or give up what isn't done; `by` says whom to ask.",
  'max-hold': 'It was held for longer than maxHold. Raise maxHold, or find what got stuck.',
  shutdown: 'The process shut down before its holder was done. Raise drainTimeout.',
  released: 'It was already released. Do the work before release().',
};

/** The lock is no longer this holder's. What it wrote since may overlap with another's work, unless the resource checks the fencing token. */
export class LockLostError extends LockError {
  override readonly name = 'LockLostError';
  readonly code = 'LOCK_LOST';
  readonly reason: LostReason;
  /** The fencing token under which the lost lock was held. */
  readonly fencingToken: number;
  /** Who released it by force, where somebody did. */
  readonly by: ForcedBy | undefined;

  constructor(key: string, reason: LostReason, fencingToken: number, by?: ForcedBy) {
    const who = by === undefined ? '' : ` It was ${described(by)}.`;
    super(`The lock ${quote(key)} is no longer held. ${LOST_REMEDY[reason]}${who}`, key);
    this.reason = reason;
    this.fencingToken = fencingToken;
    this.by = by;
  }

  /** Of a lock that is used after its release. Several keys may have different tokens: the largest stands for all. */
  static afterRelease(lock: {
    readonly key: string;
    readonly fencingTokens: ReadonlyMap<string, number>;
  }): LockLostError {
    return new LockLostError(lock.key, 'released', Math.max(...lock.fencingTokens.values()));
  }
}

/**
 * To wait would have been in vain: the caller waits for what can't be released before the caller itself is done.
 * It was refused at once; the others of the circle go on.
 */
export class LockDeadlockError extends LockError {
  override readonly name = 'LockDeadlockError';
  readonly code = 'LOCK_DEADLOCK';
  /** Who waits for whom: each holds the key before and waits for the one after; the first is the last. */
  readonly circle: readonly string[];

  private constructor(message: string, key: string, circle: readonly string[]) {
    super(message, key);
    this.circle = circle;
  }

  /** A reader below its own shared lock asked to be alone. */
  static ofUpgrade(key: string): LockDeadlockError {
    return new LockDeadlockError(
      `The lock ${quote(key)} is shared by this caller already, and can't become another's kind of lock: two who both tried would wait for each other. Take it exclusively from the start, or release it first.`,
      key,
      [key, key],
    );
  }

  /** `circle`: keys, each held by one who waits for the next. */
  static ofCircle(key: string, circle: readonly string[]): LockDeadlockError {
    return new LockDeadlockError(
      `Waiting for the lock ${quote(key)} would never end: ${circle.map(quote).join(' → ')}, where each is held by one who waits for the next. Take these keys in one order everywhere, or all at once.`,
      key,
      circle,
    );
  }
}

/** A key that can't name a lock: empty, too long, or made from a missing or non-scalar part. */
export class LockKeyError extends LockError {
  override readonly name = 'LockKeyError';
  readonly code = 'LOCK_KEY';
}

/** An option with a value it can't have, or the library used in a way it can't work. */
export class LockConfigError extends LockError {
  override readonly name = 'LockConfigError';
  readonly code = 'LOCK_CONFIG';
  /** The option that is wrong, where it's one. */
  readonly option: string | undefined;
  readonly value: unknown;

  constructor(message: string, option?: string, value?: unknown, cause?: unknown) {
    super(message, undefined, cause);
    this.option = option;
    this.value = value;
  }
}

/** With `safety: 'strict'`: the servers and options don't keep the promises, or it can't be found out whether they do. */
export class LockSafetyError extends LockError {
  override readonly name = 'LockSafetyError';
  readonly code = 'LOCK_SAFETY';
  readonly diagnosis: Diagnosis;

  constructor(diagnosis: Diagnosis) {
    const toChange = diagnosis.findings.filter(({ severity }) => severity !== 'advice');
    super(
      `Locks are less safe here than \`safety: 'strict'\` asks for. To change, or to say \`safety: 'report'\`:\n${toChange.map((finding) => `- ${findingLine(finding)}`).join('\n')}`,
    );
    this.diagnosis = diagnosis;
  }
}

function answerOf({ node, answer, holder, retryAfter, cause }: NodeAnswer): string {
  const { message = '' } = (cause ?? {}) as Partial<Error>;
  const why = retryAfter === undefined ? (holder ?? message) : forAnother(retryAfter);
  return `${node}: ${answer}${why === '' ? '' : ` (${why})`}`;
}

function forAnother(milliseconds: number): string {
  return `for another ${Math.ceil(milliseconds)} ms`;
}

function described({ host, pid, application, reason }: ForcedBy): string {
  const process = `process ${pid} on ${quote(host)}`;
  const named = application === undefined ? process : `${quote(application)}, ${process}`;
  return reason === undefined ? named : `${named}: ${JSON.stringify(reason)}`;
}

/** A key as it reads in a message: quoted, control characters escaped, and short, since keys may come from requests. */
function quote(key: string): string {
  return JSON.stringify(key.length > 100 ? `${key.slice(0, 100)}…` : key);
}
