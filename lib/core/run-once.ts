import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';

import { watchAbort } from './abort-watch.js';
import { Backoff } from './backoff.js';
import { type LockBackend, standingOf } from './backend/lock-backend.js';
import type {
  ClaimOutcome,
  ClaimReply,
  ClaimRequest,
  FinishRequest,
  StoredRun,
} from './backend/run-store.js';
import type { Unavailable } from './backend/unavailable.js';
import { runHolding } from './call-chain.js';
import type { CleanUp } from './clean-up.js';
import type { Clock, Timer } from './clock.js';
import { LONGEST_DURATION } from './duration.js';
import { LockConfigError, LockTimeoutError, LockUnavailableError } from './errors.js';
import type { KeyPattern } from './key-pattern.js';
import type { HeldLock, Lock } from './lock.js';
import { LockName, runPrefix } from './lock-name.js';
import { type LockOptions, type ResolvedLockOptions, resolveLockOptions } from './options.js';
import {
  type ResolvedRunOnceOptions,
  type RunOnceOptions,
  resolveRunOnceOptions,
} from './run-options.js';
import {
  doneWith,
  failedWith,
  recordOf,
  type RunEnd,
  type RunInfo,
  type RunOutcome,
  type RunRecord,
  type SkipReason,
} from './run-record.js';
import { unavailableError } from './wait-queue.js';

/** A wall clock's reading that is this near to a multiple of the period, as a part of it, stands for that multiple. */
const NEAR = 1 / 3;
const SECOND = 1_000;
const MINUTE = 60_000;
/** With `retryCrashed`: what crashes its runner twice, may crash every replica. */
const MOST_ATTEMPTS = 2;
const TOKEN_BYTES = 9;
/** A tick that's longer ago is of no use to whoever could claim it again. */
const LONGEST_ABANDONING = 3_600_000;
const FIRST_RETRY = 50;
const LONGEST_RETRY = 1_000;

/**
 * Runs each tick of a scheduled job once, on whichever replica claims it first.
 *
 *     look ──open──▶ lock ──▶ claim ──begun──▶ work ──▶ record its end ──▶ release
 *      │ ▲                      ├─unknown, or begun too late─▶ abandoned behind the caller's back, and thrown
 *      │ │                      └─refused─┐
 *      │ └─────────────────────────────────┘
 *      ├─ decided | late ──▶ skipped
 *      └─ running, and it may be retried ──▶ wait for the lock of its runner; it has ended ──▶ claim
 *
 * Which tick a call is for, the wall clock of its own process says: that is the clock that made it fall due. The claim
 * is one step at the server, which knows the ticks by their instants: less than half a period from a recorded one is that
 * one, so that neither the clocks nor the starts of the replicas must agree. (To round to a multiple of the period alone
 * wouldn't do: where a schedule falls between two multiples, as every hour at half past, a moment decides which it is.)
 *
 * A run holds an ordinary lock, of a name of its own, from before it's claimed until its end is recorded. Nobody else ever
 * takes that name but who waits for the end of this very run. So to be recorded as running and to hold no lock is to
 * have crashed, once and for all; whoever meets such a record finds that out by asking for the lock, and tells the store.
 */
export class RunOnce {
  /** Runs that were claimed, or may have been, and never begun: those whose removal isn't confirmed, by job. */
  readonly #abandoned = new Map<string, Set<string>>();
  #claims = 0;

  constructor(private readonly context: RunOnceContext) {}

  /** How many claims are under way that may have to be taken back. */
  get claims(): number {
    return this.#claims;
  }

  async run<T>(
    job: string,
    given: RunOnceOptions,
    work: (lock: Lock, run: RunInfo) => T | PromiseLike<T>,
  ): Promise<RunOutcome<T>> {
    const { defaults, clock, wallClock } = this.context;
    const options = resolveRunOnceOptions(given, defaults);
    if (typeof work !== 'function') {
      throw new LockConfigError(
        'Expected a function to run once a tick: runOnce(job, { per }, work).',
      );
    }
    const name = jobName(options.prefix, job);
    const giveUpAt = clock.now() + options.per;
    const abandoned = () => [...(this.#abandoned.get(name.owner) ?? [])];
    const claim = new Claim(this.context, name, options, wallClock(), abandoned);
    for (;;) {
      const seen = await claim.look();
      if (seen.kind === 'decided' || seen.kind === 'late') return skipped(job, seen);
      if (seen.kind === 'running' && !claim.mayRetry(seen.run)) return skipped(job, seen);
      // One of its own each time: that of the last try may be taken yet, where its release has failed.
      const id = seen.run?.lock ?? randomId();
      const lock = await this.#lockFor(claim, options, id, seen.run, giveUpAt);
      const run = lock && (await this.#begin(claim, lock, id, seen.run));
      if (lock !== undefined && run !== undefined) {
        return this.#perform(name, options, lock, run, work);
      }
      // Somebody was faster, or it has waited for a period: look again.
    }
  }

  /** The records of a job, newest first. */
  async list(job: string, options: Pick<LockOptions, 'prefix'> | undefined): Promise<RunRecord[]> {
    const { prefix } = resolveLockOptions(options, this.context.defaults);
    return this.#records(prefix, jobName(prefix, job));
  }

  /** The records of all jobs whose names match: by job, the newest first. */
  async query(prefix: string, pattern: KeyPattern): Promise<ReadonlyMap<string, RunRecord[]>> {
    const { exact } = pattern;
    const { names } =
      exact === undefined
        ? answered(undefined, await this.context.backend.runs.names(`${prefix}:run`, pattern))
        : { names: [jobName(prefix, exact)] };
    const found = new Map<string, RunRecord[]>();
    for (const name of names) {
      const records = await this.#records(prefix, name);
      if (records.length > 0) found.set(name.key, records);
    }
    return found;
  }

  async #records(prefix: string, name: LockName): Promise<RunRecord[]> {
    const { backend } = this.context;
    const job = name.key;
    const listed = answered(job, await backend.runs.list(name, []));
    const findings = new Findings(this.context, prefix, job);
    await findings.ask(listed.runs.filter(({ state }) => state === 'running'));
    const { runs } =
      findings.dead.length === 0
        ? listed
        : answered(job, await backend.runs.list(name, findings.dead));
    return runs.map((run) => recordOf(job, run));
  }

  /** A lock for a run: a new one, or that of the earlier attempt, once its runner no longer has it. */
  async #lockFor(
    claim: Claim,
    options: ResolvedRunOnceOptions,
    id: string,
    earlier: StoredRun | undefined,
    giveUpAt: number,
  ): Promise<HeldLock | undefined> {
    const { clock, defaults } = this.context;
    const { job } = claim;
    const { ttl, maxHold, prefix } = options;
    const held = {
      ttl,
      mode: 'exclusive' as const,
      renew: true,
      // It's called like its job; the prefix tells the runs apart.
      prefix: runPrefix(prefix, id),
      ...(maxHold < Number.POSITIVE_INFINITY && { maxHold }),
      // A default of the locker's would keep those waiting who wait for the end of this run.
      ...(defaults.holdAtLeast > 0 && { holdAtLeast: 1 }),
    };
    if (earlier === undefined) return this.context.acquire(job, { ...held, onBusy: 'throw' });
    const waitTimeout = Math.min(Math.floor(giveUpAt - clock.now()), LONGEST_DURATION);
    try {
      if (waitTimeout >= 1) {
        return await this.context.acquire(job, { ...held, onBusy: 'wait', waitTimeout });
      }
    } catch (error) {
      if (!(error instanceof LockTimeoutError)) throw error;
    }
    claim.retryNoMore();
    return undefined;
  }

  /** Claims the tick under the lock; without success, the lock is given back. */
  async #begin(
    claim: Claim,
    lock: HeldLock,
    id: string,
    earlier: StoredRun | undefined,
  ): Promise<StoredRun | undefined> {
    this.#claims += 1;
    try {
      if (earlier?.fence === String(lock.fencingToken)) {
        // Below that very run, whose lock was entered again: it will never end before this call does.
        claim.retryNoMore();
      } else {
        if (earlier !== undefined) claim.findings.bury(earlier);
        const refusedAfter = this.context.clock.now() + this.context.commandTimeout;
        const outcome = await claim.begin(id, lock);
        if (outcome.kind === 'unavailable' && outcome.mayHaveRun) {
          this.#abandon(claim, refusedAfter);
        }
        const reply = answered(claim.job, outcome);
        // Claimed, and the lock gone before the work could begin: the event loop was blocked, or the locker closed.
        const tooLate = reply.kind === 'begun' && !lock.isHeld;
        if (tooLate) this.#abandon(claim);
        if (tooLate || reply.kind === 'expired') {
          const cause = lock.isHeld ? undefined : lock.lostError();
          throw new LockUnavailableError(lock.key, 'no-answer', cause);
        }
        if (reply.kind === 'begun') return reply.run;
      }
    } catch (error) {
      await lock.release();
      throw error;
    } finally {
      this.#claims -= 1;
      this.context.settled();
    }
    await lock.release();
    return undefined;
  }

  /**
   * Takes a claim back behind the caller's back. Sent before the lock is given up, so that who waits for it finds the tick
   * as it was; until it's confirmed, the claims of this process ask for it as well.
   */
  #abandon({ name, token, per }: Claim, refusedAfter?: number): void {
    const { owner } = name;
    const abandoned = this.#abandoned.get(owner) ?? new Set();
    this.#abandoned.set(owner, abandoned.add(token));
    const lasts = Math.min(per, LONGEST_ABANDONING);
    void this.context.cleanUp.abandon(name, token, lasts, refusedAfter).then(() => {
      abandoned.delete(token);
      if (abandoned.size === 0) this.#abandoned.delete(owner);
    });
  }

  async #perform<T>(
    name: LockName,
    options: ResolvedRunOnceOptions,
    lock: HeldLock,
    run: StoredRun,
    work: (lock: Lock, run: RunInfo) => T | PromiseLike<T>,
  ): Promise<RunOutcome<T>> {
    const tick = new Date(run.tick);
    const { attempt } = run;
    const end = async (how: RunEnd) => {
      await this.#finish(name, lock, { ...how, token: run.token, retain: options.retain }, options);
      await lock.release();
    };
    let result: T;
    try {
      result = await runHolding(lock, lock.keeper, () => work(lock, { tick, attempt }));
    } catch (error) {
      await end(failedWith(error));
      throw error;
    }
    // Asked before its end is recorded: what happens then is no longer the work's business.
    if (lock.state === 'lost') {
      await end(failedWith(lock.lostError()));
      throw lock.lostError();
    }
    await end(doneWith(result));
    return { kind: 'ran', tick, attempt, result };
  }

  /**
   * Records the end, again and again where Redis can't be asked: without that, the run counts as crashed. For a ttl, and no
   * longer than the lock is held, since others may have recorded something else by then.
   */
  async #finish(
    name: LockName,
    lock: HeldLock,
    request: FinishRequest,
    { ttl }: ResolvedRunOnceOptions,
  ): Promise<void> {
    const { backend, clock, random } = this.context;
    const giveUpAt = clock.now() + ttl;
    const backoff = new Backoff(FIRST_RETRY, LONGEST_RETRY, random);
    for (;;) {
      const outcome = await backend.runs.finish(name, request);
      if (outcome.kind !== 'unavailable' || clock.now() >= giveUpAt || !lock.isHeld) return;
      await this.#pause(backoff.next(), lock.signal);
    }
  }

  #pause(delay: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      let timer: Timer | undefined = undefined;
      const unwatch = watchAbort(signal, () => {
        timer?.cancel();
        resolve();
      });
      timer = this.context.clock.after(delay, () => {
        unwatch();
        resolve();
      });
    });
  }
}

/** One call's claim on its tick, with what it has found out so far. */
class Claim {
  readonly job: string;
  readonly name: LockName;
  /** Of this call, and so of the run that it may begin. */
  readonly token = randomId();
  readonly findings: Findings;
  readonly #context: RunOnceContext;
  readonly #abandoned: () => readonly string[];
  readonly #request: Omit<ClaimRequest, 'attempts' | 'dead' | 'alive' | 'abandoned'>;
  #attempts: number;

  constructor(
    context: RunOnceContext,
    name: LockName,
    options: ResolvedRunOnceOptions,
    reading: number,
    abandoned: () => readonly string[],
  ) {
    this.#abandoned = abandoned;
    const { at, per, overlap, keep, retain, retryCrashed, prefix } = options;
    const instant = at?.getTime() ?? instantOf(reading, per);
    const { application } = context;
    this.job = name.key;
    this.#context = context;
    this.name = name;
    this.#attempts = retryCrashed ? MOST_ATTEMPTS : 1;
    this.findings = new Findings(context, prefix, name.key);
    this.#request = {
      run: {
        token: this.token,
        tick: at === undefined ? shownOf(reading, per) : instant,
        host: hostname(),
        pid: process.pid,
        ...(application !== undefined && { application: application.toWellFormed() }),
      },
      instant,
      per,
      overlap,
      keep,
      retain,
      within: context.commandTimeout,
    };
  }

  /** Whether the tick could be begun, with nothing left unknown of those that run. */
  async look(): Promise<ClaimReply> {
    for (;;) {
      const seen = answered(this.job, await this.#ask(this.#request.run));
      // Each that is met is asked for once, so that it ends.
      const unknown = seen.running.filter((run) => !this.findings.has(run));
      await this.findings.ask(unknown);
      // Nothing that the store would decide otherwise, now that it's known.
      if (seen.kind !== 'unsure' && !unknown.some((run) => this.findings.isDead(run))) return seen;
    }
  }

  /** Begins it, under the lock that is so called. */
  begin(id: string, { fencingToken }: Lock): Promise<ClaimOutcome> {
    return this.#ask({ ...this.#request.run, lock: id, fence: String(fencingToken) });
  }

  get per(): number {
    return this.#request.per;
  }

  /** Whether a run that is under way is this call's business, should its runner crash. */
  mayRetry({ attempt }: StoredRun): boolean {
    return attempt < this.#attempts;
  }

  retryNoMore(): void {
    this.#attempts = 1;
  }

  #ask(run: ClaimRequest['run']): Promise<ClaimOutcome> {
    const { dead, alive } = this.findings;
    const abandoned = this.#abandoned();
    const request = { ...this.#request, attempts: this.#attempts, run, dead, alive, abandoned };
    return this.#context.backend.runs.claim(this.name, request);
  }
}

/** What is known of runs that are recorded as running: whether each still holds its lock. */
class Findings {
  readonly #alive = new Set<string>();
  readonly #dead = new Set<string>();

  constructor(
    private readonly context: RunOnceContext,
    private readonly prefix: string,
    private readonly job: string,
  ) {}

  get alive(): readonly string[] {
    return [...this.#alive];
  }

  get dead(): readonly string[] {
    return [...this.#dead];
  }

  isDead({ token }: StoredRun): boolean {
    return this.#dead.has(token);
  }

  has({ token }: StoredRun): boolean {
    return this.#alive.has(token) || this.#dead.has(token);
  }

  bury({ token }: StoredRun): void {
    this.#alive.delete(token);
    this.#dead.add(token);
  }

  /** @throws LockUnavailableError */
  async ask(runs: readonly StoredRun[]): Promise<void> {
    await Promise.all(
      runs.map(async (run) => {
        const { backend } = this.context;
        const name = LockName.of(runPrefix(this.prefix, run.lock ?? ''), this.job);
        const found = answered(this.job, await backend.query(name));
        const standing = standingOf(found, 'exclusive', Number(run.fence));
        // What may be running isn't run beside it.
        if (standing === 'gone') this.bury(run);
        else this.#alive.add(run.token);
      }),
    );
  }
}

/** What it takes from the locker that it's a part of. */
export interface RunOnceContext {
  readonly backend: LockBackend;
  readonly clock: Clock;
  /** In ms since the epoch. */
  readonly wallClock: () => number;
  readonly random: () => number;
  readonly defaults: ResolvedLockOptions;
  readonly commandTimeout: number;
  readonly cleanUp: CleanUp;
  readonly application: string | undefined;
  acquire(
    key: string,
    options: Omit<LockOptions, 'onBusy'> & { onBusy: 'wait' | 'throw' },
  ): Promise<HeldLock>;
  /** A claim is no longer under way. */
  settled(): void;
}

function randomId(): string {
  return randomBytes(TOKEN_BYTES).toString('base64url');
}

/** The instant that a reading of the wall clock stands for: a multiple of the period, where there's one near. */
function instantOf(reading: number, per: number): number {
  return near(reading, per) ?? Math.round(reading);
}

/** The tick as it's shown: schedules name minutes, and seconds where they are short. */
function shownOf(reading: number, per: number): number {
  return near(reading, Math.min(per, MINUTE)) ?? Math.round(reading / SECOND) * SECOND;
}

function near(reading: number, grain: number): number | undefined {
  const multiple = Math.round(reading / grain) * grain;
  return Math.abs(reading - multiple) <= grain * NEAR ? multiple : undefined;
}

/** What is recorded of a job: beside the locks, in a name space of its own. */
function jobName(prefix: string, job: string): LockName {
  return LockName.of(`${prefix}:run`, job);
}

function skipped(
  job: string,
  { kind, run }: { readonly kind: string; readonly run: StoredRun },
): RunOutcome<never> {
  const reason = kind === 'late' ? 'late' : REASONS[run.state];
  return { kind: 'skipped', reason, run: recordOf(job, run) };
}

const REASONS: Record<StoredRun['state'], SkipReason> = {
  running: 'claimed',
  done: 'done',
  failed: 'done',
  crashed: 'crashed',
  skipped: 'overlap',
};

/** @throws LockUnavailableError */
function answered<O extends { readonly kind: string }>(
  job: string | undefined,
  outcome: O | Unavailable,
): Exclude<O, Unavailable> {
  if (outcome.kind === 'unavailable') throw unavailableError(job, outcome as Unavailable);
  return outcome as Exclude<O, Unavailable>;
}
