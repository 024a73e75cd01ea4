/** What the trials have shown, as lines for the terminal and as the page that is kept. */
import type { Machine } from '../../bench/machine.js';
import { machineText } from '../../bench/machine.js';
import { figure, Table } from '../../bench/table.js';
import { type Invariant, INVARIANTS } from './judge.js';
import { judgedOf, type Scenario } from './scenario.js';
import { scenarios } from './scenarios/catalogue.js';
import { STEPS } from './steps.js';
import type { Subject } from './subjects/subject.js';
import type { Trial } from './trial.js';

/** What one command has run, as it's written with `--json`. */
export interface Run {
  readonly command: string;
  readonly date: string;
  readonly machine: Machine;
  /** What wasn't run, and why. */
  readonly skipped: readonly (readonly [what: string, why: string])[];
  /** What could not be carried through, and why. */
  readonly undone: readonly (readonly [what: string, why: string])[];
  readonly trials: readonly Trial[];
}

interface Report {
  readonly runs: readonly Run[];
  readonly trials: readonly Trial[];
  readonly subjects: readonly Subject[];
}

/** How many violations are described each. */
const EXAMPLES = 3;

/** One line, and what is wrong with it. */
export function summaryText(trial: Trial): string {
  const { scenario, subject, grants, faults, violations, broken, unseen, writes } = trial;
  const found = INVARIANTS.filter((invariant) => violations[invariant].length > 0)
    .map((invariant) => `${invariant} ${violations[invariant].length}`)
    .join(', ');
  const lines = [
    `${scenario}, ${subject}: ${grants} grants, ${faults} faults; ${found || 'no violation'}; ` +
      stepsText(trial) +
      `writes ${writes.accepted} taken (${writes.stale} stale), ${writes.rejected} refused` +
      recoveryText(trial),
  ];
  for (const invariant of broken) {
    lines.push(`  BROKEN PROMISE ${invariant} (seed ${trial.seed}):`);
    lines.push(...violations[invariant].slice(0, EXAMPLES).map((each) => `    ${each}`));
  }
  for (const invariant of unseen) {
    lines.push(`  NOT SEEN: ${invariant} (seed ${trial.seed})`);
  }
  return lines.join('\n');
}

function stepsText({ steps, partitions }: Trial): string {
  const struck = Object.entries(steps).map(([step, count]) => `${step} ${count}`);
  const { count, grantsOfOthers } = partitions;
  return [
    ...(struck.length > 0 ? [`struck: ${struck.join(', ')}; `] : []),
    ...(count > 0 ? [`cut off ${count} times, ${grantsOfOthers} grants to others then; `] : []),
  ].join('');
}

function recoveryText({ afterCrash, afterOutage, ttl }: Trial): string {
  return [
    ...(afterCrash.length > 0 ? [`; after a crash ${inTtls(afterCrash, ttl)} ttl`] : []),
    ...(afterOutage.length > 0 ? [`; after an outage ${inTtls(afterOutage, ttl)} ttl`] : []),
  ].join('');
}

export function reportMarkdown(runs: readonly Run[], allSubjects: readonly Subject[]): string {
  const trials = runs.flatMap((one) => one.trials);
  const subjects = allSubjects.filter(({ id }) => trials.some(({ subject }) => subject === id));
  const report: Report = { runs, trials, subjects };
  const run = scenarios.filter(({ name }) => trials.some(({ scenario }) => scenario === name));
  return [
    '# Torture: what happens under faults',
    ...runs.map(
      ({ command, date, machine }) => `Run by \`${command}\` on ${date}. ${machineText(machine)}`,
    ),
    [
      'Several processes take locks of a short ttl, work under them and write to a resource, while one fault follows another.',
      'Each writes down when it believed that it held its lock, on the monotonic clock of the machine; afterwards all is put side by side.',
      'Figures are violations per million grants; `-`: there were none. In brackets: how many were found, in as many grants as the last table says.',
    ].join(' '),
    verdictText(report),
    '## In short',
    shortTable(report),
    '## Subjects',
    table(
      ['subject', 'set to', 'believes that it holds a lock'],
      subjects.map(({ title, settings, belief }) => [title, settings, belief]),
    ),
    '## I1: two believe that they hold one lock',
    violationTable(report, run, ['I1']),
    '## Promises',
    [
      'What our library promises in each scenario; the run fails where one of them is broken.',
      'I1 exclusion, I2 rising fencing tokens, I3 no stale write taken, I4 nobody loses a lock to another, I5 nothing left in Redis,',
      'I6 processes are served in the order in which they began to wait, I7 calls end in their bounds, I8 no more than the limit hold a key,',
      'I9 a loss is told in time, I10 processes end by themselves and no error escapes.',
    ].join(' '),
    [
      'I6 is judged with a tolerance of 400 ms, in all scenarios, and promised where each process can reach the one server and that keeps its data;',
      'what the server itself sees, without tolerance, is judged by `test/integration/order.spec.ts`.',
      'I8 has scenarios of its own (`limit-…`); `test/integration/limit.spec.ts` and `order-access.spec.ts` judge it event by event, and mixed with other modes.',
      'I11, that each tick of a job runs once, needs jobs, which none of these processes runs:',
      '`test/integration/run-once.spec.ts` judges it on three processes with skewed clocks, of which one is killed in the middle of a run.',
    ].join(' '),
    promiseTable(report, run),
    '## I6: another was served first',
    'In order of their coming is promised by ours alone: who polls is served by chance.',
    violationTable(report, run, ['I6']),
    '## All invariants but I1 and I6',
    violationTable(
      report,
      run,
      INVARIANTS.filter((invariant) => invariant !== 'I1' && invariant !== 'I6'),
    ),
    ...struckTable(report, run),
    ...partitionTable(report, run),
    '## Writes',
    'What the resource took, how much of that was stale (a write of a hold after one of a later hold), and what it refused for its fencing token.',
    perSubject(report, run, ({ writes }) =>
      [
        `${figure(writes.accepted, 0)} taken`,
        `${figure(writes.stale, 0)} stale`,
        `${figure(writes.rejected, 0)} refused`,
      ].join(', '),
    ),
    '## Recovery',
    `In parts of the ttl, median and longest. Crash: from when the holder was killed, or from when another asked if that was later, until another process held the key. Server: for how long nobody held a key for which somebody had asked, from when the server was back or emptied, up to the next fault. By design, what a killed holder had is free after its ttl; a key that's reserved for a waiter who was killed, after a claim window of 1 s; and a guard is waited for.`,
    perSubject(
      report,
      run.filter(({ name }) =>
        trials.some((t) => t.scenario === name && t.afterCrash.length + t.afterOutage.length > 0),
      ),
      ({ afterCrash, afterOutage, ttl }) =>
        [
          ...(afterCrash.length > 0 ? [`crash ${inTtls(afterCrash, ttl)}`] : []),
          ...(afterOutage.length > 0 ? [`server ${inTtls(afterOutage, ttl)}`] : []),
        ].join(', ') || '-',
    ),
    '## Grants and faults',
    perSubject(report, run, ({ grants, faults }) => `${figure(grants, 0)} / ${figure(faults, 0)}`),
    '## Scenarios',
    run.map(({ name, topology, about }) => `- \`${name}\` (${topology}): ${about}`).join('\n'),
    ...notRun(report),
    '',
  ].join('\n\n');
}

function verdictText({ trials }: Report): string {
  const failed = trials.filter(({ broken, unseen }) => broken.length + unseen.length > 0);
  if (failed.length === 0) {
    return 'Every promise was kept, and everything that had to be seen was seen.';
  }
  return [
    '**Failed:**',
    ...failed.map(
      ({ scenario, subject, broken, unseen }) =>
        `- ${scenario}, ${subject}: ${[
          ...broken.map((invariant) => `${invariant} is promised and was broken`),
          ...unseen.map((what) => `had to be seen and wasn't: ${what}`),
        ].join('; ')}`,
    ),
  ].join('\n');
}

function shortTable({ trials, subjects }: Report): string {
  const rows = subjects.map(({ id, title }) => {
    const ofSubject = trials.filter(({ subject }) => subject === id);
    const part = (...groups: DataFate[]) =>
      ofSubject.filter(({ scenario }) => groups.includes(dataFateOf(scenario)));
    const found = (some: readonly Trial[], invariant: Invariant) => {
      const count = some.reduce((sum, { violations }) => sum + violations[invariant].length, 0);
      const grants = some.reduce((sum, each) => sum + each.grants, 0);
      return count === 0
        ? `none in ${figure(grants, 0)}`
        : `${figure((count / grants) * 1e6, 0)} (${figure(count, 0)} in ${figure(grants, 0)})`;
    };
    return [
      title,
      found(part('kept'), 'I1'),
      found(part('lost'), 'I1'),
      found(part('beyond the guard'), 'I1'),
      found(ofSubject, 'I3'),
      found(ofSubject, 'I7'),
    ];
  });
  return [
    [
      'Violations per million grants over all scenarios. I1: a key was held by two at a time. I3: the resource took a stale write. I7: a call went beyond its bound.',
      'Lost: Redis forgets what it has acknowledged (I1 is promised with the guard alone).',
      'Beyond the guard: eviction, a clock that jumps, an old master that nothing stops (I1 is promised by nobody).',
    ].join(' '),
    table(['subject', 'I1, data kept', 'I1, data lost', 'I1, beyond the guard', 'I3', 'I7'], rows),
  ].join('\n\n');
}

type DataFate = 'kept' | 'lost' | 'beyond the guard' | 'limit';

function dataFateOf(scenarioName: string): DataFate {
  const scenario = scenarios.find(({ name }) => name === scenarioName);
  if (scenario === undefined || scenario.limit !== undefined) return 'limit';
  if (scenario.promised.includes('I1')) return 'kept';
  return scenario.guarded.includes('I1') ? 'lost' : 'beyond the guard';
}

function promiseTable({ trials }: Report, run: readonly Scenario[]): string {
  return table(
    ['scenario', 'promised', 'with guard', 'because', 'kept'],
    run.map(({ name, promised, guarded, because, limit }) => {
      const ours = trials.filter((t) => t.scenario === name && t.promised.length > 0);
      const kept = ours.every(({ broken }) => broken.length === 0) ? 'yes' : 'NO';
      return [
        name,
        shown(promised, limit),
        shown(guarded, limit),
        because ?? '',
        ours.length > 0 ? kept : '-',
      ];
    }),
  );
}

function shown(promised: readonly Invariant[], limit: number | undefined): string {
  const missing = judgedOf(limit).filter((invariant) => !promised.includes(invariant));
  return missing.length === 0 ? 'all' : `all but ${missing.join(', ')}`;
}

function violationTable(
  report: Report,
  run: readonly Scenario[],
  invariants: readonly Invariant[],
): string {
  return perSubject(report, run, ({ violations, grants }) =>
    invariants
      .map((invariant) => [invariant, violations[invariant].length] as const)
      .filter(([, count]) => count > 0)
      .map(([invariant, count]) => {
        const rate = figure((count / Math.max(1, grants)) * 1e6, 0);
        return invariants.length === 1 ? `${rate} (${count})` : `${invariant} ${rate} (${count})`;
      })
      .join(', '),
  );
}

function struckTable(report: Report, run: readonly Scenario[]): string[] {
  const inSteps = run.filter(({ steps }) => steps);
  if (inSteps.length === 0) return [];
  const trials = report.trials.filter(({ scenario }) =>
    inSteps.some(({ name }) => name === scenario),
  );
  return [
    '## Struck in which step',
    'How often a process was killed or stopped in each step of the protocol. A subject without renewal or queue has no such steps.',
    table(
      ['scenario', 'subject', ...STEPS],
      trials.map(({ scenario, subject, steps }) => [
        scenario,
        report.subjects.find(({ id }) => id === subject)?.title ?? subject,
        ...STEPS.map((step) => String(steps[step] ?? '-')),
      ]),
    ),
  ];
}

function partitionTable(report: Report, run: readonly Scenario[]): string[] {
  const cut = run.filter(({ name }) =>
    report.trials.some(({ scenario, partitions }) => scenario === name && partitions.count > 0),
  );
  if (cut.length === 0) return [];
  return [
    '## One hears a minority alone',
    'How often a process was cut off from the majority, and how many grants others got meanwhile. A grant to the one that was cut off, later than a ttl after, counts as I1.',
    perSubject(report, cut, ({ partitions: { count, grantsOfOthers } }) =>
      count === 0 ? '' : `${count} / ${figure(grantsOfOthers, 0)}`,
    ),
  ];
}

function perSubject(
  { trials, subjects }: Report,
  run: readonly Scenario[],
  cell: (trial: Trial) => string,
): string {
  return table(
    ['scenario', ...subjects.map(({ title }) => title)],
    run.map(({ name }) => [
      name,
      ...subjects.map(({ id }) => {
        const trial = trials.find((t) => t.scenario === name && t.subject === id);
        return trial === undefined ? 'not run (see the end)' : cell(trial) || '-';
      }),
    ]),
  );
}

function notRun({ runs }: Report): string[] {
  const all = runs.flatMap(({ skipped, undone }) => [
    ...skipped,
    ...undone.map(([what, why]) => [what, `could not be carried through: ${why}`] as const),
  ]);
  if (all.length === 0) return [];
  return ['## Not run', all.map(([what, why]) => `- ${what}: ${why}`).join('\n')];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const made = new Table(head);
  for (const row of rows) made.add(row);
  return made.markdown();
}

function inTtls(times: readonly number[], ttl: number): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (part: number): string =>
    figure((sorted[Math.floor((sorted.length - 1) * part)] ?? Number.NaN) / ttl, 2);
  return `${at(0.5)} (longest ${at(1)})`;
}
