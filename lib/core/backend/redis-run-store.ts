import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import type { Connection } from '../redis/connection.js';
import { scanNames, SIGNS_OF_RUNS } from '../redis/name-scan.js';
import { Script } from '../redis/script.js';
import type { ScriptRunner } from '../redis/script-runner.js';
import {
  abandonRunScript,
  claimRunScript,
  finishRunScript,
  listRunsScript,
} from '../redis/scripts.generated.js';
import type {
  AbandonOutcome,
  ClaimOutcome,
  ClaimReply,
  ClaimRequest,
  FinishOutcome,
  FinishRequest,
  JobsOutcome,
  ListOutcome,
  RunStore,
  StoredRun,
} from './run-store.js';

type RunsKey = readonly [runs: string];

const CLAIM = new Script<
  RunsKey,
  readonly [request: string],
  [kind: ClaimReply['kind'], run: string, ...running: string[]]
>(claimRunScript);
const ABANDON = new Script<RunsKey, readonly [tokens: string], 1>(abandonRunScript);
const FINISH = new Script<RunsKey, readonly [request: string], 0 | 1>(finishRunScript);
const LIST = new Script<RunsKey, readonly [dead: string], string[]>(listRunsScript);

/** Runs on one Redis, over the connection of its `RedisBackend`: one hash for each job. */
export class RedisRunStore implements RunStore {
  /** `claims`: where what begins a run is sent, where replicas are to confirm it. */
  constructor(
    private readonly connection: Connection,
    private readonly claims: ScriptRunner,
    private readonly keyPrefix: string,
  ) {}

  async claim(name: LockName, request: ClaimRequest): Promise<ClaimOutcome> {
    // Without a lock, it only looks, or decides to run nothing.
    const runner = request.run.lock === undefined ? this.connection : this.claims;
    const outcome = await runner.run(CLAIM, this.#keyOf(name), [JSON.stringify(request)]);
    if (outcome.kind === 'unavailable') return outcome;
    const [kind, run, ...running] = outcome.reply;
    // A failover to a replica that doesn't know of it would have the tick run once more.
    const failure = kind === 'begun' ? await outcome.confirmed : undefined;
    if (failure !== undefined) return failure;
    // Which kinds come with a run, the script says.
    return {
      kind,
      run: run === '' ? undefined : parsed(run),
      running: running.map(parsed),
    } as ClaimReply;
  }

  async abandon(name: LockName, token: string): Promise<AbandonOutcome> {
    const outcome = await this.connection.run(ABANDON, this.#keyOf(name), [
      JSON.stringify([token]),
    ]);
    return outcome.kind === 'unavailable' ? outcome : { kind: 'abandoned' };
  }

  names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome> {
    return scanNames(this.connection, this.keyPrefix, prefix, pattern, SIGNS_OF_RUNS);
  }

  async finish(name: LockName, request: FinishRequest): Promise<FinishOutcome> {
    const outcome = await this.connection.run(FINISH, this.#keyOf(name), [JSON.stringify(request)]);
    if (outcome.kind === 'unavailable') return outcome;
    return { kind: outcome.reply === 1 ? 'finished' : 'gone' };
  }

  async list(name: LockName, dead: readonly string[]): Promise<ListOutcome> {
    const outcome = await this.connection.run(LIST, this.#keyOf(name), [JSON.stringify(dead)]);
    if (outcome.kind === 'unavailable') return outcome;
    return { kind: 'listed', runs: outcome.reply.map(parsed) };
  }

  #keyOf(name: LockName): RunsKey {
    return [this.keyPrefix + name.runs];
  }
}

function parsed(json: string): StoredRun {
  return JSON.parse(json) as StoredRun;
}
