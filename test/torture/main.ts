/**
 * `npm run torture`: every scenario with every subject, one trial after the other, and the report.
 *
 * It fails where one of our promises is broken, or where what had to be seen wasn't. Without `--only` and `--subjects` the
 * report goes where it's kept (RESULTS.md, beside this file), else only where `--markdown` says.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { describeMachine } from '../../bench/machine.js';
import { chosen, runCommandLine, UsageError } from '../support/command-line.js';
import { commandText, parseCommand, USAGE } from './command-line.js';
import { reportMarkdown, type Run, summaryText } from './report.js';
import type { Scenario } from './scenario.js';
import { scenarios } from './scenarios/catalogue.js';
import { subjects } from './subjects/catalogue.js';
import type { Subject } from './subjects/subject.js';
import { EXTENSIONS, runUntilSeen, SHORTEST, type Trial } from './trial.js';

const KEPT = process.env['TORTURE_RESULTS'];

async function main(args: readonly string[]): Promise<void> {
  const command = parseCommand(args);
  if (command.report !== undefined) {
    const runs = command.report.map((file) => JSON.parse(readFileSync(file, 'utf8')) as Run);
    return writeReport(runs, command.markdown ?? KEPT);
  }
  const begunAt = new Date();
  const ofScenarios = chosen('--only', command.only, scenarios, ({ name }) => name);
  const ofSubjects = chosen('--subjects', command.subjects, subjects, ({ id }) => id);
  const machine = describeMachine(process.env['REDIS_SERVER'] ?? 'redis-server');
  const skipped = new Map<string, string>();
  const planned: [Scenario, Subject][] = [];
  for (const scenario of ofScenarios) {
    const reason = scenario.unavailable?.();
    if (reason !== undefined) skipped.set(scenario.name, reason);
    for (const subject of reason === undefined ? ofSubjects : []) {
      const lack = lackOf(scenario, subject);
      if (lack === undefined) planned.push([scenario, subject]);
      else skipped.set(`${scenario.name}, ${subject.title}`, lack);
    }
  }
  for (const [what, reason] of skipped) console.log(`Skipped: ${what}: ${reason}`);
  if (planned.length === 0) throw new UsageError('Nothing of that can be run.');
  const seconds = shareOf(
    command.minutes * 60,
    planned.map(([{ shortest = SHORTEST }]) => shortest),
  );
  console.log(
    `${planned.length} trials of ${seconds.toFixed(0)} s each, or what a scenario takes at least; seed ${command.seed}.`,
  );

  const trials: Trial[] = [];
  const undone = new Map<string, string>();
  for (const [index, [scenario, subject]] of planned.entries()) {
    const of = `[${index + 1}/${planned.length}]`;
    try {
      const options = { seconds, seed: command.seed + index };
      const trial = await within(
        ended(seconds, scenario),
        runUntilSeen(scenario, subject, options),
      );
      trials.push(trial);
      console.log(`${of} ${summaryText(trial)}`);
    } catch (error) {
      // One that could not be carried through says nothing of the others.
      const what = `${scenario.name}, ${subject.title}`;
      undone.set(what, error instanceof Error ? error.message : String(error));
      console.log(`${of} ${what}: not carried through`, error);
    }
  }
  const run: Run = {
    command: commandText(command),
    date: begunAt.toISOString().slice(0, 10),
    machine,
    skipped: [...skipped],
    undone: [...undone],
    trials,
  };
  if (command.json !== undefined) writeFileSync(command.json, JSON.stringify(run));
  const complete = command.only === undefined && command.subjects === undefined;
  writeReport([run], command.markdown ?? (complete ? KEPT : undefined));
  const failed = trials.filter(({ broken, unseen }) => broken.length + unseen.length > 0);
  for (const [what, why] of undone) console.log(`Not carried through: ${what}: ${why}`);
  console.log(
    failed.length === 0
      ? 'Every promise was kept, and everything was seen that had to be.'
      : `${failed.length} of ${trials.length} trials failed.`,
  );
  if (failed.length + undone.size > 0) process.exitCode = 1;
  // Whatever waits in there for what never comes, would keep this process for ever.
  if (undone.size > 0) process.exit();
}

/** By when a trial must be over, in ms, with its extensions: whatever one waits for that never comes, the others are run. */
function ended(seconds: number, { shortest = SHORTEST }: Scenario): number {
  return (EXTENSIONS + 1) * (3 * Math.max(seconds, shortest) + 120) * 1_000;
}

async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`It was not over after ${Math.round(milliseconds / 1_000)} s.`)),
      milliseconds,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** How long each may take, so that all together take so long, though some take longer at least. */
function shareOf(total: number, least: readonly number[]): number {
  const longest = least.toSorted((a, b) => b - a);
  let left = total;
  for (const [index, each] of longest.entries()) {
    const share = left / (longest.length - index);
    if (share >= each) return share;
    left -= each;
  }
  // All take what they take at least.
  return 0;
}

/** Why a subject can't be run in a scenario, if it can't. */
function lackOf({ topology, limit, steps }: Scenario, subject: Subject): string | undefined {
  if (steps && subject.protocol === undefined) return 'the proxy does not know its commands';
  return subject.lacks?.(topology, limit);
}

function writeReport(runs: readonly Run[], file: string | undefined): void {
  if (file !== undefined) writeFileSync(file, reportMarkdown(runs, subjects));
}

await runCommandLine(USAGE, main);
