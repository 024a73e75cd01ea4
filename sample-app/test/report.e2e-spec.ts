import { describe, expect, it } from '@jest/globals';
import { eventually } from '../../test/support/eventually.js';
import type { ReportRun } from '../src/report/report.js';
import { type Replica, Shop } from './support/shop.js';

const TICKS = 10;

const runsSince = (shop: Shop, tick: number): Promise<ReportRun[]> =>
  shop.any.get(`report?since=${tick}`);

const skippedBy = async (replica: Replica): Promise<number> =>
  (await replica.lock('report')).here.skipped;

describe('A report that is due every second on three replicas', () => {
  it('is written exactly once a tick over 10 ticks, with clocks that differ by up to 200 ms', async () => {
    await using shop = await Shop.open(['A', 'B', 'C'], { clocksBehind: { B: 100, C: 200 } });
    // All of them are there from the next tick on, and that one may be under way.
    const first = Math.floor(Date.now() / 1_000) + 2;
    const ticks = Array.from({ length: TICKS }, (_, at) => first + at);

    // When the next but one is written, nobody is still to try for the last.
    const runs = await eventually(
      async () => {
        const seen = await runsSince(shop, first);
        return seen.some(({ tick }) => tick > first + TICKS) ? seen : undefined;
      },
      { timeout: 1_000 * TICKS + 8_000, message: `${TICKS} ticks have passed` },
    );

    const written = ticks.map((tick) => runs.filter((run) => run.tick === tick).length);
    expect(written).toEqual(ticks.map(() => 1));
    // Each replica did try at every tick: what it didn't write, it skipped.
    for (const replica of shop.replicas) {
      const own = runs.filter(
        ({ tick, replica: by }) => by === replica.name && ticks.includes(tick),
      );
      expect(own.length + (await skippedBy(replica))).toBeGreaterThanOrEqual(TICKS);
    }
  });

  it('is written by another replica when the one that wrote it is killed', async () => {
    await using shop = await Shop.open(['A', 'B', 'C']);
    const written = await eventually(async () => (await runsSince(shop, 0)).at(-1), {
      message: 'the report is written',
    });
    const killed = shop.replica(written.replica);
    const others = shop.replicas.filter((replica) => replica !== killed);
    await killed.process.kill();

    const [other] = others;
    const next = await eventually(
      async () => {
        const runs = (await other?.get<ReportRun[]>(`report?since=${written.tick + 1}`)) ?? [];
        return runs.find(({ replica }) => replica !== killed.name);
      },
      { message: 'another replica writes the report' },
    );
    expect(others.map(({ name }) => name)).toContain(next.replica);
  });
});
