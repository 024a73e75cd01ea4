/**
 * P7 order where a key is shared: readers and writers, and holders under a limit, first come, first served among
 * processes; and so no stream of the ones starves the others.
 *
 * Model: some processes with one locker each and several callers a key, of which some read and some write, take turns
 * on a few keys without a pause. A MONITOR connection sees every change of the queues, and everybody who is let in (granted
 * the key, or has it reserved), in the one order in which the server did it.
 *
 * An admission is a FIFO **inversion** if somebody stands in the key's queue who came before: with a smaller sequence than the
 * one who is let in stood there with, or says that it waits since; and with any, where that one never stood there. It's one
 * too where the two could be inside together and the one ahead could not enter yet: a reader must not pass a writer that
 * waits. All are alive, so there are none.
 *
 * What follows from that, and is measured too: while one stands in the queue, no more are let in than were ahead of it, which
 * are no more than there are callers. For a writer among readers, that's the bound of its waiting.
 *
 *     ORDER_GRANTS=100000 npm test -- test/integration/order-access.spec.ts
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import type { AcquireOptions } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker } from '../support/worker.js';
import { type AdmissionEvent, AdmissionJudge } from './support/admission-judge.js';
import { AdmissionMonitor } from './support/admission-monitor.js';
import type { OrderTakerDone, OrderTakerOptions } from './support/order-taker.js';
import { RedisMonitor } from './support/redis-monitor.js';

const PROCESSES = ['a', 'b', 'c', 'd'];
const KEYS = ['k0', 'k1'];
const GRANTS = Number(process.env['ORDER_GRANTS'] ?? 2_000);
/** At least so many grants a second are expected of the slowest machine. */
const SLOWEST = 50;

const READ: AcquireOptions = { mode: 'shared' };
const WRITE: AcquireOptions = { mode: 'exclusive' };
const LIMITED: AcquireOptions = { limit: 3 };

interface Way {
  readonly title: string;
  /** Of the callers of a process on each key. */
  readonly takes: readonly AcquireOptions[];
  readonly options?: Partial<LockerOptions>;
  /** How many are inside together at times, at least; where readers are few, they seldom meet. */
  readonly together: number;
}

const WAYS: readonly Way[] = [
  {
    title: 'a stream of readers, few writers',
    takes: [READ, READ, READ, READ, WRITE],
    together: 4,
  },
  { title: 'a stream of writers, few readers', takes: [WRITE, WRITE, WRITE, READ], together: 1 },
  {
    title: 'as many readers as writers, none passed on within a process',
    takes: [READ, WRITE, READ, WRITE],
    options: { localHandover: false },
    together: 2,
  },
  { title: 'holders under a limit', takes: [LIMITED, LIMITED, LIMITED], together: 3 },
];

describe.each(WAYS)(
  `${PROCESSES.length} processes on ${KEYS.length} keys, ${GRANTS} grants, $title`,
  ({ takes, options = {}, together }) => {
    const judge = new AdmissionJudge();
    const turns = Math.ceil(GRANTS / (PROCESSES.length * KEYS.length * takes.length));
    let server: RedisServer;
    let done: OrderTakerDone[];

    beforeAll(
      async () => {
        server = await RedisServer.start();
        const takers = PROCESSES.map((name) => {
          const given: OrderTakerOptions = {
            port: server.port,
            process: name,
            keys: KEYS,
            callers: takes.length,
            turns,
            pauses: 0.2,
            locker: options,
            takes,
          };
          return spawnWorker<OrderTakerDone | 'ready', 'go'>(
            new URL('./support/order-taker.ts', import.meta.url),
            { args: [JSON.stringify(given)] },
          );
        });
        let monitor: RedisMonitor | undefined;
        const redis = new Redis(server.url);
        try {
          await Promise.all(
            takers.map((taker) => taker.next((message) => message === 'ready', 30_000)),
          );
          const seen = new AdmissionMonitor((event) => judge.see(event));
          let ended = false;
          monitor = await RedisMonitor.start(server.port, (command) => {
            if (command.text.includes('"the end"')) ended = true;
            seen.see(command);
          });
          for (const taker of takers) taker.send('go');
          done = await Promise.all(
            takers.map((taker) =>
              taker.next(
                (message): message is OrderTakerDone => message !== 'ready',
                (GRANTS / SLOWEST) * 1_000,
              ),
            ),
          );
          await redis.echo('the end');
          await eventually(() => ended);
          expect(monitor.error).toBeUndefined();
          const waits = [...judge.longestWait].map(([access, most]) => `${access} ${most}`);
          process.stdout.write(
            `order: ${judge.admissions} let in, ${judge.admissionsFromQueue} from the queue, ` +
              `${judge.mostInside} together at most; let in while one waited: ${waits.join(', ')}\n`,
          );
        } finally {
          monitor?.close();
          redis.disconnect();
          await Promise.all(takers.map((taker) => taker.kill()));
        }
      },
      60_000 + (GRANTS / SLOWEST) * 1_000,
    );

    afterAll(async () => {
      await server?.stop();
    });

    it('every caller takes all of its turns', () => {
      expect(done.flatMap(({ errors }) => errors)).toEqual([]);
      expect(judge.overlaps).toEqual([]);
      // Else nothing has been judged.
      expect(judge.admissionsFromQueue).toBeGreaterThan(judge.admissions / 4);
      expect(judge.mostInside).toBeGreaterThanOrEqual(together);
    });

    it('there are no FIFO inversions', () => {
      expect(judge.inversions).toEqual([]);
    });

    it('nobody waits for more than were ahead of it', () => {
      const callers = PROCESSES.length * takes.length;
      for (const most of judge.longestWait.values()) expect(most).toBeLessThan(callers);
      expect(judge.longestWait.size).toBe(new Set(takes).size);
    });

    it('nobody is left in a queue', () => {
      expect(judge.queued).toBe(0);
    });
  },
);

describe('The judge of admissions', () => {
  const key = 'k';
  const waits = (token: string, sequence: number, access = 'shared'): AdmissionEvent => ({
    ...{ what: 'queued', key, token, sequence, access },
  });
  const goes = (token: string): AdmissionEvent => ({ what: 'unqueued', key, token });
  const enters = (token: string, access = 'shared', since?: number): AdmissionEvent => ({
    ...{ what: 'admitted', key, token, access, since },
  });
  const leaves = (token: string): AdmissionEvent => ({ what: 'left', key, token });

  interface Row {
    readonly events: readonly AdmissionEvent[];
    readonly finds?: 'overlaps' | 'inversions';
  }
  /** `a` reads; a writer and a reader wait, in this order. */
  const waiting = [enters('a'), waits('w', 1, 'exclusive'), waits('r', 2)];
  const rows: Record<string, Row> = {
    'all in turn': {
      events: [
        ...[...waiting, leaves('a'), goes('w'), enters('w', 'exclusive'), leaves('w')],
        ...[goes('r'), enters('r')],
      ],
    },
    'a reader before a writer that waits, beside a reader': {
      events: [...waiting, goes('r'), enters('r')],
      finds: 'inversions',
    },
    'one that has never waited before those who do': {
      events: [...waiting, leaves('a'), enters('x')],
      finds: 'inversions',
    },
    'one that waits since before, though not in the queue': {
      events: [...waiting, enters('x', 'shared', 0)],
    },
    'one that waits since later': {
      events: [...waiting, enters('x', 'shared', 1.5)],
      finds: 'inversions',
    },
    'who claims what was reserved for it, is inside already': {
      events: [enters('a'), waits('b', 1, 'exclusive'), enters('a')],
    },
    'a writer beside a reader': {
      events: [enters('a'), enters('w', 'exclusive')],
      finds: 'overlaps',
    },
    'more than the limit': {
      events: [enters('a', 'limit:2'), enters('b', 'limit:2'), enters('c', 'limit:2')],
      finds: 'overlaps',
    },
    'a reader while the writer before it is about to be written out': {
      events: [enters('w', 'exclusive'), enters('a'), leaves('w')],
    },
    'one who gave up is not passed': { events: [...waiting, goes('w'), goes('r'), enters('r')] },
  };

  it.each(Object.entries(rows))('%s', (_title, { events, finds }) => {
    const judge = new AdmissionJudge();
    for (const event of events) judge.see(event);
    judge.see({ what: 'written', key });
    const { overlaps, inversions } = judge;
    expect([overlaps.length, inversions.length]).toEqual([
      finds === 'overlaps' ? 1 : 0,
      finds === 'inversions' ? 1 : 0,
    ]);
  });
});
