import { setTimeout as pause } from 'node:timers/promises';

import type { LockClient } from '../adapters/adapter.js';
import { CriticalSection } from '../critical-section.js';
import { QueuedKey } from '../queued-key.js';
import { serverSpending } from '../server-meter.js';
import { median } from '../statistics.js';
import { acquireMany, releaseMany, warmUpRenewal } from './w6-renewal.js';
import type { Bench, Measure, Measured, Workload } from './workload.js';

const WAITERS = [1, 10, 100, 1_000, 10_000] as const;
const RELEASES = { quick: 60, full: 400 } as const;

/** Server time of the script that releases, by how many wait. */
async function byWaiters({ url, redis, scale }: Bench): Promise<Measured> {
  const values: Record<string, number> = {};
  for (const waiters of WAITERS) {
    const key = await QueuedKey.open(url, `waiters:${waiters}`);
    await key.enqueue(waiters);
    const times: number[] = [];
    for (let i = 0; i < RELEASES[scale]; i += 1) {
      const before = await serverSpending(redis);
      await key.release();
      const after = await serverSpending(redis);
      await key.succeed();
      times.push(after.scripts.micros - before.scripts.micros);
    }
    await key.close();
    values[`at${waiters}`] = median(times);
  }
  const all = Object.values(values);
  return {
    values: { ...values, growth: Math.max(...all) / Math.min(...all) },
    violations: 0,
    errors: 0,
  };
}

const HELD = {
  quick: [1_000, 10_000],
  full: [1, 1_000, 10_000, 100_000],
} as const;
/** Long enough for the most locks to be taken while the first are renewed. */
const TTL = { quick: 2_000, full: 9_000 } as const;
const RENEWALS = 3;
/** Below this, what the process does anyway outweighs the leases. */
const MANY = 1_000;

/** CPU time of the process per lease and renewal, by how many it holds. */
async function byHeldKeys(bench: Bench): Promise<Measured> {
  const { open, meter, scale, redis } = bench;
  const values: Record<string, number> = {};
  const ttl = TTL[scale];
  await warmUpRenewal(bench);
  const client = await open({ ttl, renew: true });
  let lost = 0;
  for (const count of HELD[scale]) {
    const held = await acquireMany(client, count);
    // One renewal passes first: the garbage of the taking isn't the renewal's cost.
    await pause(ttl / 3);
    globalThis.gc?.();
    const phase = await meter.begin();
    await pause((ttl / 3) * RENEWALS);
    const { clientCpu } = await phase.end();
    values[`at${count}`] = clientCpu / (count * RENEWALS);
    const believed =
      client.isHeld === undefined ? count : held.filter((one) => client.isHeld?.(one)).length;
    lost += Math.max(0, count - Math.min(believed, await redis.dbsize()));
    if (count !== HELD[scale].at(-1)) await releaseMany(client, held);
  }
  const many = HELD[scale].filter((count) => count >= MANY);
  return {
    values: { ...values, most: Math.max(...many.map((count) => values[`at${count}`] as number)) },
    violations: 0,
    errors: lost,
  };
}

const PROCESSES = { quick: [1, 16], full: [1, 4, 16, 64] } as const;
const CALLERS = 4;
const KEY = 'key';
const WARM_UP = 200;
const DURATION = { quick: 400, full: 2_500 } as const;

/** What a turn costs, by how many contend. */
async function byProcesses({ open, meter, scale }: Bench): Promise<Measured> {
  const values: Record<string, number> = {};
  const section = new CriticalSection();
  for (const count of PROCESSES[scale]) {
    const clients = await Promise.all(Array.from({ length: count }, () => open()));
    let turns = 0;
    const contend = async (client: LockClient, end: number, atEnd: () => void): Promise<void> => {
      while (performance.now() < end) {
        const held = await client.acquire(KEY);
        section.enter(client.fencingToken?.(held));
        section.leave();
        turns += 1;
        await client.release(held);
      }
      atEnd();
    };
    const run = (duration: number, atEnd: () => void): Promise<unknown> => {
      const end = performance.now() + duration;
      return Promise.all(
        clients.flatMap((client) =>
          Array.from({ length: CALLERS }, () => contend(client, end, atEnd)),
        ),
      );
    };
    await run(WARM_UP, () => {});
    turns = 0;
    const phase = await meter.begin();
    let turnsAtEnd: number | undefined;
    let reading: ReturnType<typeof phase.end> | undefined;
    await run(DURATION[scale], () => {
      turnsAtEnd ??= turns;
      reading ??= phase.end();
    });
    const spent = await (reading ?? phase.end());
    values[`commands${count}`] = spent.commands / (turnsAtEnd ?? turns);
    values[`server${count}`] = spent.serverCpu / (turnsAtEnd ?? turns);
    await Promise.all(clients.map((client) => client.close()));
  }
  return { values, violations: section.violations, errors: 0 };
}

function at(count: number): string {
  return count.toLocaleString('en-US');
}

/** What becomes dearer when there is more of it. */
export const w10Growth: Workload = {
  id: 'W10',
  title: 'growth of cost',
  about: 'The same, with more and more of something.',
  cases: [
    {
      id: 'queued waiters',
      about:
        'Server time of one release while so many wait in Redis’s queue, each as the first of its process (one backend speaks for all of them). Others keep no queue.',
      needs: [],
      libraries: ['ours'],
      measures: [
        ...WAITERS.map((count): Measure => ({
          id: `at${count}`,
          title: at(count),
          unit: 'µs',
          digits: 0,
        })),
        { id: 'growth', title: 'max/min', unit: '', digits: 2 },
      ],
      run: byWaiters,
    },
    {
      id: 'held keys',
      about:
        'CPU time of the process per lease and renewal while it holds so many, over three renewals of each. With one lease it shows what the process does anyway.',
      needs: ['renewal', 'processes'],
      libraries: ['batch', 'ours'],
      measures: [
        ...HELD.full.map((count): Measure => ({
          id: `at${count}`,
          title: at(count),
          unit: 'µs',
          digits: 2,
        })),
        {
          id: 'most',
          title: `most, from ${at(MANY)} on`,
          unit: 'µs',
          digits: 2,
          ratioTo: ['batch'],
        },
      ],
      run: byHeldKeys,
    },
    {
      id: 'processes',
      about:
        'Commands and server CPU time of one turn on one key for which so many lockers contend with four callers each, doing nothing under it. The lockers, with connections and queues of their own, stand for processes: they share one, since 64 real ones would only measure the scheduler of a small machine.',
      needs: ['waiting', 'processes'],
      libraries: ['polling', 'redis-semaphore', 'ours', 'ours-no-hand-over', 'ours-polling'],
      measures: PROCESSES.full.flatMap((count): Measure[] => [
        { id: `commands${count}`, title: `commands at ${count}`, unit: '', digits: 2 },
        { id: `server${count}`, title: 'server CPU', unit: 'µs', digits: 0 },
      ]),
      run: byProcesses,
    },
  ],
};
