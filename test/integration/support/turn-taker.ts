/** A process of `exclusion.spec.ts`: workers that take turns until the budget is used up. */
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Locker } from '../../../lib/core/locker.js';

export interface TakerOptions {
  readonly url: string;
  readonly process: number;
  readonly workers: number;
  /** The budget of all processes together. */
  readonly turns: number;
  readonly ttl: number;
}

export interface TakerDone {
  readonly mostHolders: number;
  readonly longestWait: number;
  readonly errors: readonly string[];
}

const options = JSON.parse(process.argv[2] as string) as TakerOptions;
const { url, ttl, workers, turns } = options;
const locker = new Locker({ connection: url, ttl, waitTimeout: '60s' });
const redis = new Redis(url);
const errors: string[] = [];
let mostHolders = 0;
let longestWait = 0;

async function takeTurn(): Promise<boolean> {
  const since = performance.now();
  await using lock = await locker.acquire('turns');
  longestWait = Math.max(longestWait, performance.now() - since);
  mostHolders = Math.max(mostHolders, await redis.incr('holders'));
  const turn = await redis.incr('turns');
  const served = turn <= turns;
  if (served) {
    const entry = { turn, process: options.process, fence: lock.fencingToken };
    await redis.rpush('log', JSON.stringify(entry));
    // Now and then longer than a moment, so that the others' commands fall into it.
    if (Math.random() < 0.1) await pause(1);
  }
  await redis.decr('holders');
  return served;
}

async function work(): Promise<void> {
  try {
    while (await takeTurn());
  } catch (error) {
    errors.push(String(error));
  }
}

await Promise.all([locker.connect(), redis.ping()]);
process.once('message', () => {
  void Promise.all(Array.from({ length: workers }, work)).then(async () => {
    await locker.close();
    redis.disconnect();
    process.send?.({ mostHolders, longestWait, errors } satisfies TakerDone);
    process.disconnect();
  });
});
process.send?.('ready');
