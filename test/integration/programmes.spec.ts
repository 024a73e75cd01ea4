/**
 * Random programmes: 3 processes x 6 callers over 5 keys take locks of every kind (exclusive, shared, limited, several at
 * once, downgraded, entered again, tried, given up by signal or timeout, kept for a while), and a process is killed now and
 * then and replaced. Afterwards what the holders believed is put side by side:
 *
 * I1 no two that exclude each other overlap, up to the moment at which each learns that it's over (I9); I8 never more than the
 * limit; I2 fencing tokens rise from holder to holder, so that a resource that is written to inside is never asked to take a lower
 * one (I3); I4 nobody's lock is taken by another's release, renewal or clean-up; I7 every call ends within its bound; I5, I10
 * nothing is left at Redis. (I6, the order, needs to see the queue: `order.spec.ts`, `order-access.spec.ts`.)
 *
 * A programme depends on its seed alone (`PROGRAMMES_SEED`), which is printed; how the processes come between each other
 * doesn't. `PROGRAMMES_SECONDS` makes it longer.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { eventually } from '../support/eventually.js';
import { keysInUse } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import type { ProgrammeEntry, ProgrammeOptions } from './support/programme-taker.js';

const SECONDS = Number(process.env['PROGRAMMES_SECONDS'] ?? 12);
const SEED = Number(process.env['PROGRAMMES_SEED'] ?? Math.floor(Math.random() * 1e6));
const PROCESSES = 3;
const KEYS = ['limited', 'a', 'b', 'c', 'd'];
const LIMIT = 2;
const TTL = 400;
/** A call may be late by this much on a machine that does other things too, in ms. */
const LATE = 250;

interface Hold {
  readonly id: string;
  readonly key: string;
  readonly access: string;
  readonly fence: number;
  readonly from: number;
  readonly to: number;
}

describe(`programmes of seed ${SEED}: ${PROCESSES} processes over ${KEYS.length} keys for ${SECONDS} s`, () => {
  let server: RedisServer;
  let redis: Redis;
  let folder: string;
  const workers: TestWorker<'ready' | 'done', 'stop'>[] = [];
  let holds: Hold[];
  let calls: (ProgrammeEntry & { what: 'call' })[];
  let losses: (ProgrammeEntry & { what: 'lost' })[];
  let kills = 0;

  async function start(): Promise<void> {
    const number = workers.length;
    const options: ProgrammeOptions = {
      ...{ url: server.url, keys: KEYS, limit: LIMIT, ttl: TTL, callers: 6 },
      seed: SEED * 100 + number,
      file: join(folder, `${number}.jsonl`),
    };
    const worker = spawnWorker<'ready' | 'done', 'stop'>(
      new URL('./support/programme-taker.ts', import.meta.url),
      { args: [JSON.stringify(options)] },
    );
    workers.push(worker);
    await worker.next((message) => message === 'ready', 20_000);
  }

  beforeAll(
    async () => {
      folder = mkdtempSync(join(tmpdir(), 'programmes-'));
      server = await RedisServer.start();
      redis = new Redis(server.url);
      await Promise.all(Array.from({ length: PROCESSES }, start));
      const running = [...workers];
      const end = performance.now() + SECONDS * 1_000;
      while (performance.now() < end) {
        await new Promise((resolve) => setTimeout(resolve, 1_500 + Math.random() * 1_500));
        const victim = running.shift() as TestWorker<'ready' | 'done', 'stop'>;
        await victim.kill();
        kills += 1;
        await start();
        running.push(workers.at(-1) as TestWorker<'ready' | 'done', 'stop'>);
      }
      for (const worker of running) worker.send('stop');
      await Promise.all(
        running.map((worker) => worker.next((message) => message === 'done', 20_000)),
      );

      const entries = readdirSync(folder).flatMap((file) =>
        readFileSync(join(folder, file), 'utf8')
          .split('\n')
          // The last may have been cut off by a kill.
          .filter((line) => line.endsWith('}'))
          .map((line) => JSON.parse(line) as ProgrammeEntry),
      );
      const ends = new Map(
        entries.flatMap((one) => (one.what === 'ended' ? [[one.id, one.at]] : [])),
      );
      holds = entries
        .flatMap((one) =>
          // Of one that was killed while it held, only the beginning is sure.
          one.what === 'held' ? [{ ...one, from: one.at, to: ends.get(one.id) ?? one.at }] : [],
        )
        .toSorted((a, b) => a.from - b.from);
      calls = entries.filter((one) => one.what === 'call');
      losses = entries.filter((one) => one.what === 'lost');
      const outcomes = new Map<string, number>();
      for (const { outcome } of calls) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      process.stdout.write(
        `programmes: seed ${SEED}, ${holds.length} holds, ${kills} kills, ${JSON.stringify(Object.fromEntries(outcomes))}\n`,
      );
    },
    SECONDS * 1_000 + 60_000,
  );

  afterAll(async () => {
    await Promise.all(workers.map((worker) => worker.kill()));
    redis?.disconnect();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  function* pairsOf(key: string): Generator<[Hold, Hold]> {
    const ofKey = holds.filter((one) => one.key === key);
    for (const [i, one] of ofKey.entries()) {
      // The longest hold is bounded, so that those much later needn't be looked at.
      for (const other of ofKey.slice(i + 1, i + 200)) yield [one, other];
    }
  }

  it('I1: no two overlap that exclude each other', () => {
    const wrong = KEYS.flatMap((key) =>
      [...pairsOf(key)].filter(
        ([one, other]) =>
          other.from <= one.to && (one.access !== other.access || one.access === 'exclusive'),
      ),
    );
    expect(wrong).toEqual([]);
  });

  it('I8: never more than the limit, and as many at times', () => {
    const limited = holds.filter(({ access }) => access === `limit:${LIMIT}`);
    const inside = limited.map(
      (one) => limited.filter((other) => other.from <= one.from && other.to >= one.from).length,
    );
    expect(Math.max(...inside)).toBe(LIMIT);
  });

  it('I2: fencing tokens rise from holder to holder, and each has its own', () => {
    const wrong = KEYS.flatMap((key) =>
      [...pairsOf(key)].filter(([one, other]) => {
        const together = one.access === other.access && one.access !== 'exclusive';
        // Those who may be inside together have no order that could be seen from outside.
        if (together) return one.fence === other.fence;
        // A downgrade goes on under the same.
        const downgraded = one.access === 'exclusive' && other.access === 'shared';
        return downgraded ? other.fence < one.fence : other.fence <= one.fence;
      }),
    );
    expect(wrong).toEqual([]);
  });

  it('I4: nobody finds that its lock was taken', () => {
    // By its own deadline, where the machine stood still.
    expect(losses.filter(({ reason }) => reason !== 'expired')).toEqual([]);
  });

  it('I7: every call ends within its bound', () => {
    const late = calls.filter(({ took, bound, stalled }) => !stalled && took > bound + LATE);
    expect(late).toEqual([]);
  });

  it('everything that was meant to happen has happened', () => {
    const outcomes = new Set(calls.map(({ outcome }) => outcome));
    for (const outcome of ['granted', 'busy', 'LOCK_TIMEOUT', 'AbortError']) {
      expect(outcomes).toContain(outcome);
    }
    const kinds = new Set(holds.map(({ access }) => access));
    expect([...kinds].toSorted()).toEqual(['exclusive', 'limit:2', 'shared']);
    expect(outcomes).not.toContain('LOCK_CONFIG');
    expect(outcomes).not.toContain('LOCK_DEADLOCK');
    expect(kills).toBeGreaterThan(2);
  });

  it('I5, I10: nothing is left at Redis', async () => {
    await eventually(async () => (await keysInUse(redis)).length === 0, {
      message: 'no key is in use',
    });
    await eventually(async () => ((await redis.pubsub('CHANNELS', '*')) as string[]).length === 0);
  });
});
