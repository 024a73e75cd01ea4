import { setTimeout as pause } from 'node:timers/promises';

import type { LockClient } from '../adapters/adapter.js';
import type { Bench, Measured, Workload } from './workload.js';

const LOCKS = 1_000;
const TTL = 3_000;
/** Whole intervals of renewal for each library: they renew at 1, 2, 2.4 and 2.5 s. */
const DURATION = { quick: 3_000, full: 12_000 } as const;
const AT_ONCE = 50;
/** Not below a second: the libraries renew a fixed time before the end. */
const WARM_UP_TTL = 1_000;
const WARM_UP = { quick: 3_000, full: 8_000 } as const;

async function renewed(bench: Bench): Promise<Measured> {
  const { open, meter, scale, redis } = bench;
  await warmUpRenewal(bench);
  const client = await open({ ttl: TTL, renew: true });
  const held = await acquireMany(client, LOCKS);
  // One renewal passes first: the garbage of the taking isn't the renewal's cost.
  await pause(TTL / 3);
  globalThis.gc?.();
  const phase = await meter.begin();
  await pause(DURATION[scale]);
  const spent = await phase.end();
  const seconds = spent.elapsed / 1_000;
  const believed =
    client.isHeld === undefined ? LOCKS : held.filter((one) => client.isHeld?.(one)).length;
  // Each lock is a key at least; one that was lost has expired by now.
  const kept = Math.min(believed, await redis.dbsize());
  return {
    values: {
      commands: spent.commands / seconds,
      clientCpu: spent.clientCpu / 1_000 / seconds,
      serverCpu: spent.serverCpu / 1_000 / seconds,
    },
    violations: 0,
    errors: Math.max(0, LOCKS - kept),
  };
}

/**
 * Has many locks renewed several times a second: what the engine spends on compiling the code is gone after seconds, while
 * locks are held for hours, and at one renewal a second it would be most of what is measured.
 */
export async function warmUpRenewal({ open, redis, scale }: Bench): Promise<void> {
  const client = await open({ ttl: WARM_UP_TTL, renew: true });
  const held = await acquireMany(client, LOCKS);
  await pause(WARM_UP[scale]);
  await releaseMany(client, held);
  await client.close();
  await redis.flushall();
}

export async function releaseMany(client: LockClient, held: unknown[]): Promise<void> {
  for (let from = 0; from < held.length; from += AT_ONCE) {
    const some = held.slice(from, from + AT_ONCE);
    await Promise.all(some.map((one) => client.release(one)));
  }
}

/** Takes many free keys, some at a time: all at once would only measure one's own queue. */
export async function acquireMany(client: LockClient, count: number): Promise<unknown[]> {
  const held: unknown[] = [];
  while (held.length < count) {
    const batch = Math.min(AT_ONCE, count - held.length);
    held.push(
      ...(await Promise.all(
        Array.from({ length: batch }, (_, i) => client.acquire(`key:${held.length + i}`)),
      )),
    );
  }
  return held;
}

/** What held locks cost. */
export const w6Renewal: Workload = {
  id: 'W6',
  title: '1,000 locks renewed',
  about:
    'One process holds a thousand locks with a ttl of 3 s for several seconds; all must still be held at the end. Before that, others are held and renewed more often, until the code is compiled.',
  cases: [
    {
      id: '',
      needs: ['renewal', 'processes'],
      measures: [
        { id: 'commands', title: 'commands/s', unit: '', digits: 1, ratioTo: ['batch'] },
        { id: 'clientCpu', title: 'client CPU', unit: 'ms/s', digits: 2, ratioTo: ['batch'] },
        { id: 'serverCpu', title: 'server CPU', unit: 'ms/s', digits: 2, ratioTo: ['batch'] },
      ],
      run: renewed,
    },
  ],
};
