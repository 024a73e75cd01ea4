/**
 * P1 exclusion, P3 fencing, P5 nothing left behind, and that everybody gets a turn, where it's hardest: many processes,
 * many workers in each, one key, a short ttl.
 *
 * Model: 4 processes of 25 workers each share a budget of 2,000 turns, counted in Redis. A turn is: take the lock, add 1
 * to the count of holders over a plain connection of one's own, write down process and fencing token, pause for a
 * random moment, subtract 1, release. So what excludes (the lock) and what observes (the counter, the log) share
 * nothing but the server, which puts all observations in one order.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { eventually } from '../support/eventually.js';
import { keysInUse } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker } from '../support/worker.js';
import type { TakerDone, TakerOptions } from './support/turn-taker.js';

const PROCESSES = 4;
const WORKERS = 25;
const TURNS = 2_000;
const TTL = 1_000;
/** After its last grant or renewal, a key's fencing token is remembered for its ttl and 10 s more. */
const FENCE_LIFE = TTL + 10_000;

interface Turn {
  readonly turn: number;
  readonly process: number;
  readonly fence: number;
}

describe(`${PROCESSES} processes x ${WORKERS} workers take ${TURNS} turns on one key with a ttl of 1 s`, () => {
  let server: RedisServer;
  let observer: Redis;
  let done: TakerDone[];
  let log: Turn[];

  beforeAll(async () => {
    server = await RedisServer.start();
    observer = new Redis(server.url);
    const takers = Array.from({ length: PROCESSES }, (_, process) => {
      const options: TakerOptions = {
        url: server.url,
        process,
        workers: WORKERS,
        turns: TURNS,
        ttl: TTL,
      };
      return spawnWorker<TakerDone | 'ready', 'go'>(
        new URL('./support/turn-taker.ts', import.meta.url),
        { args: [JSON.stringify(options)] },
      );
    });
    try {
      await Promise.all(
        takers.map((taker) => taker.next((message) => message === 'ready', 30_000)),
      );
      for (const taker of takers) taker.send('go');
      done = await Promise.all(
        takers.map((taker) =>
          taker.next((message): message is TakerDone => message !== 'ready', 60_000),
        ),
      );
      const exits = await Promise.all(takers.map(({ exited }) => exited));
      expect(exits).toEqual(takers.map(() => ({ code: 0, signal: null })));
    } finally {
      for (const taker of takers) await taker.kill();
    }
    log = (await observer.lrange('log', 0, -1)).map((entry) => JSON.parse(entry) as Turn);
  }, 120_000);

  afterAll(async () => {
    observer?.disconnect();
    await server?.stop();
  });

  it('there is never more than one holder', () => {
    expect(done.map(({ mostHolders }) => mostHolders)).toEqual(done.map(() => 1));
  });

  it('every turn is served, and no call fails', () => {
    expect(done.flatMap(({ errors }) => errors)).toEqual([]);
    expect(log.map(({ turn }) => turn)).toEqual(Array.from({ length: TURNS }, (_, i) => i + 1));
  });

  it('fencing tokens strictly increase in the order of the grants', () => {
    const inversions = log.filter(({ fence }, i) => i > 0 && fence <= (log[i - 1] as Turn).fence);
    expect(inversions).toEqual([]);
  });

  it('every process gets its share of the turns while all of them wait', () => {
    const turns = done.map((_, process) => log.filter((turn) => turn.process === process).length);
    // Jain's index: 1 is perfectly even, 1/n is one for all.
    const index = TURNS ** 2 / (PROCESSES * turns.reduce((sum, n) => sum + n ** 2, 0));
    process.stdout.write(
      `fairness: turns by process ${turns.join(', ')}; Jain's index ${index.toFixed(3)}; ` +
        `longest wait by process ${done.map(({ longestWait }) => `${Math.round(longestWait)} ms`).join(', ')}\n`,
    );
    // Order is kept between processes, and each stands in the queue once, so that they alternate.
    expect(index).toBeGreaterThan(0.95);
  });

  it('nothing remains in Redis, once the last fencing token is forgotten', async () => {
    await observer.del('log', 'turns', 'holders');
    // At once: no owner, no queue, no waiter, no subscription. Only the fencing token lives on, for a while.
    expect(await keysInUse(observer)).toEqual([]);
    expect(await observer.keys('*')).toEqual(['lock:{turns}']);
    expect(await observer.pubsub('CHANNELS', '*')).toEqual([]);
    await eventually(async () => (await observer.dbsize()) === 0, {
      timeout: FENCE_LIFE + 1_000,
      interval: 100,
      message: 'DBSIZE 0',
    });
  });
});
