import { parseArgs } from 'node:util';

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

/** Told by its message alone. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const ROUNDS = { quick: 1, full: 5 } as const;

export const USAGE = `Usage: npm run bench -- [options]
  --quick               one short round with the libraries that the targets speak of, in less than two minutes
  --only W1,W3          these workloads
  --libraries ours,raw  these libraries; 'all' for every one
  --rounds n            so many rounds (full: ${ROUNDS.full}, quick: ${ROUNDS.quick})
  --json file           write every run and the summaries
  --markdown file       write the tables`;

export function parseCommand(args: string[]): Command {
  let values;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        quick: { type: 'boolean', default: false },
        only: { type: 'string' },
        libraries: { type: 'string' },
        rounds: { type: 'string' },
        json: { type: 'string' },
        markdown: { type: 'string' },
      },
    }));
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n${USAGE}`);
  }
  const scale: Scale = values.quick ? 'quick' : 'full';
  const rounds = values.rounds === undefined ? ROUNDS[scale] : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new UsageError(`--rounds is "${values.rounds}"; it takes a number from 1 on.\n${USAGE}`);
  }
  return {
    scale,
    rounds,
    only: list(values.only),
    libraries: list(values.libraries),
    json: values.json,
    markdown: values.markdown,
  };
}

function list(given: string | undefined): string[] | undefined {
  return given
    ?.split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}
