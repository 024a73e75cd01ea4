import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import type { Connection } from '../redis/connection.js';
import { scanNames, SIGNS_OF_PROPOSALS } from '../redis/name-scan.js';
import { Script } from '../redis/script.js';
import type { ScriptRunner } from '../redis/script-runner.js';
import { acceptRunsScript, promiseRunsScript } from '../redis/scripts.generated.js';
import { readHistory, type RunHistory } from './run-history.js';
import type { JobsOutcome } from './run-store.js';
import type { Unavailable } from './unavailable.js';

/**
 * Where the runs of jobs are voted on: one of several independent nodes. It remembers the highest proposal that it has
 * promised to consider, and what it has accepted last; see `QuorumRunStore`.
 */
export interface RunAcceptor {
  /** Promises to accept nothing older than this proposal, unless it has promised so to a newer one. */
  promise(name: LockName, ballot: Ballot, keepFor: number): Promise<PromiseOutcome>;

  /** What it knows, with nothing promised. */
  look(name: LockName): Promise<PromiseOutcome>;

  /** Accepts a proposal, if it's the one that was promised last. */
  accept(name: LockName, ballot: Ballot, keepFor: number, runs: RunHistory): Promise<AcceptOutcome>;

  /** The jobs of which something was proposed. */
  names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome>;
}

/** What tells proposals about one job apart, and puts them in order. */
export interface Ballot {
  /** Of two proposals under the same number, a majority can promise one only. */
  readonly number: number;
  /** Random, of one proposal. */
  readonly by: string;
}

export type PromiseOutcome =
  | {
      /** `outvoted`: it has promised a newer one. */
      readonly kind: 'promised' | 'outvoted';
      /** The number that it promised before this. */
      readonly promised: number;
      /** The number under which it has accepted what it has; 0: it knows nothing of the job. */
      readonly accepted: number;
      readonly runs: RunHistory;
      /** For how long it remembers them, in ms. */
      readonly kept: number;
      /** The node's time, in ms. */
      readonly now: number;
    }
  | Unavailable;

export type AcceptOutcome =
  | { readonly kind: 'accepted' }
  /** `promised`: the number of the one that it has promised instead. */
  | { readonly kind: 'outvoted'; readonly promised: number }
  | Unavailable;

type ProposalsKey = readonly [proposals: string];

const PROMISE = new Script<
  ProposalsKey,
  readonly [number: number, by: string, keepFor: number],
  [now: number, given: 0 | 1, promised: string, accepted: string, kept: number, runs: string]
>(promiseRunsScript);
const ACCEPT = new Script<
  ProposalsKey,
  readonly [number: number, by: string, keepFor: number, runs: string],
  [accepted: 0 | 1, promised: string]
>(acceptRunsScript);

const NOBODY: Ballot = { number: 0, by: '-' };

/** On one Redis, over the connections of its `RedisBackend`: one hash for each job. */
export class RedisRunAcceptor implements RunAcceptor {
  /** `votes`: where what must not be forgotten is sent, where replicas are to confirm it. */
  constructor(
    private readonly connection: Connection,
    private readonly votes: ScriptRunner,
    private readonly keyPrefix: string,
  ) {}

  promise(name: LockName, ballot: Ballot, keepFor: number): Promise<PromiseOutcome> {
    return this.#promise(this.votes, name, ballot, keepFor);
  }

  look(name: LockName): Promise<PromiseOutcome> {
    return this.#promise(this.connection, name, NOBODY, 0);
  }

  async #promise(
    runner: ScriptRunner,
    name: LockName,
    { number, by }: Ballot,
    keepFor: number,
  ): Promise<PromiseOutcome> {
    const keys = this.#keyOf(name);
    const outcome = await runner.run(PROMISE, keys, [number, by, keepFor]);
    if (outcome.kind === 'unavailable') return outcome;
    const [now, given, promisedText, acceptedText, kept, json] = outcome.reply;
    const [promised, accepted] = [Number(promisedText), Number(acceptedText)];
    const runs = json === '' ? [] : readHistory(json);
    const isReadable = Number.isSafeInteger(promised) && Number.isSafeInteger(accepted);
    if (runs === undefined || !isReadable) return unreadable(...keys, given === 1);
    const kind = given === 1 ? 'promised' : 'outvoted';
    return { kind, promised, accepted, runs, kept, now };
  }

  async accept(
    name: LockName,
    { number, by }: Ballot,
    keepFor: number,
    runs: RunHistory,
  ): Promise<AcceptOutcome> {
    const args = [number, by, keepFor, JSON.stringify(runs)] as const;
    const outcome = await this.votes.run(ACCEPT, this.#keyOf(name), args);
    if (outcome.kind === 'unavailable') return outcome;
    const [accepted, promised] = outcome.reply;
    if (accepted === 0) return { kind: 'outvoted', promised: Number(promised) };
    // Replicas that lack it would forget it in a failover.
    return (await outcome.confirmed) ?? { kind: 'accepted' };
  }

  names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome> {
    return scanNames(this.connection, this.keyPrefix, prefix, pattern, SIGNS_OF_PROPOSALS);
  }

  #keyOf(name: LockName): ProposalsKey {
    return [this.keyPrefix + name.proposals];
  }
}

/**
 * A node of which nobody knows what it has accepted has no say, as one that doesn't answer. The next step that the others
 * decide puts it right.
 */
function unreadable(key: string, mayHaveRun: boolean): Unavailable {
  const cause = new Error(
    `What "${key}" has is no history of the job's runs: another program wrote it. Remove that key there (DEL), and the other nodes tell it the runs again; where none of them knows them, ticks may be run once more.`,
  );
  return { kind: 'unavailable', reason: 'refused', cause, mayHaveRun };
}
