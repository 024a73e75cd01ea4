import { adapters } from './adapters/catalogue.js';
import type { Plan, PlannedCase } from './plan.js';
import { type Run, type Spread, Summary } from './summary.js';
import { figure, Table } from './table.js';
import { type Target, targets } from './targets.js';
import type { Measure } from './workloads/workload.js';

/** One table with what stands around it. */
export interface Section {
  readonly title: string;
  readonly about: string;
  readonly table: Table;
  readonly notes: readonly string[];
}

export function runsOf(planned: PlannedCase, runs: readonly Run[]): readonly Run[] {
  return runs.filter((run) => run.workload === planned.workload.id && run.case === planned.case.id);
}

export function caseSection(planned: PlannedCase, all: readonly Run[]): Section {
  const runs = runsOf(planned, all);
  const { workload, case: one } = planned;
  const columns = one.measures.flatMap((measure): Column[] => [
    valueColumn(measure),
    ...(measure.ratioTo ?? [])
      .filter((other) => planned.libraries.some(({ id }) => id === other))
      .map((other) => ratioColumn(measure, other)),
  ]);
  const table = new Table(['', ...columns.map(({ head }) => head)]);
  const notes: string[] = [];
  const reasons: string[] = [];
  for (const adapter of planned.libraries) {
    const summary = new Summary(runs, adapter.id);
    table.add([adapter.title, ...columns.map(({ cell }) => cell(summary))]);
    if (summary.violations > 0)
      notes.push(`${adapter.title}: ${summary.violations} VIOLATIONS OF EXCLUSION`);
    if (summary.errors > 0) notes.push(`${adapter.title}: ${summary.errors} errors`);
    for (const failure of new Set(summary.failures))
      notes.push(`${adapter.title}: failed: ${failure}`);
  }
  for (const [adapter, reason] of planned.absent) {
    table.add([adapter.title, ...columns.map(() => '-')]);
    reasons.push(`${adapter.title}: ${reason}`);
  }
  if (reasons.length > 0) notes.push(`No figure: ${reasons.join('; ')}.`);
  return {
    title: `${workload.id} ${workload.title}${one.id === '' ? '' : `: ${one.id}`}`,
    about: [workload.about, one.about].filter(Boolean).join(' '),
    table,
    notes,
  };
}

interface Column {
  readonly head: string;
  readonly cell: (summary: Summary) => string;
}

function valueColumn({ id, title, unit, digits = 1 }: Measure): Column {
  return {
    head: unit === '' ? title : `${title} ${unit}`,
    cell: (summary) => spreadText(summary.spread(id), digits),
  };
}

function ratioColumn({ id }: Measure, other: string): Column {
  return { head: `/ ${other}`, cell: (summary) => spreadText(summary.ratio(id, other), 2) };
}

function spreadText(spread: Spread | undefined, digits: number): string {
  if (spread === undefined) return '-';
  const middle = figure(spread.median, digits);
  const [min, max] = [figure(spread.min, digits), figure(spread.max, digits)];
  return min === max ? middle : `${middle} [${min}–${max}]`;
}

/** How each library is set, and which can't be run here. */
export function librarySection({ cases, unavailable }: Plan): Section {
  const table = new Table(['library', '--libraries', 'settings']);
  const run = new Set(cases.flatMap(({ libraries }) => libraries));
  for (const adapter of adapters.filter((one) => run.has(one)))
    table.add([adapter.title, adapter.id, adapter.settings]);
  return {
    title: 'Libraries',
    about: 'Versions: bench/rivals/package.json.',
    table,
    notes: [...unavailable].map(([{ title }, reason]) => `Not run: ${title}: ${reason}.`),
  };
}

/** Every target whose workload was run, beside what was measured. */
export function targetSection(cases: readonly PlannedCase[], all: readonly Run[]): Section {
  const table = new Table(['target', 'measured', 'wanted', '']);
  for (const target of targets) {
    const planned = cases.find(
      ({ workload, case: one }) => workload.id === target.workload && one.id === target.case,
    );
    if (planned === undefined) continue;
    const measured = measuredFor(target, runsOf(planned, all));
    table.add([
      targetName(target),
      spreadText(measured, 2),
      wanted(target),
      measured === undefined ? 'not measured' : isMet(target, measured) ? 'met' : 'MISSED',
    ]);
  }
  return {
    title: 'Targets',
    about: 'Medians decide. A target that is missed fails nothing: timings depend on the machine.',
    table,
    notes: [],
  };
}

export function measuredFor(target: Target, runs: readonly Run[]): Spread | undefined {
  const summary = new Summary(runs, target.library ?? 'ours');
  return target.ratioTo === undefined
    ? summary.spread(target.measure)
    : summary.ratio(target.measure, target.ratioTo);
}

export function isMet({ atMost, atLeast }: Target, { median }: Spread): boolean {
  return (atMost === undefined || median <= atMost) && (atLeast === undefined || median >= atLeast);
}

function targetName({ workload, case: one, about, ratioTo }: Target): string {
  const beside = adapters.find(({ id }) => id === ratioTo)?.title;
  return `${workload}${one === '' ? '' : ` ${one}`}: ${about}${beside === undefined ? '' : ` / ${beside}`}`;
}

function wanted({ atMost, atLeast }: Target): string {
  return atMost === undefined ? `>= ${atLeast}` : `<= ${atMost}`;
}

export function sectionText({ title, table, notes }: Section): string {
  return [`\n${title}`, table.text(), ...notes.map((note) => `  ${note}`)].join('\n');
}

export function sectionMarkdown({ title, about, table, notes }: Section): string {
  return [
    `## ${title}`,
    about,
    table.markdown(),
    ...(notes.length === 0 ? [] : [notes.map((note) => `- ${note}`).join('\n')]),
  ].join('\n\n');
}
