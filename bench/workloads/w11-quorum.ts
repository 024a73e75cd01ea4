import { CriticalSection } from '../critical-section.js';
import { median, percentile } from '../statistics.js';
import type { Bench, Case, Measured, Workload } from './workload.js';

const WARM_UP = { quick: 500, full: 1_500 } as const;
const CYCLES = { quick: 1_500, full: 6_000 } as const;

/** Each on a key of its own, so that one that's given back late by a straggler costs the next nothing. */
async function sequential({ open, meter, scale }: Bench): Promise<Measured> {
  const client = await open();
  const section = new CriticalSection();
  const [warmUp, cycles] = [WARM_UP[scale], CYCLES[scale]];
  const keys = Array.from({ length: warmUp + cycles }, (_, turn) => `key ${turn}`);
  if (client.prepare !== undefined) for (const key of keys) await client.prepare(key);
  const times = new Float64Array(cycles);
  let phase = await meter.begin();
  for (const [turn, key] of keys.entries()) {
    if (turn === warmUp) phase = await meter.begin();
    const start = performance.now();
    const held = await client.acquire(key);
    section.pass();
    await client.release(held);
    if (turn >= warmUp) times[turn - warmUp] = performance.now() - start;
  }
  const spent = await phase.end();
  const micros = Array.from(times, (time) => time * 1_000);
  return {
    values: {
      p50: median(micros),
      p99: percentile(micros, 0.99),
      commands: spent.commands / cycles,
      clientCpu: spent.clientCpu / cycles,
    },
    violations: section.violations,
    errors: 0,
  };
}

/** What a lock over several independent nodes costs where nobody contends for it. */
export const w11Quorum: Workload = {
  id: 'W11',
  title: 'a quorum of independent nodes',
  about:
    'One caller takes a free key at a majority of the nodes and gives it back, over and over, each time another key.',
  cases: [3, 5].map((nodes): Case => ({
    id: `${nodes} nodes`,
    nodes,
    needs: [],
    libraries: ['raw-quorum', 'redlock-5-quorum', 'ours-quorum', 'ours-quorum-at-odds'],
    measures: [
      {
        id: 'p50',
        title: 'p50',
        unit: 'µs',
        digits: 0,
        ratioTo: ['raw-quorum', 'redlock-5-quorum'],
      },
      { id: 'p99', title: 'p99', unit: 'µs', digits: 0 },
      { id: 'commands', title: 'commands/cycle', unit: '', digits: 2 },
      {
        id: 'clientCpu',
        title: 'client CPU/cycle',
        unit: 'µs',
        digits: 0,
        ratioTo: ['raw-quorum'],
      },
    ],
    run: sequential,
  })),
};
