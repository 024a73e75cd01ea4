import { setTimeout as pause } from 'node:timers/promises';

import { clientSpending, spentSince, tracingCommands } from '../client-meter.js';
import { machineNow } from '../machine-clock.js';
import { median, percentile } from '../statistics.js';
import type { Bench, Measured, PeerSide, Workload } from './workload.js';

const KEY = 'key';
const WARM_UP = { quick: 8, full: 30 } as const;
const ROUNDS = { quick: 40, full: 400 } as const;
/** Until the waiter surely waits, in ms; and up to so much more, so that a poll comes at any moment. */
const LEAD = 12;
const SPREAD = 12;

interface Turn {
  readonly granted: number;
  /** When each of the waiter's commands left, from its asking to the grant. */
  readonly commands: readonly number[];
}

/** Waits for the lock once, whenever it's told to. */
async function waitForIt({ open, send, next }: PeerSide): Promise<void> {
  const client = await open();
  send('open');
  for (;;) {
    await next();
    const [[held, granted], commands] = await tracingCommands(async () => {
      const lock = await client.acquire(KEY);
      return [lock, machineNow()] as const;
    });
    await client.release(held);
    send({ granted, commands } satisfies Turn);
  }
}

async function handedOver({ open, startPeer, meter, scale }: Bench): Promise<Measured> {
  const client = await open();
  const waiter = await startPeer('waiter');
  await waiter.next();
  const latencies: number[] = [];
  const commands: number[] = [];
  let overlaps = 0;
  const handOver = async (): Promise<void> => {
    const held = await client.acquire(KEY);
    waiter.send('wait');
    await pause(LEAD + Math.random() * SPREAD);
    const releasedAt = machineNow();
    const released = client.release(held);
    const turn = await waiter.next<Turn>();
    await released;
    if (turn.granted < releasedAt) overlaps += 1;
    latencies.push((turn.granted - releasedAt) * 1_000);
    commands.push(turn.commands.filter((sentAt) => sentAt >= releasedAt).length);
  };
  for (let i = 0; i < WARM_UP[scale]; i += 1) await handOver();
  latencies.length = commands.length = 0;
  const before = clientSpending();
  const phase = await meter.begin();
  for (let i = 0; i < ROUNDS[scale]; i += 1) await handOver();
  const spent = await phase.end();
  const { cpu } = spentSince(before);
  const pushes = spent.publishes / ROUNDS[scale];
  return {
    values: {
      p50: median(latencies),
      p99: percentile(latencies, 0.99),
      // The release goes to the server, each command of the waiter's goes there and back, a push comes from there.
      messages: 1 + pushes + 2 * median(commands),
      clientCpu: cpu / ROUNDS[scale],
      serverCpu: spent.serverCpu / ROUNDS[scale],
    },
    violations: overlaps,
    errors: 0,
  };
}

/** How long nobody holds the lock between two processes. */
export const w9HandOver: Workload = {
  id: 'W9',
  title: 'hand-over from one process to another',
  about:
    'One process holds the key, one caller in another waits for it: the time from the beginning of the release to the grant. One-way messages on the way: the release, what the server pushes (PUBLISH), and twice the commands that the waiter sends from then to its grant.',
  cases: [
    {
      id: '',
      needs: ['waiting', 'processes'],
      measures: [
        { id: 'p50', title: 'p50', unit: 'µs', digits: 0, ratioTo: ['polling'] },
        { id: 'p99', title: 'p99', unit: 'µs', digits: 0 },
        { id: 'messages', title: 'messages', unit: '', digits: 1 },
        { id: 'clientCpu', title: 'releaser CPU', unit: 'µs', digits: 0 },
        { id: 'serverCpu', title: 'server CPU', unit: 'µs', digits: 0 },
      ],
      run: handedOver,
    },
  ],
  roles: { waiter: waitForIt },
};
