/**
 * `npm run bench`: measures our library and its rivals side by side.
 *
 *   1. the plan: which case is run with which library
 *   2. the rounds: each case with one library after the other (A B C, A B C), each run in a process of its own against a
 *      redis-server of its own, so that the machine's moods hit all alike and nobody inherits another's garbage
 *   3. the report: a table a case with medians and ranges, and our targets beside what was measured
 *
 * The exit code tells whether our library kept its promises, not how fast it was.
 */
import { writeFileSync } from 'node:fs';

import { runCommandLine } from '../test/support/command-line.js';
import { RedisServer } from '../test/support/redis-server.js';
import { type Command, parseCommand, USAGE } from './command-line.js';
import { describeMachine, machineText } from './machine.js';
import { type PlannedCase, plan } from './plan.js';
import { measure, type MeasurementOutcome } from './process/measurement.js';
import {
  caseSection,
  isMet,
  librarySection,
  measuredFor,
  runsOf,
  sectionMarkdown,
  sectionText,
  targetSection,
} from './report.js';
import { type Run, Summary, summaryRecord } from './summary.js';
import { targets } from './targets.js';

async function main(args: readonly string[]): Promise<void> {
  const command = parseCommand(args);
  const planned = plan(command);
  const { cases } = planned;
  const machine = describeMachine(process.env['REDIS_SERVER'] ?? 'redis-server');
  const startedAt = new Date();
  console.log(machineText(machine));
  const libraries = librarySection(planned);
  for (const note of libraries.notes) console.log(note);

  const runs = await runAll(cases, command);

  const sections = cases.map((one) => caseSection(one, runs));
  const verdict = targetSection(cases, runs);
  for (const section of [...sections, verdict]) console.log(sectionText(section));
  const took = Math.round((Date.now() - startedAt.getTime()) / 1_000);
  console.log(`\n${runs.length} runs in ${took} s.`);

  if (command.markdown !== undefined) {
    const intro = [
      '# Results',
      `Written by \`npm run bench\` on ${startedAt.toISOString().slice(0, 10)}; ${describe(command)}. How to read it: README.md.`,
      machineText(machine),
    ];
    const text = [...intro, ...[verdict, ...sections, libraries].map(sectionMarkdown)].join('\n\n');
    writeFileSync(command.markdown, `${text}\n`);
  }
  if (command.json !== undefined) {
    const record = { startedAt, took, machine, command, ...resultRecord(cases, runs) };
    writeFileSync(command.json, `${JSON.stringify(record, undefined, 2)}\n`);
  }
  process.exitCode = cases.every((one) => keptPromises(one, runs)) ? 0 : 1;
}

async function runAll(cases: readonly PlannedCase[], { rounds, scale }: Command): Promise<Run[]> {
  const total = rounds * cases.reduce((sum, { libraries }) => sum + libraries.length, 0);
  const runs: Run[] = [];
  for (const { workload, case: one, libraries } of cases) {
    for (let round = 1; round <= rounds; round += 1) {
      for (const adapter of libraries) {
        const about = [workload.id, one.id, adapter.id].filter(Boolean).join(', ');
        progress(`${runs.length + 1}/${total} ${about}, round ${round}`);
        const start = performance.now();
        const outcome = await onServersOfItsOwn(one.nodes ?? 1, ([url = '', ...others]) =>
          measure({ workload: workload.id, case: one.id, adapter: adapter.id, url, others, scale }),
        );
        const took = Math.round(performance.now() - start);
        const [library, id] = [adapter.id, one.id];
        runs.push({ workload: workload.id, case: id, library, round, took, outcome });
      }
    }
  }
  progress('');
  return runs;
}

async function onServersOfItsOwn(
  count: number,
  work: (urls: readonly string[]) => Promise<MeasurementOutcome>,
): Promise<MeasurementOutcome> {
  const servers = await RedisServer.startMany(count, { args: ['--maxclients', '20000'] });
  try {
    return await work(servers.map(({ url }) => url));
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
}

/** One line that is written over, where somebody looks on. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text}`);
}

function keptPromises(planned: PlannedCase, runs: readonly Run[]): boolean {
  return planned.libraries
    .filter(({ id }) => id.startsWith('ours'))
    .map(({ id }) => new Summary(runsOf(planned, runs), id))
    .every(
      ({ violations, errors, failures }) =>
        violations === 0 && errors === 0 && failures.length === 0,
    );
}

function resultRecord(cases: readonly PlannedCase[], runs: readonly Run[]): object {
  return {
    summaries: cases.map((planned) => ({
      workload: planned.workload.id,
      case: planned.case.id,
      libraries: Object.fromEntries(
        planned.libraries.map(({ id }) => [
          id,
          summaryRecord(new Summary(runsOf(planned, runs), id), planned.case.measures),
        ]),
      ),
      absent: Object.fromEntries([...planned.absent].map(([{ id }, reason]) => [id, reason])),
    })),
    targets: targets.flatMap((target) => {
      const planned = cases.find(
        ({ workload, case: one }) => workload.id === target.workload && one.id === target.case,
      );
      if (planned === undefined) return [];
      const measured = measuredFor(target, runsOf(planned, runs));
      return [{ ...target, measured, met: measured && isMet(target, measured) }];
    }),
    runs,
  };
}

function describe({ scale, rounds }: Command): string {
  return `${scale} scale, ${rounds} ${rounds === 1 ? 'round' : 'rounds'}`;
}

await runCommandLine(USAGE, main);
