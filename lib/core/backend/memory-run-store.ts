import type { KeyPattern } from '../key-pattern.js';
import { LockName } from '../lock-name.js';
import { buried, claimed, finished, forgotten, type RunHistory } from './run-history.js';
import type {
  AbandonOutcome,
  ClaimReply,
  ClaimRequest,
  FinishOutcome,
  FinishRequest,
  JobsOutcome,
  ListOutcome,
  RunStore,
} from './run-store.js';

/** The runs of each job, by its name's owner key, newest first; `until`: when they expire, as a wall clock's time. */
export type JobRuns = Map<string, { runs: RunHistory; until: number }>;

/** Runs in this process's memory. */
export class MemoryRunStore implements RunStore {
  constructor(private readonly jobs: JobRuns) {}

  async claim(name: LockName, request: ClaimRequest): Promise<ClaimReply> {
    const now = Date.now();
    const { reply, runs, retain } = claimed(this.#runsOf(name), request, now);
    this.#store(name, runs, retain === undefined ? undefined : now + retain);
    return reply;
  }

  async abandon(name: LockName, token: string): Promise<AbandonOutcome> {
    this.#store(name, forgotten(this.#runsOf(name), [token]));
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

  async finish(name: LockName, request: FinishRequest): Promise<FinishOutcome> {
    const now = Date.now();
    const { reply, runs, retain } = finished(this.#runsOf(name), request, now);
    this.#store(name, runs, retain === undefined ? undefined : now + retain);
    return reply;
  }

  async list(name: LockName, dead: readonly string[]): Promise<ListOutcome> {
    const runs = buried(this.#runsOf(name), dead);
    this.#store(name, runs);
    return { kind: 'listed', runs };
  }

  #runsOf({ owner }: LockName): RunHistory {
    const now = Date.now();
    // Nobody else would take out the jobs that aren't asked for any more, and there are few.
    for (const [key, { until }] of this.jobs) if (until <= now) this.jobs.delete(key);
    return this.jobs.get(owner)?.runs ?? [];
  }

  /** Without `until`, they expire when those before would have. */
  #store({ owner }: LockName, runs: RunHistory, until = this.jobs.get(owner)?.until): void {
    if (until !== undefined) this.jobs.set(owner, { runs, until });
  }
}
