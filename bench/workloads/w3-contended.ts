import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';

import type { LockClient } from '../adapters/adapter.js';
import { CriticalSection } from '../critical-section.js';
import type { Reading } from '../meter.js';
import { median } from '../statistics.js';
import type { Bench, Case, Measured, Workload } from './workload.js';

const WAITERS = 100;
const KEY = 'key';
const WARM_UP = { quick: 100, full: 500 } as const;
const DURATION = { quick: 500, full: 4_000 } as const;
const BURSTS = { quick: 2, full: 20 } as const;

/** What is done under the lock; nothing to wait for where it's undefined. */
type Work = (() => Promise<unknown>) | undefined;

/** One of the callers that come back for the lock over and over. */
class Contender {
  turns = 0;
  longestWait = 0;
  readonly #client: LockClient;
  readonly #section: CriticalSection;
  readonly #work: Work;

  constructor(client: LockClient, section: CriticalSection, work: Work) {
    this.#client = client;
    this.#section = section;
    this.#work = work;
  }

  async run(end: number, onEnd: () => void): Promise<void> {
    for (;;) {
      const asked = performance.now();
      if (asked >= end) return onEnd();
      const held = await this.#client.acquire(KEY);
      const entered = performance.now();
      this.#section.enter(this.#client.fencingToken?.(held));
      if (this.#work !== undefined) await this.#work();
      this.#section.leave();
      if (entered < end) {
        this.turns += 1;
        this.longestWait = Math.max(this.longestWait, entered - asked);
      }
      await this.#client.release(held);
    }
  }
}

async function contend({ open, meter, scale }: Bench, work: Work): Promise<Measured> {
  const client = await open();
  const section = new CriticalSection();
  const all = (): Contender[] =>
    Array.from({ length: WAITERS }, () => new Contender(client, section, work));
  const run = async (
    contenders: Contender[],
    duration: number,
    onEnd: () => void,
  ): Promise<void> => {
    const end = performance.now() + duration;
    await Promise.all(contenders.map((contender) => contender.run(end, onEnd)));
  };
  await run(all(), WARM_UP[scale], () => {});
  const contenders = all();
  const phase = await meter.begin();
  // Read when the first has had its last turn: what follows is how a library runs dry.
  let reading: Promise<Reading> | undefined;
  await run(contenders, DURATION[scale], () => (reading ??= phase.end()));
  const spent = await (reading ?? phase.end());
  const turns = contenders.map((contender) => contender.turns);
  const total = turns.reduce((sum, own) => sum + own, 0);
  return {
    values: {
      turn: (spent.elapsed * 1_000) / total,
      commands: spent.commands / total,
      clientCpu: spent.clientCpu / total,
      serverCpu: spent.serverCpu / total,
      turnsMin: Math.min(...turns),
      turnsMax: Math.max(...turns),
      fairness: Math.max(...turns) / Math.min(...turns),
      longestWait: Math.max(...contenders.map(({ longestWait }) => longestWait)),
    },
    violations: section.violations,
    errors: 0,
  };
}

async function burst({ open, meter, scale }: Bench, work: Work): Promise<Measured> {
  const client = await open();
  const section = new CriticalSection();
  const totals: number[] = [];
  const longest: number[] = [];
  const arrive = async (): Promise<void> => {
    let longestWait = 0;
    const start = performance.now();
    await Promise.all(
      Array.from({ length: WAITERS }, async () => {
        const held = await client.acquire(KEY);
        longestWait = Math.max(longestWait, performance.now() - start);
        section.enter(client.fencingToken?.(held));
        if (work !== undefined) await work();
        section.leave();
        await client.release(held);
      }),
    );
    totals.push(performance.now() - start);
    longest.push(longestWait);
    // The next burst finds the library at rest.
    await pause(20);
  };
  await arrive();
  totals.length = longest.length = 0;
  const phase = await meter.begin();
  for (let i = 0; i < BURSTS[scale]; i += 1) await arrive();
  const spent = await phase.end();
  const served = BURSTS[scale] * WAITERS;
  return {
    values: {
      total: median(totals),
      longestWait: median(longest),
      commands: spent.commands / served,
      clientCpu: spent.clientCpu / served,
      serverCpu: spent.serverCpu / served,
    },
    violations: section.violations,
    errors: 0,
  };
}

const spending = [
  { id: 'commands', title: 'commands/turn', unit: '', digits: 3 },
  { id: 'clientCpu', title: 'client CPU/turn', unit: 'µs', digits: 1, ratioTo: ['polling'] },
  { id: 'serverCpu', title: 'server CPU/turn', unit: 'µs', digits: 1 },
] as const;

function sustained(id: string, about: string, work: Work): Case {
  return {
    id,
    about,
    needs: ['waiting'],
    measures: [
      {
        id: 'turn',
        title: 'time/turn',
        unit: 'µs',
        digits: 1,
        ratioTo: ['polling', 'async-mutex'],
      },
      ...spending,
      { id: 'turnsMin', title: 'turns min', unit: '', digits: 0 },
      { id: 'turnsMax', title: 'turns max', unit: '', digits: 0 },
      { id: 'fairness', title: 'max/min', unit: '', digits: 2 },
      { id: 'longestWait', title: 'longest wait', unit: 'ms', digits: 1 },
    ],
    run: (bench) => contend(bench, work),
  };
}

function arriving(id: string, about: string, work: Work): Case {
  return {
    id,
    about,
    needs: ['waiting'],
    measures: [
      { id: 'total', title: 'all served', unit: 'ms', digits: 2, ratioTo: ['async-mutex'] },
      { id: 'longestWait', title: 'longest wait', unit: 'ms', digits: 2 },
      ...spending,
    ],
    run: (bench) => burst(bench, work),
  };
}

/** A hot key inside one process. */
export const w3Contended: Workload = {
  id: 'W3',
  title: '100 waiters of one process on one key',
  about:
    'A hundred callers of one process come back for one key over and over; or arrive all at once, each for one turn.',
  cases: [
    sustained(
      'hold 0',
      'Nothing is done under the lock: the next turn may follow in the same microtask.',
      undefined,
    ),
    sustained(
      'hold 0, next turn',
      'Under the lock, one turn of the event loop passes (setImmediate): the least that any I/O takes.',
      () => nextTurn(),
    ),
    sustained('hold 1 ms', 'Under the lock, a timer of 1 ms passes.', () => pause(1)),
    arriving('burst', 'All arrive at once; nothing is done under the lock.', undefined),
    arriving(
      'burst, hold 1 ms',
      'All arrive at once; under the lock, a timer of 1 ms passes.',
      () => pause(1),
    ),
  ],
};
