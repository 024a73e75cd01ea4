import { underLock } from '../adapters/adapter.js';
import { CriticalSection } from '../critical-section.js';
import { median, percentile } from '../statistics.js';
import type { Workload } from './workload.js';

const WARM_UP = { quick: 1_000, full: 3_000 } as const;
const CYCLES = { quick: 3_000, full: 15_000 } as const;

/** What a lock costs where nobody contends for it. */
export const w1Sequential: Workload = {
  id: 'W1',
  title: 'sequential on a free key',
  about:
    'One caller takes a free key and gives it back, over and over; each cycle is timed by itself.',
  cases: [
    {
      id: '',
      needs: [],
      measures: [
        { id: 'p50', title: 'p50', unit: 'µs', digits: 1, ratioTo: ['raw'] },
        { id: 'p99', title: 'p99', unit: 'µs', digits: 0 },
        { id: 'commands', title: 'commands/cycle', unit: '', digits: 2 },
        { id: 'clientCpu', title: 'client CPU/cycle', unit: 'µs', digits: 1, ratioTo: ['raw'] },
        { id: 'serverCpu', title: 'server CPU/cycle', unit: 'µs', digits: 1, ratioTo: ['raw'] },
      ],
      async run({ open, meter, scale }) {
        const client = await open();
        const section = new CriticalSection();
        for (let i = 0; i < WARM_UP[scale]; i += 1) await underLock(client, 'key', section.pass);
        const times = new Float64Array(CYCLES[scale]);
        const phase = await meter.begin();
        for (let i = 0; i < times.length; i += 1) {
          const start = performance.now();
          await underLock(client, 'key', section.pass);
          times[i] = performance.now() - start;
        }
        const spent = await phase.end();
        const micros = Array.from(times, (time) => time * 1_000);
        return {
          values: {
            p50: median(micros),
            p99: percentile(micros, 0.99),
            commands: spent.commands / times.length,
            clientCpu: spent.clientCpu / times.length,
            serverCpu: spent.serverCpu / times.length,
          },
          violations: section.violations,
          errors: 0,
        };
      },
    },
  ],
};
