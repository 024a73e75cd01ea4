import { list, numberAboveZero, readOptions, wholeNumber } from '../support/command-line.js';

/** What `npm run torture -- …` was asked for. */
export interface Command {
  /** How long all trials together rage, in minutes. */
  readonly minutes: number;
  /** Scenarios by name; undefined: all. */
  readonly only: readonly string[] | undefined;
  /** Subjects by id; undefined: all. */
  readonly subjects: readonly string[] | undefined;
  readonly seed: number;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
  /** Files of earlier runs, of which to write the report; undefined: there's to be a run. */
  readonly report: readonly string[] | undefined;
}

const MINUTES = 30;

export const USAGE = `Usage: npm run torture -- [options]
  --minutes m            for so long in all, spread over the trials (${MINUTES}); starting and ending them comes on top
  --only name,name       these scenarios
  --subjects ours,bare   these libraries
  --seed n               draws the same faults again
  --json file            write every trial
  --report file,file     run nothing: write the report of what earlier runs wrote with --json
  --markdown file        write the report elsewhere than where it's kept, or of a part of the scenarios
  --help                 this`;

export function parseCommand(args: readonly string[]): Command {
  const values = readOptions(args, {
    minutes: { type: 'string', default: String(MINUTES) },
    only: { type: 'string' },
    subjects: { type: 'string' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e6)) },
    json: { type: 'string' },
    markdown: { type: 'string' },
    report: { type: 'string' },
  });
  return {
    minutes: numberAboveZero('--minutes', values.minutes),
    seed: wholeNumber('--seed', values.seed, 0),
    only: list(values.only),
    subjects: list(values.subjects),
    json: values.json,
    markdown: values.markdown,
    report: list(values.report),
  };
}

/** What to type for the same trials; files are everybody's own. */
export function commandText({ minutes, only, subjects, seed }: Command): string {
  return [
    `npm run torture -- --minutes ${minutes} --seed ${seed}`,
    ...(only === undefined ? [] : [`--only ${only.join(',')}`]),
    ...(subjects === undefined ? [] : [`--subjects ${subjects.join(',')}`]),
  ].join(' ');
}
