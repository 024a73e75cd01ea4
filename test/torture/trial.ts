/**
 * One subject in one scenario: its crew at work while fault follows fault, then the judgement.
 *
 *     open site, resource, crew ─▶ faults until time is up ─▶ heal ─▶ crew stops ─▶ what's left ─▶ judge
 */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../bench/machine-clock.js';
import { eventually } from '../support/eventually.js';
import { seededRandom } from '../support/seeded-random.js';
import { Crew } from './crew.js';
import { type Invariant, judge, type Verdict } from './judge.js';
import { Resource, type WriteCounts } from './resource.js';
import { type Scenario, Stage } from './scenario.js';
import type { Site } from './sites/site.js';
import type { Subject } from './subjects/subject.js';

/** Short, so that much happens in a minute; redlock asks for more than 100 ms beyond half of it. */
const DEFAULT_TTL = 600;
/** How long a trial takes at least, in s, where its scenario doesn't ask for more. */
export const SHORTEST = 5;
const COMMAND_TIMEOUT = 250;
const PROCESSES = 3;
const CALLERS = 6;
const DEFAULT_KEYS = 12;
/** What a loaded machine may add to a bound. */
const SLACK = 400;
/** The longest for which a key may be reserved for a waiter that has died (claim window). */
const CLAIM_WINDOW = 1_000;

/** How often a trial is run again, at most. */
export const EXTENSIONS = 2;

export interface TrialOptions {
  readonly seconds: number;
  readonly seed: number;
}

export interface Trial extends Verdict, TrialOptions {
  readonly scenario: string;
  readonly subject: string;
  readonly ttl: number;
  readonly faults: number;
  readonly writes: WriteCounts;
  /** What our promises were, and what of them was broken. */
  readonly promised: readonly Invariant[];
  readonly broken: readonly Invariant[];
  /** What had to be seen to go wrong, and wasn't. */
  readonly unseen: readonly string[];
}

export async function runTrial(
  scenario: Scenario,
  subject: Subject,
  { seconds: wanted, seed }: TrialOptions,
): Promise<Trial> {
  const { ttl = DEFAULT_TTL, keys = DEFAULT_KEYS, lag = 0, shortest = SHORTEST, limit } = scenario;
  const waitTimeout = 2.5 * ttl;
  const seconds = Math.max(wanted, shortest);
  await using site = await scenario.open(PROCESSES);
  await using resource = await Resource.start();
  await using crew = await Crew.start({
    subject: subject.id,
    processes: PROCESSES,
    callers: CALLERS,
    keys: Array.from({ length: keys }, (_, n) => `k${n}`),
    ttl,
    lag,
    limit,
    waitTimeout,
    commandTimeout: COMMAND_TIMEOUT,
    work: 2 * ttl,
    resource: resource.port,
    seed,
    whereOf: (place) => site.whereOf(place),
  });
  // A guard may let some time pass before the first grant.
  await eventually(async () => (await resource.counts()).accepted > 0, { timeout: 30_000 });
  const stage = new Stage(site, crew, ttl, lag, seededRandom(seed), subject.protocol);
  await rage(scenario, stage, seconds);
  await site.heal();
  const unended = await crew.stop(waitTimeout + 2 * ttl + 5_000);
  const remains = await site.remains(ttl + COMMAND_TIMEOUT + CLAIM_WINDOW + SLACK);
  const writes = await resource.counts();
  const verdict = judge({
    journals: crew.journals(),
    faults: stage.faults,
    writes,
    remains,
    unended,
    limit,
    ttl,
    bounds: {
      acquire: waitTimeout + COMMAND_TIMEOUT + SLACK,
      release: COMMAND_TIMEOUT + SLACK,
    },
  });
  const promised = { none: [], plain: scenario.promised, guarded: scenario.guarded }[
    subject.promises
  ];
  return {
    ...verdict,
    ...{ scenario: scenario.name, subject: subject.id, seconds, seed, ttl, writes },
    faults: stage.faults.length,
    promised,
    broken: promised.filter((invariant) => verdict.violations[invariant].length > 0),
    unseen: [
      ...scenario.shows
        .filter((shown) => shown.subject === subject.id)
        .filter(({ invariant }) => verdict.violations[invariant].length === 0)
        .map(({ invariant }) => `${invariant} broken`),
      ...notHappened(scenario, subject, verdict),
    ],
  };
}

/** What had to happen, or the trial says nothing: of ours alone, since others may have no such step. */
function notHappened(
  { steps }: Scenario,
  { promises, protocol }: Subject,
  verdict: Verdict,
): string[] {
  if (promises === 'none') return [];
  const { partitions } = verdict;
  const unstruck = (steps ? (protocol?.steps ?? []) : []).filter((step) => !verdict.steps[step]);
  return [
    ...unstruck.map((step) => `a process struck in step "${step}"`),
    ...(partitions.count > 0 && partitions.grantsOfOthers === 0
      ? ['grants to those who hear a majority']
      : []),
  ];
}

/** A trial that hasn't shown what it must is run again with other faults: what's rare may take its time. */
export async function runUntilSeen(
  scenario: Scenario,
  subject: Subject,
  options: TrialOptions,
): Promise<Trial> {
  for (let more = 0; ; more += 1) {
    const seed = options.seed + more * 1_000;
    const trial = await runTrial(scenario, subject, { ...options, seed });
    const seen = trial.unseen.length === 0;
    if (seen || trial.broken.length > 0 || more === EXTENSIONS) return trial;
  }
}

async function rage<S extends Site>(
  scenario: Scenario<S>,
  stage: Stage<S>,
  seconds: number,
): Promise<void> {
  const end = machineNow() + seconds * 1_000;
  const [shortest, longest] = scenario.pauses;
  while (machineNow() < end) {
    await pause(stage.between(shortest, longest));
    await scenario.fault(stage);
  }
}
