/**
 * `runOnce` on three replicas, in processes of their own, whose wall clocks are 300 ms off either way: thirty ticks of a
 * second, in the middle of one of which its runner is killed. Every tick is run once, and recorded.
 *
 * The schedulers fire together, when the last tick is over; between two ticks passes no more time than that takes. What
 * depends on real time is only how soon a crash is noticed.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { Locker } from '../../lib/core/locker.js';
import type { RunOnceOptions } from '../../lib/core/run-options.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import type { FromTickTaker, LoggedRun, Tick, TickTakerOptions } from './support/tick-taker.js';

const SKEWS = [300, 0, -300];
const TICKS = 30;
const PERIOD = 1_000;
const START = Date.UTC(2026, 0, 1);
const KILL_AT = START + 14 * PERIOD;

interface Replica {
  readonly name: string;
  readonly worker: TestWorker<FromTickTaker, Tick>;
  alive: boolean;
}

interface Course {
  /** Every run that began, in order. */
  readonly runs: readonly LoggedRun[];
  /** What each call gave, by replica. */
  readonly outcomes: readonly string[];
  /** `tick state attempt` of each record, the oldest first. */
  readonly records: readonly string[];
  /** How many replicas are left. */
  readonly left: number;
}

describe.each([{ retryCrashed: false }, { retryCrashed: true }])(
  'Three replicas with skewed clocks, %p,',
  ({ retryCrashed }) => {
    let server: RedisServer;
    let redis: Redis;
    let observer: Locker;
    const replicas: Replica[] = [];
    const job = 'every-second';
    let course: Course;

    beforeAll(async () => {
      server = await RedisServer.start();
      redis = new Redis(server.url);
      observer = new Locker({ connection: server.url });
      for (const skew of SKEWS) {
        const name = `replica ${skew} ms off`;
        const options: RunOnceOptions = { per: PERIOD, ttl: 600, retryCrashed, keep: 100 };
        const given: TickTakerOptions = {
          url: server.url,
          replica: name,
          job,
          skew,
          killAt: KILL_AT,
          options,
        };
        const worker = spawnWorker<FromTickTaker, Tick>(
          new URL('./support/tick-taker.ts', import.meta.url),
          { args: [JSON.stringify(given)] },
        );
        replicas.push({ name, worker, alive: true });
      }
      await Promise.all(
        replicas.map(({ worker }) => worker.next(({ type }) => type === 'ready', 30_000)),
      );
      course = await run();
    }, 60_000);

    afterAll(async () => {
      await Promise.all(replicas.map(({ worker }) => worker.kill()));
      await observer.close();
      redis.disconnect();
      await server.stop();
    });

    /** What a replica's call gives: an outcome, or its death. */
    async function fire(replica: Replica, at: number): Promise<string> {
      replica.worker.send({ at });
      try {
        const told = await replica.worker.next(
          (message) => message.type === 'outcome' && message.at === at,
          20_000,
        );
        return told.type === 'outcome' ? told.outcome : '';
      } catch (error) {
        if (!String(error).includes('SIGKILL')) throw error;
        replica.alive = false;
        return 'killed';
      }
    }

    async function run(): Promise<Course> {
      const outcomes: string[] = [];
      for (let tick = 0; tick < TICKS; tick += 1) {
        const at = START + tick * PERIOD;
        const alive = replicas.filter(({ alive: isAlive }) => isAlive);
        outcomes.push(...(await Promise.all(alive.map((replica) => fire(replica, at)))));
        // Else the next tick, which in truth would come later, would find it running still.
        await eventually(async () => (await observer.runs(job))[0]?.state !== 'running');
      }
      const log = await redis.lrange(`log:${job}`, 0, -1);
      const records = await observer.runs(job);
      return {
        runs: log.map((line) => JSON.parse(line) as LoggedRun),
        outcomes,
        records: records
          .map(({ tick, state, attempt }) => `${tick.getTime()} ${state} ${attempt}`)
          .toReversed(),
        left: replicas.filter(({ alive }) => alive).length,
      };
    }

    it('run every tick once, but for the one whose runner was killed', () => {
      const ran = course.runs.map(({ at, attempt }) => `${at} ${attempt}`);
      const all = Array.from({ length: TICKS }, (_, tick) => START + tick * PERIOD);
      expect(ran).toEqual(
        all.flatMap((at) =>
          at === KILL_AT && retryCrashed ? [`${at} 1`, `${at} 2`] : [`${at} 1`],
        ),
      );
      expect(ran).toHaveLength(retryCrashed ? 31 : 30);
      expect(course.left).toBe(2);
    });

    it('have each run recorded', () => {
      const all = Array.from({ length: TICKS }, (_, tick) => START + tick * PERIOD);
      expect(course.records).toEqual(
        all.flatMap((at) => {
          if (at !== KILL_AT) return [`${at} done 1`];
          return retryCrashed ? [`${at} crashed 1`, `${at} done 2`] : [`${at} crashed 1`];
        }),
      );
    });

    it('tell the others why they skip', () => {
      const count = (outcome: string) => course.outcomes.filter((each) => each === outcome).length;
      expect(count('killed')).toBe(1);
      expect(count('ran')).toBe(retryCrashed ? 30 : 29);
      const skipped = course.outcomes.filter((each) => each !== 'ran' && each !== 'killed');
      const reasons = new Set(skipped);
      for (const reason of reasons) expect(['claimed', 'done', 'crashed']).toContain(reason);
    });
  },
);
