/** A process of `transfers.spec.ts`: moves money between accounts, each in two steps that others may come between. */
import { Redis } from 'ioredis';
import { Locker } from '../../../lib/core/locker.js';

export interface TransferOptions {
  readonly url: string;
  readonly accounts: number;
  readonly transfers: number;
  /** How many are under way at once. */
  readonly workers: number;
  readonly locked: boolean;
}

export interface TransfersDone {
  readonly errors: readonly string[];
}

const { url, accounts, transfers, workers, locked } = JSON.parse(
  process.argv[2] as string,
) as TransferOptions;
const locker = new Locker({ connection: url, waitTimeout: '60s' });
const redis = new Redis(url);
const errors: string[] = [];
let left = transfers;

async function transfer(from: string, to: string, amount: number): Promise<void> {
  const [source, target] = await Promise.all([redis.get(from), redis.get(to)]);
  await Promise.all([
    redis.set(from, Number(source) - amount),
    redis.set(to, Number(target) + amount),
  ]);
}

async function work(): Promise<void> {
  while (left > 0) {
    left -= 1;
    const from = Math.floor(Math.random() * accounts);
    const to = (from + 1 + Math.floor(Math.random() * (accounts - 1))) % accounts;
    const keys = [`account:${from}`, `account:${to}`] as const;
    const move = () => transfer(...keys, 1 + Math.floor(Math.random() * 10));
    try {
      await (locked ? locker.using(keys, move) : move());
    } catch (error) {
      errors.push(String(error));
    }
  }
}

await Promise.all([locker.connect(), redis.ping()]);
process.once('message', () => {
  void Promise.all(Array.from({ length: workers }, work)).then(async () => {
    await locker.close();
    redis.disconnect();
    process.send?.({ errors } satisfies TransfersDone);
    process.disconnect();
  });
});
process.send?.('ready');
