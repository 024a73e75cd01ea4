import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';

import type { LockClient } from '../adapters/adapter.js';
import { acquireMany } from './w6-renewal.js';
import type { Bench, Measured, Workload } from './workload.js';

const COUNT = { quick: 4_000, full: 20_000 } as const;
const WARM_UP = 500;

async function heapUsed(): Promise<number> {
  // Replies and timers that are done with are let go only when their turn has ended.
  for (let i = 0; i < 4; i += 1) {
    await nextTurn();
    globalThis.gc?.();
  }
  return process.memoryUsage().heapUsed;
}

/** Takes and gives back a few, so that what is made once is made. */
async function warmUp(client: LockClient): Promise<void> {
  const held = await acquireMany(client, WARM_UP);
  await Promise.all(held.map((one) => client.release(one)));
}

async function perHeldLock({ open, scale }: Bench): Promise<Measured> {
  const client = await open();
  await warmUp(client);
  const count = COUNT[scale];
  const keys = Array.from({ length: count }, (_, i) => `held:${i}`);
  const held: unknown[] = Array.from({ length: count });
  const before = await heapUsed();
  for (let i = 0; i < count; i += 1) held[i] = await client.acquire(keys[i] as string);
  const after = await heapUsed();
  return {
    values: { bytes: (after - before) / held.length },
    violations: 0,
    errors: 0,
  };
}

async function perWaiter({ open, scale }: Bench): Promise<Measured> {
  const client = await open();
  await warmUp(client);
  const count = COUNT[scale];
  const waiting: unknown[] = Array.from({ length: count });
  const holding = await client.acquire('key');
  // One waiter stands in Redis where there's a queue; it isn't what is counted.
  const first = client.acquire('key');
  await pause(100);
  const before = await heapUsed();
  for (let i = 0; i < count; i += 1) waiting[i] = client.acquire('key');
  await pause(100);
  const after = await heapUsed();
  void first;
  void holding;
  return {
    values: { bytes: (after - before) / waiting.length },
    violations: 0,
    errors: 0,
  };
}

/** What locks weigh. */
export const w8Memory: Workload = {
  id: 'W8',
  title: 'memory',
  about:
    'The heap after a garbage collection, with and without many of them; the text of the key isn’t counted, the library’s own handle and promise are.',
  cases: [
    {
      id: 'held lock',
      needs: ['handles'],
      measures: [{ id: 'bytes', title: 'heap/lock', unit: 'bytes', digits: 0, ratioTo: ['raw'] }],
      run: perHeldLock,
    },
    {
      id: 'waiter',
      about: 'All wait for one key.',
      needs: ['handles', 'waiting'],
      measures: [
        {
          id: 'bytes',
          title: 'heap/waiter',
          unit: 'bytes',
          digits: 0,
          ratioTo: ['polling', 'async-mutex'],
        },
      ],
      run: perWaiter,
    },
  ],
};
