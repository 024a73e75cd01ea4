/**
 * Several keys at once, where it counts: 4 processes move money between 10 accounts, each transfer under the locks of both,
 * taken in whatever order they come. No money is lost and nobody waits for ever; without the locks, money is lost.
 */
import { describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { keysInUse } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker } from '../support/worker.js';
import type { TransferOptions, TransfersDone } from './support/transfer-taker.js';

const PROCESSES = 4;
const WORKERS = 8;
const ACCOUNTS = 10;
const TRANSFERS = 10_000;
const BALANCE = 1_000_000;

/** Lets all processes do their part; the sum of all accounts after it. */
async function moveMoney(
  locked: boolean,
): Promise<{ sum: number; errors: string[]; took: number }> {
  await using server = await RedisServer.start();
  const redis = new Redis(server.url);
  const names = Array.from({ length: ACCOUNTS }, (_, i) => `account:${i}`);
  await redis.mset(Object.fromEntries(names.map((name) => [name, BALANCE])));
  const takers = Array.from({ length: PROCESSES }, () => {
    const options: TransferOptions = {
      ...{ url: server.url, accounts: ACCOUNTS, workers: WORKERS, locked },
      transfers: TRANSFERS / PROCESSES,
    };
    return spawnWorker<TransfersDone | 'ready', 'go'>(
      new URL('./support/transfer-taker.ts', import.meta.url),
      { args: [JSON.stringify(options)] },
    );
  });
  try {
    await Promise.all(takers.map((taker) => taker.next((message) => message === 'ready', 30_000)));
    const since = performance.now();
    for (const taker of takers) taker.send('go');
    const done = await Promise.all(
      takers.map((taker) =>
        taker.next((message): message is TransfersDone => message !== 'ready', 100_000),
      ),
    );
    const took = performance.now() - since;
    const balances = await redis.mget(names);
    await redis.del(names);
    expect(await keysInUse(redis)).toEqual([]);
    return {
      sum: balances.reduce((sum, balance) => sum + Number(balance), 0),
      errors: done.flatMap((one) => one.errors),
      took,
    };
  } finally {
    await Promise.all(takers.map((taker) => taker.kill()));
    redis.disconnect();
  }
}

describe(`${TRANSFERS} transfers between ${ACCOUNTS} accounts in ${PROCESSES} processes`, () => {
  it('under the locks of both accounts: no money is lost, nobody is refused, no deadlock', async () => {
    const { sum, errors, took } = await moveMoney(true);
    process.stdout.write(`transfers: locked, in ${Math.round(took)} ms\n`);
    expect(errors).toEqual([]);
    expect(sum).toBe(ACCOUNTS * BALANCE);
  }, 120_000);

  it('without locks: money is lost or made', async () => {
    const { sum } = await moveMoney(false);
    process.stdout.write(
      `transfers: without locks the sum is off by ${sum - ACCOUNTS * BALANCE}\n`,
    );
    expect(sum).not.toBe(ACCOUNTS * BALANCE);
  }, 120_000);
});
