import { setTimeout as pause } from 'node:timers/promises';

import { type ClientSpending, clientSpending, spentSince } from '../client-meter.js';
import { CriticalSection } from '../critical-section.js';
import { machineNow } from '../machine-clock.js';
import type { Bench, Measured, PeerSide, Workload } from './workload.js';

const WAITERS = 500;
const KEY = 'key';
/** Until everyone has asked, and whatever happens at first has happened, in ms. */
const SETTLE = 700;
const DURATION = { quick: 1_500, full: 6_000 } as const;

interface Served {
  readonly firstGrant: number;
  readonly lastGrant: number;
  readonly violations: number;
}

/** Waits with all of its callers; told to, reports what the waiting costs; at last, when all were served. */
async function wait({ open, send, next }: PeerSide): Promise<void> {
  const client = await open();
  const section = new CriticalSection();
  let firstGrant = 0;
  let lastGrant = 0;
  const all = Promise.all(
    Array.from({ length: WAITERS }, async () => {
      const held = await client.acquire(KEY);
      lastGrant = machineNow();
      firstGrant ||= lastGrant;
      section.enter(client.fencingToken?.(held));
      section.leave();
      await client.release(held);
    }),
  );
  send('asked');
  const duration = await next<number>();
  const before = clientSpending();
  await pause(duration);
  send(spentSince(before));
  await all;
  send({ firstGrant, lastGrant, violations: section.violations } satisfies Served);
}

async function behindHolder({ open, startPeer, meter, scale }: Bench): Promise<Measured> {
  const holder = await open();
  const held = await holder.acquire(KEY);
  const waiters = await startPeer('waiters');
  await waiters.next();
  await pause(SETTLE);
  const duration = DURATION[scale];
  const phase = await meter.begin();
  waiters.send(duration);
  const waiting = await waiters.next<ClientSpending>();
  const here = await phase.end();
  const releasedAt = machineNow();
  await holder.release(held);
  const served = await waiters.next<Served>();
  return {
    values: {
      commands: ((waiting.commands + here.commands) / duration) * 1_000,
      clientCpu: (waiting.cpu / 1_000 / duration) * 100,
      serverCpu: (here.serverCpu / 1_000 / duration) * 100,
      served: served.lastGrant - releasedAt,
    },
    violations: served.violations + (served.firstGrant < releasedAt ? 1 : 0),
    errors: 0,
  };
}

/** What it costs while nothing happens. */
export const w5Waiting: Workload = {
  id: 'W5',
  title: '500 waiters behind a holder',
  about:
    'Five hundred callers of one process wait for a key that another process holds for seconds: what their waiting costs, the holder’s own renewal included; and how long after the release the last of them had its turn, each for no time.',
  cases: [
    {
      id: '',
      needs: ['waiting', 'processes'],
      measures: [
        {
          id: 'commands',
          title: 'commands/s',
          unit: '',
          digits: 1,
          ratioTo: ['polling'],
        },
        { id: 'clientCpu', title: 'client CPU', unit: '%', digits: 2 },
        { id: 'serverCpu', title: 'server CPU', unit: '%', digits: 2 },
        { id: 'served', title: 'all served after', unit: 'ms', digits: 1, ratioTo: ['polling'] },
      ],
      run: behindHolder,
    },
  ],
  roles: { waiters: wait },
};
