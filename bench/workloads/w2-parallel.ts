import { underLock } from '../adapters/adapter.js';
import { CriticalSection } from '../critical-section.js';
import type { Workload } from './workload.js';

const KEYS = 64;
const WARM_UP = { quick: 200, full: 600 } as const;
const DURATION = { quick: 700, full: 3_000 } as const;

/** How much goes through one process where nobody contends. */
export const w2Parallel: Workload = {
  id: 'W2',
  title: '64 in flight over 64 keys',
  about:
    'Sixty-four callers in one process, each over and over on a key of its own: how many cycles a second, and what one costs.',
  cases: [
    {
      id: '',
      needs: [],
      measures: [
        { id: 'rate', title: 'cycles/s', unit: '', digits: 0, ratioTo: ['raw'] },
        { id: 'commands', title: 'commands/cycle', unit: '', digits: 2 },
        { id: 'clientCpu', title: 'client CPU/cycle', unit: 'µs', digits: 1, ratioTo: ['raw'] },
        { id: 'serverCpu', title: 'server CPU/cycle', unit: 'µs', digits: 1, ratioTo: ['raw'] },
      ],
      async run({ open, meter, scale }) {
        const client = await open();
        const sections = Array.from({ length: KEYS }, () => new CriticalSection());
        let cycles = 0;
        const loop = async (
          section: CriticalSection,
          index: number,
          goesOn: (own: number) => boolean,
        ): Promise<void> => {
          for (let own = 0; goesOn(own); own += 1) {
            await underLock(client, `key:${index}`, section.pass);
            cycles += 1;
          }
        };
        await Promise.all(
          sections.map((section, index) => loop(section, index, (own) => own < WARM_UP[scale])),
        );
        cycles = 0;
        const phase = await meter.begin();
        const end = performance.now() + DURATION[scale];
        await Promise.all(
          sections.map((section, index) => loop(section, index, () => performance.now() < end)),
        );
        const spent = await phase.end();
        return {
          values: {
            rate: (cycles / spent.elapsed) * 1_000,
            commands: spent.commands / cycles,
            clientCpu: spent.clientCpu / cycles,
            serverCpu: spent.serverCpu / cycles,
          },
          violations: sections.reduce((sum, { violations }) => sum + violations, 0),
          errors: 0,
        };
      },
    },
  ],
};
