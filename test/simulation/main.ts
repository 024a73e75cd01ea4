/**
 * `npm run simulate`: many seeds, on all cores; or one of them, with everything that happens in it.
 *
 *     npm run simulate -- --seeds 100000
 *     npm run simulate -- --minutes 10 --from 5000000
 *     npm run simulate -- --seed 4711
 *
 * Ends with 1 where a seed failed, and says how to replay it.
 */
import { runCommandLine } from '../support/command-line.js';
import { spawnWorker } from '../support/worker.js';
import { type Command, parseCommand, USAGE } from './command-line.js';
import type { SeedRange } from './seed-runner.js';
import { simulate } from './simulation.js';
import { Tally } from './tally.js';

const CHUNK = 50;
/** No chunk takes so long, in ms, even on a machine that does other things too. */
const PATIENCE = 600_000;
const TELL_EVERY = 10_000;
const FAILURES_SHOWN = 20;

type ManySeeds = Extract<Command, { kind: 'run' }>;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function replay(seed: number): Promise<boolean> {
  const { violations, profile, digest } = await simulate(seed, { write: say });
  say(`seed ${seed} (${profile}), digest ${digest.toString(16)}: ${violations.length} violations`);
  for (const violation of violations) say(`  ${violation}`);
  return violations.length === 0;
}

async function runMany({ from, end, minutes, workers }: ManySeeds): Promise<boolean> {
  const startedAt = performance.now();
  const stopAt = startedAt + minutes * 60_000;
  const total = new Tally();
  let next = from;
  let toldAt = startedAt;

  const work = async (): Promise<void> => {
    await using worker = spawnWorker<Tally, SeedRange>(
      new URL('./seed-runner.ts', import.meta.url),
    );
    while (next < end && performance.now() < stopAt) {
      const range = { from: next, count: Math.min(CHUNK, end - next) };
      next += range.count;
      worker.send(range);
      total.merge(await worker.next(() => true, PATIENCE));
      if (performance.now() - toldAt > TELL_EVERY) {
        toldAt = performance.now();
        const perSecond = (total.seeds / (toldAt - startedAt)) * 1_000;
        say(`${total.summary}; ${perSecond.toFixed(0)} seeds a second`);
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, work));

  const seconds = (performance.now() - startedAt) / 1_000;
  say('');
  for (const line of total.lines) say(line);
  say('');
  say(`Seeds ${from} to ${next - 1} in ${seconds.toFixed(0)} s.`);
  const { failures } = total;
  for (const { seed, profile, violations } of failures.slice(0, FAILURES_SHOWN)) {
    say(`FAILED seed ${seed} (${profile}); replay it: npm run simulate -- --seed ${seed}`);
    for (const violation of violations) say(`    ${violation}`);
  }
  if (failures.length > FAILURES_SHOWN) {
    say(
      `... and others: ${failures
        .slice(FAILURES_SHOWN)
        .map(({ seed }) => seed)
        .join(' ')}`,
    );
  }
  return failures.length === 0;
}

await runCommandLine(USAGE, async (args) => {
  const command = parseCommand(args);
  const passed = command.kind === 'replay' ? await replay(command.seed) : await runMany(command);
  process.exitCode = passed ? 0 : 1;
});
