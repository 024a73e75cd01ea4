/**
 * The seeded simulation, in short: the first few thousand seeds, each of which must keep every invariant, and proof that
 * the checks see what they're there for. The long run is `npm run simulate`; see README.md in this folder.
 */
import { describe, expect, it } from '@jest/globals';
import { spawnWorker } from '../support/worker.js';
import { SABOTAGES } from './sabotage.js';
import { PROFILE_NAMES } from './scenario.js';
import type { SeedRange } from './seed-runner.js';
import { simulate } from './simulation.js';
import { Tally } from './tally.js';

/** Where the seeds begin: the same each time, so that a change is told by its own faults; `npm run simulate` explores others. */
const FIRST = Number(process.env['SIMULATION_SEED'] ?? 0);
const SECONDS = Number(process.env['SIMULATION_SECONDS'] ?? 20);
const CHUNK = 24;
/** For a chunk, in ms: on a machine that does other things too. */
const PATIENCE = 60_000;
/** Up to this seed, a missing line of safety must have shown. */
const ENOUGH = 2_000;

/** Runs seeds in processes of their own, which are several times as fast as a test runner's sandbox. */
async function runSeeds(first: number, isOver: (next: number) => boolean): Promise<Tally> {
  const total = new Tally();
  let next = first;
  const work = async (): Promise<void> => {
    await using worker = spawnWorker<Tally, SeedRange>(
      new URL('./seed-runner.ts', import.meta.url),
    );
    while (!isOver(next)) {
      worker.send({ from: next, count: CHUNK });
      next += CHUNK;
      total.merge(await worker.next(() => true, PATIENCE));
    }
  };
  await Promise.all([work(), work()]);
  return total;
}

describe(`the simulation from seed ${FIRST} on, for ${SECONDS} s`, () => {
  it(
    'keeps every invariant, whatever the faults',
    async () => {
      const end = performance.now() + SECONDS * 1_000;
      const tally = await runSeeds(FIRST, () => performance.now() >= end);
      process.stdout.write(`simulation: from seed ${FIRST} on: ${tally.summary}\n`);
      // Replay it: npm run simulate -- --seed <seed>
      expect(tally.failures).toEqual([]);
      expect(Object.keys(tally.profiles)).toHaveLength(PROFILE_NAMES.length);
    },
    SECONDS * 1_000 + PATIENCE,
  );

  it(
    'is the same again for the same seed, and another for another',
    async () => {
      const seeds = Array.from({ length: 2 * PROFILE_NAMES.length }, (_, index) => FIRST + index);
      const digests = [];
      for (const seed of seeds) {
        const { digest } = await simulate(seed);
        digests.push(digest);
        expect((await simulate(seed)).digest).toBe(digest);
      }
      expect(new Set(digests).size).toBe(seeds.length);
    },
    PATIENCE,
  );

  it(
    'has met every fault, and every way in which a call can end, in the first seeds',
    async () => {
      const tally = await runSeeds(0, (next) => next >= 10 * CHUNK);
      for (const fault of [
        ...['slow message', 'command lost', 'reply lost', 'command run twice', 'wake-up lost'],
        ...['connection cut', 'subscription cut', 'run after its connection was cut', 'partition'],
        ...['process frozen', 'process killed', 'process closed'],
        ...['server frozen', 'server restarted', 'server restarted without data'],
        ...['server away', 'server away, back without data'],
      ]) {
        expect([fault, tally.faults[fault]]).toEqual([fault, expect.any(Number)]);
      }
      for (const what of [
        ...[
          'acquire: done',
          'acquire: aborted',
          'acquire: LOCK_TIMEOUT',
          'acquire: LOCK_UNAVAILABLE',
        ],
        ...[
          'tryAcquire: nothing',
          'below: LOCK_DEADLOCK',
          'entered again',
          'leases taken by force',
        ],
        ...['release: lost', 'release: unconfirmed', 'extend: done', 'downgrade: done'],
        ...['event handedOver', 'event jeopardy', 'event renewed'],
      ]) {
        expect([what, tally.counts[what]]).toEqual([what, expect.any(Number)]);
      }
    },
    2 * PATIENCE,
  );
});

describe('the checks of the simulation', () => {
  it.each(SABOTAGES.map((sabotage) => [sabotage.name, sabotage] as const))(
    'find it when %s',
    async (_name, sabotage) => {
      const first = PROFILE_NAMES.indexOf(sabotage.profile);
      for (let seed = first; seed < ENOUGH; seed += PROFILE_NAMES.length) {
        const { violations } = await simulate(seed, { sabotage });
        const found = violations.find((violation) => sabotage.breaks.test(violation));
        if (found === undefined) continue;
        process.stdout.write(`simulation: ${sabotage.name}: seed ${seed}: ${found}\n`);
        return;
      }
      expect(`not found up to seed ${ENOUGH}`).toBe('found');
    },
    60_000,
  );
});
