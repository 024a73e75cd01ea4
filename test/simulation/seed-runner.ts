/** A process of `npm run simulate`: runs the seeds that it's given, and says what they came to. */
import { simulate } from './simulation.js';
import { Tally } from './tally.js';

export interface SeedRange {
  readonly from: number;
  readonly count: number;
}

let seed = 0;
process.on('unhandledRejection', (error) => {
  process.stderr.write(`An unhandled rejection at seed ${seed}: ${(error as Error)?.stack}\n`);
  process.exit(1);
});

async function run({ from, count }: SeedRange): Promise<void> {
  const tally = new Tally();
  for (seed = from; seed < from + count; seed += 1) tally.add(await simulate(seed));
  process.send?.(tally);
}

process.on('message', (range: SeedRange) => void run(range));
process.on('disconnect', () => process.exit(0));
