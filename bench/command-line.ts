import { list, readOptions, wholeNumber } from '../test/support/command-line.js';
import type { Scale } from './workloads/workload.js';

/** What `npm run bench -- …` was asked for. */
export interface Command {
  readonly scale: Scale;
  readonly rounds: number;
  /** Workloads by id; undefined: all. */
  readonly only: readonly string[] | undefined;
  /** Libraries by id; undefined: those of the scale. */
  readonly libraries: readonly string[] | undefined;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
}

const ROUNDS = { quick: 1, full: 5 } as const;

export const USAGE = `Usage: npm run bench -- [options]
  --quick               one short round with the libraries that the targets speak of, in less than two minutes
  --only W1,W3          these workloads
  --libraries ours,raw  these libraries; 'all' for every one
  --rounds n            so many rounds (full: ${ROUNDS.full}, quick: ${ROUNDS.quick})
  --json file           write every run and the summaries
  --markdown file       write the tables
  --help                this`;

export function parseCommand(args: readonly string[]): Command {
  const values = readOptions(args, {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    libraries: { type: 'string' },
    rounds: { type: 'string' },
    json: { type: 'string' },
    markdown: { type: 'string' },
  });
  const scale: Scale = values.quick ? 'quick' : 'full';
  return {
    scale,
    rounds: wholeNumber('--rounds', values.rounds ?? String(ROUNDS[scale]), 1),
    only: list(values.only),
    libraries: list(values.libraries),
    json: values.json,
    markdown: values.markdown,
  };
}
