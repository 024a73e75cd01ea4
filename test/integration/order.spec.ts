/**
 * P7 order and P3 fencing over many grants: first come, first served among processes, and tokens that strictly increase.
 *
 * Model: some processes with one locker each and several callers a key take turns on a few keys. In the guarded section
 * each logs to Redis, over a plain connection, that it enters (key, process, fencing token) and that it leaves. A MONITOR
 * connection sees these entries and every change of the queues in the one order in which the server made them.
 *
 * What waits in order is a process's *stand*: its entry in the sorted set `<prefix>:{key}:q`, the sequence its score. (A
 * process's own callers wait in its memory, in order, behind its one stand.) A process's turn is decided
 * - when its stand leaves the queue after the last holder left: the key is reserved for it, or granted;
 * - when the last holder leaves, where it had no stand: it found the key free, or was handed it within its process.
 * A grant is a FIFO **inversion** if a stand waits that was already there when the turn was decided, has been there ever
 * since, and was ahead: a smaller sequence than the granted stand's or, for a process without a stand, any of another
 * process. Who joins the queue while the key is on its way comes later by right; who was dropped from it (dead, or not
 * claiming in time) and came back isn't ahead of what was decided meanwhile. Local hand-over is no inversion as long as a
 * process serves no more than `longestRun` of its own callers in a row while others wait.
 *
 * One whose turn had come while another got the key was *passed over*: among live processes that is for those alone that
 * stood still for long enough to miss their claim window.
 *
 *     ORDER_GRANTS=100000 npm test -- test/integration/order.spec.ts
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import type { LockerOptions } from '../../lib/core/options.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import { type OrderEvent, OrderJudge } from './support/order-judge.js';
import type { LogEntry, OrderTakerDone, OrderTakerOptions } from './support/order-taker.js';
import { QueueMonitor } from './support/queue-monitor.js';

/** How many callers each has on each key. Those with one, which pauses, come anew at any moment. */
const PROCESSES = [
  { name: 'a', callers: 4, pauses: 0 },
  { name: 'b', callers: 4, pauses: 0 },
  { name: 'c', callers: 1, pauses: 0.5 },
  { name: 'd', callers: 1, pauses: 0.5 },
];
const KEYS = ['k0', 'k1', 'k2'];
const GRANTS = Number(process.env['ORDER_GRANTS'] ?? 10_000);
/** Of each process on each key; its callers share them. */
const TURNS = 4 * Math.ceil(GRANTS / (PROCESSES.length * KEYS.length * 4));
/** At least so many grants a second are expected of the slowest machine. */
const SLOWEST = 100;
const END = '"end"';

const WAYS: readonly {
  title: string;
  options: Partial<LockerOptions>;
  longestRun: number;
}[] = [
  // Those that it passes on to while it knows that somebody waits, and those before the message has reached it.
  { title: 'passing leases on', options: { localHandover: true }, longestRun: 1 + 16 + 16 },
  { title: 'without local hand-over', options: { localHandover: false }, longestRun: 1 },
];

describe.each(WAYS)(
  `${PROCESSES.length} processes on ${KEYS.length} keys, ${GRANTS} grants, $title`,
  ({ options, longestRun }) => {
    let server: RedisServer;
    let observer: Redis;
    let judge: OrderJudge;
    let done: OrderTakerDone[];
    let log: LogEntry[];

    beforeAll(
      async () => {
        server = await RedisServer.start();
        observer = new Redis(server.url);
        judge = new OrderJudge(longestRun);
        const takers = PROCESSES.map((each) => startTaker(each));
        let monitor: QueueMonitor | undefined;
        try {
          await Promise.all(
            takers.map((taker) => taker.next((message) => message === 'ready', 30_000)),
          );
          const names = await namesByAddress();
          monitor = await QueueMonitor.start({
            port: server.port,
            processAt: (address) => names.get(address),
            onEvent: (event) => judge.see(event),
          });
          const since = performance.now();
          for (const taker of takers) taker.send('go');
          done = await Promise.all(
            takers.map((taker) =>
              taker.next(
                (message): message is OrderTakerDone => message !== 'ready',
                (GRANTS / SLOWEST) * 1_000,
              ),
            ),
          );
          const took = performance.now() - since;
          const end = monitor.seen(END);
          await observer.rpush('log', END);
          await end;
          expect(monitor.error).toBeUndefined();
          report(took);
        } finally {
          monitor?.close();
          await Promise.all(takers.map((taker) => taker.kill()));
        }
        log = (await observer.lrange('log', 0, -2)).map((entry) => JSON.parse(entry) as LogEntry);
      },
      60_000 + (GRANTS / SLOWEST) * 1_000,
    );

    afterAll(async () => {
      observer?.disconnect();
      await server?.stop();
    });

    function startTaker({
      name,
      callers,
      pauses,
    }: (typeof PROCESSES)[number]): TestWorker<OrderTakerDone | 'ready', 'go'> {
      const taker: OrderTakerOptions = {
        port: server.port,
        process: name,
        keys: KEYS,
        callers,
        turns: TURNS / callers,
        pauses,
        locker: options,
      };
      return spawnWorker(new URL('./support/order-taker.ts', import.meta.url), {
        args: [JSON.stringify(taker)],
      });
    }

    async function namesByAddress(): Promise<Map<string, string>> {
      const clients = (await observer.client('LIST')) as string;
      return new Map(
        [...clients.matchAll(/ addr=(\S+) .* name=(\S+) /g)].map(([, address = '', name = '']) => [
          address,
          name,
        ]),
      );
    }

    function report(took: number): void {
      const { grants, grantsFromQueue, passedOver } = judge;
      process.stdout.write(
        `order: ${grants} grants in ${Math.round(took)} ms, ${grantsFromQueue} from the queue, ` +
          `${passedOver.length} passed over, stalls ${done.map(({ stalls }) => stalls).join(', ')}\n`,
      );
    }

    it('every caller takes all of its turns, one at a time', () => {
      expect(done.flatMap(({ errors }) => errors)).toEqual([]);
      const turns = PROCESSES.map(({ name }) =>
        KEYS.map((key) =>
          log.filter(([what, k, p]) => what === 'enter' && k === key && p === name),
        ),
      );
      expect(turns.map((keys) => keys.map(({ length }) => length))).toEqual(
        PROCESSES.map(() => KEYS.map(() => TURNS)),
      );
      expect(judge.overlaps).toEqual([]);
      // What was judged is what was logged.
      expect(judge.grants).toBe(log.length / 2);
    });

    it('fencing tokens strictly increase in the order of the grants', () => {
      expect(judge.fenceInversions).toEqual([]);
      for (const key of KEYS) {
        const fences = log.flatMap(([what, k, , fence]) =>
          what === 'enter' && k === key ? [fence] : [],
        );
        expect(fences).toEqual([...new Set(fences)].toSorted((a, b) => a - b));
      }
    });

    it('there are no FIFO inversions among processes', () => {
      expect(judge.inversions).toEqual([]);
      // They did wait for each other.
      expect(judge.grantsFromQueue).toBeGreaterThan(judge.grants / (2 * longestRun));
    });

    it('nobody who is alive and in time is passed over', () => {
      const stalls = done.reduce((sum, each) => sum + each.stalls, 0);
      // A process that stands still may miss one turn on each key.
      expect(judge.passedOver.slice(stalls * KEYS.length)).toEqual([]);
    });

    it('nobody is left in a queue', async () => {
      expect(judge.queued).toBe(0);
      expect(await observer.exists(KEYS.flatMap((k) => [`lock:{${k}}:q`, `lock:{${k}}:w`]))).toBe(
        0,
      );
    });
  },
);

describe('The judge', () => {
  const key = 'k';
  let fence = 0;
  const queued = (process: string, sequence: number): OrderEvent => ({
    what: 'queued',
    key,
    process,
    token: process,
    sequence,
  });
  const unqueued = (token: string): OrderEvent => ({ what: 'unqueued', key, token });
  const enter = (process: string, at?: number): OrderEvent => ({
    what: 'enter',
    key,
    process,
    fence: at ?? (fence += 1),
  });
  const leave = (process: string): OrderEvent => ({ what: 'leave', key, process, fence });

  /** `a` holds; `b` and `c` have queued, in this order. */
  const waiting = [enter('a'), queued('b', 1), queued('c', 2)];

  interface Row {
    readonly events: readonly OrderEvent[];
    readonly longestRun?: number;
    readonly finds?: 'overlaps' | 'fenceInversions' | 'inversions' | 'passedOver';
  }
  const rows: Record<string, Row> = {
    'the first in the queue is granted the key': {
      events: [...waiting, leave('a'), unqueued('b'), enter('b'), leave('b'), unqueued('c')],
    },
    'the second is': {
      events: [...waiting, leave('a'), unqueued('c'), enter('c')],
      finds: 'inversions',
    },
    'one is that never queued': {
      events: [...waiting, leave('a'), enter('d')],
      finds: 'inversions',
    },
    'the last holder is again, at once': {
      events: [...waiting, leave('a'), enter('a')],
      finds: 'inversions',
    },
    'the last holder serves two of its own': {
      events: [...waiting, leave('a'), enter('a')],
      longestRun: 2,
    },
    'the last holder serves three of its own where two are allowed': {
      events: [...waiting, leave('a'), enter('a'), leave('a'), enter('a')],
      longestRun: 2,
      finds: 'inversions',
    },
    'the last holder is again, and nobody waited when it left': {
      events: [enter('a'), leave('a'), queued('b', 1), enter('a')],
    },
    'the last holder is again, by its turn': {
      events: [enter('a'), queued('a', 1), queued('b', 2), leave('a'), unqueued('a'), enter('a')],
    },
    'the second is, and one that was dropped comes back to its place ahead of it meanwhile': {
      events: [enter('a'), queued('c', 2), leave('a'), unqueued('c'), queued('b', 1), enter('c')],
    },
    'one is after its turn had come to another': {
      events: [...waiting, leave('a'), unqueued('b'), unqueued('c'), enter('c')],
      finds: 'passedOver',
    },
    'one gives up its place while the key is held': {
      events: [...waiting, unqueued('b'), leave('a'), unqueued('c'), enter('c')],
    },
    'two are': { events: [enter('a'), enter('b')], finds: 'overlaps' },
    'one is with an old fencing token': {
      events: [enter('a', 1e9), leave('a'), enter('b', 1e9)],
      finds: 'fenceInversions',
    },
  };

  it.each(Object.entries(rows))('%s', (_title, { events, longestRun = 1, finds }) => {
    const judge = new OrderJudge(longestRun);
    for (const event of events) judge.see(event);
    const { overlaps, fenceInversions, inversions, passedOver } = judge;
    const found = { overlaps, fenceInversions, inversions, passedOver };
    for (const [what, instances] of Object.entries(found)) {
      expect([what, instances.length]).toEqual([what, what === finds ? 1 : 0]);
    }
  });
});
