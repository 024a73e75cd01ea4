import type { KeyPattern } from '../key-pattern.js';
import { LockName } from '../lock-name.js';
import type {
  AbandonOutcome,
  ClaimReply,
  ClaimRequest,
  FinishOutcome,
  FinishRequest,
  JobsOutcome,
  ListOutcome,
  RunStore,
  StoredRun,
} from './run-store.js';

/** The runs of each job, by its name's owner key, newest first; `until`: when they expire, as a wall clock's time. */
export type JobRuns = Map<string, { runs: readonly StoredRun[]; until: number }>;

/** Runs in this process's memory, by the same rules as the scripts of the same names. */
export class MemoryRunStore implements RunStore {
  constructor(private readonly jobs: JobRuns) {}

  async claim(name: LockName, request: ClaimRequest): Promise<ClaimReply> {
    const { run: mine, instant, per, alive } = request;
    const now = Date.now();
    this.#forget(name, request.abandoned);
    const runs = this.#bury(name, request.dead);
    const same = nearestOf(runs, instant, per);
    const last = runs.find(({ state }) => state !== 'skipped');
    const running = runs.filter(({ state }) => state === 'running');

    if (same?.state === 'running') {
      return { kind: same.token === mine.token ? 'begun' : 'running', run: same, running };
    }
    if (same !== undefined) {
      const mayBegin = same.state === 'crashed' && same.attempt < request.attempts;
      const overtaken = last !== undefined && last.instant > same.instant;
      if (!mayBegin || overtaken) return { kind: 'decided', run: same, running };
    } else if (last !== undefined && last.instant > instant) {
      return { kind: 'late', run: last, running };
    } else {
      // What was known of a tick before the last that is kept of so many, may be forgotten.
      const oldest = ticksOf(runs)[request.keep - 1];
      const [newest] = runs;
      if (newest !== undefined && oldest !== undefined && oldest > instant) {
        return { kind: 'late', run: newest, running };
      }
    }

    const [behind] = running;
    if (request.overlap === 'skip' && behind !== undefined) {
      if (running.some(({ token }) => !alive.includes(token))) {
        return { kind: 'unsure', run: undefined, running };
      }
      if (same !== undefined) return { kind: 'decided', run: same, running };
      const { lock: _lock, fence: _fence, ...who } = mine;
      const skipped: StoredRun = {
        ...who,
        state: 'skipped',
        instant,
        attempt: 1,
        start: now,
        behind: behind.tick,
      };
      this.#record(name, request, skipped);
      return { kind: 'decided', run: skipped, running };
    }

    if (mine.lock === undefined) return { kind: 'open', run: same, running };
    if (now > Number(mine.fence) / 1_000 + request.within) {
      return { kind: 'expired', run: undefined, running };
    }
    const begun: StoredRun = {
      ...mine,
      state: 'running',
      instant: same?.instant ?? instant,
      tick: same?.tick ?? mine.tick,
      attempt: same === undefined ? 1 : same.attempt + 1,
      start: now,
    };
    this.#record(name, request, begun);
    return { kind: 'begun', run: begun, running };
  }

  async abandon(name: LockName, token: string): Promise<AbandonOutcome> {
    this.#forget(name, [token]);
    return { kind: 'abandoned' };
  }

  async names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome> {
    const names: LockName[] = [];
    for (const owner of this.jobs.keys()) {
      const name = LockName.ofOwner(prefix, owner);
      if (name !== undefined && pattern.matches(name.key) && this.#runsOf(name).length > 0) {
        names.push(name);
      }
    }
    return { kind: 'names', names };
  }

  async finish(name: LockName, { retain, ...end }: FinishRequest): Promise<FinishOutcome> {
    const now = Date.now();
    const runs = this.#runsOf(name);
    const run = runs.find(({ token }) => token === end.token);
    if (run === undefined) return { kind: 'gone' };
    const finished = { ...run, ...end, duration: Math.max(0, now - run.start) };
    this.#store(
      name,
      runs.map((each) => (each === run ? finished : each)),
      now + retain,
    );
    return { kind: 'finished' };
  }

  async list(name: LockName, dead: readonly string[]): Promise<ListOutcome> {
    return { kind: 'listed', runs: this.#bury(name, dead) };
  }

  #runsOf({ owner }: LockName): readonly StoredRun[] {
    const now = Date.now();
    // Nobody else would take out the jobs that aren't asked for any more, and there are few.
    for (const [key, { until }] of this.jobs) if (until <= now) this.jobs.delete(key);
    return this.jobs.get(owner)?.runs ?? [];
  }

  #store({ owner }: LockName, runs: readonly StoredRun[], until: number): void {
    this.jobs.set(owner, { runs, until });
  }

  #bury(name: LockName, dead: readonly string[]): readonly StoredRun[] {
    const runs = this.#runsOf(name);
    if (!runs.some(({ state, token }) => state === 'running' && dead.includes(token))) return runs;
    const buried = runs.map((run): StoredRun =>
      run.state === 'running' && dead.includes(run.token) ? { ...run, state: 'crashed' } : run,
    );
    this.#store(name, buried, this.jobs.get(name.owner)?.until ?? 0);
    return buried;
  }

  #forget(name: LockName, tokens: readonly string[]): void {
    const runs = this.#runsOf(name);
    const left = runs.filter(
      ({ state, token }) => !tokens.includes(token) || (state !== 'running' && state !== 'crashed'),
    );
    if (left.length < runs.length) this.#store(name, left, this.jobs.get(name.owner)?.until ?? 0);
  }

  #record(name: LockName, { keep, retain }: ClaimRequest, record: StoredRun): void {
    const runs = [record, ...this.#runsOf(name)].toSorted(newestFirst);
    const ticks = ticksOf(runs).slice(0, keep);
    const kept = runs.filter(
      (run) =>
        run === record ||
        run.state === 'running' ||
        (ticks.includes(run.instant) && run.start + retain >= record.start),
    );
    this.#store(name, kept, record.start + retain);
  }
}

/** Their instants, newest first. */
function ticksOf(runs: readonly StoredRun[]): readonly number[] {
  return [...new Set(runs.map(({ instant }) => instant))];
}

/** The last attempt at the tick that an instant belongs to. */
function nearestOf(
  runs: readonly StoredRun[],
  instant: number,
  per: number,
): StoredRun | undefined {
  let nearest: StoredRun | undefined;
  let least = per / 2;
  for (const run of runs) {
    const distance = Math.abs(run.instant - instant);
    if (distance < least) [nearest, least] = [run, distance];
  }
  return nearest;
}

function newestFirst(a: StoredRun, b: StoredRun): number {
  return b.instant - a.instant || b.attempt - a.attempt;
}
