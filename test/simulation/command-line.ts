import { availableParallelism } from 'node:os';

import { numberAboveZero, readOptions, wholeNumber } from '../support/command-line.js';

/** What `npm run simulate -- …` was asked for. */
export type Command =
  /** One seed, with everything that happens in it. */
  | { readonly kind: 'replay'; readonly seed: number }
  | {
      readonly kind: 'run';
      readonly from: number;
      /** The first that isn't run any more. */
      readonly end: number;
      readonly minutes: number;
      readonly workers: number;
    };

const SEEDS = 100_000;

export const USAGE = `Usage: npm run simulate -- [options]
  --seeds n      so many seeds (${SEEDS})
  --minutes m    as many as can be run in so long, instead
  --from n       the first of them (0)
  --workers n    so many processes (one a core)
  --seed n       this seed alone, with everything that happens in it
  --help         this`;

export function parseCommand(args: readonly string[]): Command {
  const { seed, seeds, from, minutes, workers } = readOptions(args, {
    seeds: { type: 'string', default: String(SEEDS) },
    from: { type: 'string', default: '0' },
    seed: { type: 'string' },
    minutes: { type: 'string' },
    workers: { type: 'string', default: String(availableParallelism()) },
  });
  if (seed !== undefined) return { kind: 'replay', seed: wholeNumber('--seed', seed, 0) };
  const first = wholeNumber('--from', from, 0);
  const unbounded = Number.POSITIVE_INFINITY;
  return {
    kind: 'run',
    from: first,
    end: minutes === undefined ? first + wholeNumber('--seeds', seeds, 1) : unbounded,
    minutes: minutes === undefined ? unbounded : numberAboveZero('--minutes', minutes),
    workers: wholeNumber('--workers', workers, 1),
  };
}
