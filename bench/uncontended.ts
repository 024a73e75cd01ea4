/**
 * One caller, one free key, over and over: what a lock costs where nobody contends for it, beside the bare recipe over
 * ioredis on the same server (`SET NX PX`, then compare-and-delete). The candidates take turns in short rounds, so that
 * the machine's moods hit them alike; only the ratios mean anything.
 *
 * Run by `npm run bench`.
 */
import { randomUUID } from 'node:crypto';
import { performance } from 'node:perf_hooks';

import { Redis } from 'ioredis';

import { Locker } from '../lib/index.js';
import { RedisServer } from '../test/support/redis-server.js';

const ROUNDS = 40;
const CYCLES_PER_ROUND = 250;

const COMPARE_AND_DELETE = `if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end`;

await using server = await RedisServer.start();
const redis = new Redis(server.url);
redis.defineCommand('compareAndDelete', { numberOfKeys: 1, lua: COMPARE_AND_DELETE });
const raw = redis as Redis & { compareAndDelete(key: string, token: string): Promise<number> };
const locker = new Locker({ connection: server.url });
await locker.connect();

const candidates: Record<string, () => Promise<unknown>> = {
  'raw SET NX PX + compare-and-delete': async () => {
    const token = randomUUID();
    await raw.set('raw', token, 'PX', 10_000, 'NX');
    await raw.compareAndDelete('raw', token);
  },
  'acquire + release': async () => {
    const lock = await locker.acquire('ours');
    await lock.release();
  },
  using: () => locker.using('ours', () => {}),
};

interface Figures {
  readonly times: number[];
  cpu: number;
}

const figures = new Map<string, Figures>();
for (const [name, cycle] of Object.entries(candidates)) {
  figures.set(name, { times: [], cpu: 0 });
  for (let i = 0; i < 2 * CYCLES_PER_ROUND; i += 1) await cycle();
}
for (let round = 0; round < ROUNDS; round += 1) {
  for (const [name, cycle] of Object.entries(candidates)) {
    const figure = figures.get(name) as Figures;
    const cpuBefore = process.cpuUsage();
    for (let i = 0; i < CYCLES_PER_ROUND; i += 1) {
      const start = performance.now();
      await cycle();
      figure.times.push(performance.now() - start);
    }
    const cpu = process.cpuUsage(cpuBefore);
    figure.cpu += cpu.user + cpu.system;
  }
}

const commands = await countCommands();
const base = figures.get(Object.keys(candidates)[0] as string) as Figures;
const baseMedian = median(base.times);
console.table(
  Object.fromEntries(
    [...figures].map(([name, { times, cpu }]) => [
      name,
      {
        'p50 µs': Math.round(median(times) * 1_000),
        'p50 / raw': Number((median(times) / baseMedian).toFixed(2)),
        'client CPU / raw': Number((cpu / base.cpu).toFixed(2)),
        'commands a cycle': commands.get(name),
      },
    ]),
  ),
);
await locker.close();
redis.disconnect();

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number;
}

/** How many commands a cycle sends, as the server sees them; what a script calls isn't sent. */
async function countCommands(): Promise<Map<string, number>> {
  const cycles = 50;
  const counts = new Map<string, number>();
  let seen = 0;
  const monitor = await redis.monitor();
  monitor.on('monitor', (_time: string, [command]: string[], source: string) => {
    if (source !== 'lua' && command !== 'info') seen += 1;
  });
  for (const [name, cycle] of Object.entries(candidates)) {
    const before = seen;
    for (let i = 0; i < cycles; i += 1) await cycle();
    // The monitor's lines come over a connection of their own: a marker tells that all have.
    const marked = new Promise<void>((resolve) => {
      monitor.on('monitor', (_time: string, args: string[]) => args[1] === name && resolve());
    });
    await redis.echo(name);
    await marked;
    counts.set(name, (seen - before - 1) / cycles);
  }
  monitor.disconnect();
  return counts;
}
