/**
 * A process of `storm.spec.ts`: workers that take, hold and give back one lock, and write down when they believed that
 * they held it.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { LockError } from '../../../lib/core/errors.js';
import { Locker } from '../../../lib/core/locker.js';
import type { LockerOptions } from '../../../lib/core/options.js';

export interface StormOptions {
  readonly locker: LockerOptions;
  readonly workers: number;
  /** How long a holder works, in ms: up to so long. */
  readonly work: number;
}

/** A hold as its holder saw it, in monotonic ms: it surely believed to hold from `from` up to `to`. */
export interface Hold {
  readonly fence: number;
  readonly from: number;
  readonly to: number;
}

/** A call that ended, and how long it took; `stalled`: the process stood still for part of it. */
export interface StormCall {
  readonly what: 'acquire' | 'release';
  readonly outcome: string;
  readonly took: number;
  readonly stalled: boolean;
}

export interface StormDone {
  readonly holds: readonly Hold[];
  readonly calls: readonly StormCall[];
}

const STALL = 50;

const {
  locker: lockerOptions,
  workers,
  work,
} = JSON.parse(process.argv[2] as string) as StormOptions;
const locker = new Locker(lockerOptions);
const holds: Hold[] = [];
const calls: StormCall[] = [];
const end = new AbortController();

const now = (): number => Number(process.hrtime.bigint()) / 1e6;

// When the process stood still: stopped by a signal, or starved of processor time.
let lastTick = now();
let lastStall = 0;
setInterval(() => {
  const at = now();
  if (at - lastTick > STALL) lastStall = at;
  lastTick = at;
}, 10).unref();

function note(what: StormCall['what'], outcome: string, since: number): void {
  const at = now();
  const stalled = lastStall >= since || at - lastTick > STALL;
  calls.push({ what, outcome, took: at - since, stalled });
}

async function takeTurn(): Promise<void> {
  const since = now();
  let lock;
  try {
    lock = await locker.acquire('storm');
  } catch (error) {
    note('acquire', LockError.is(error) ? error.code : String(error), since);
    await pause(10);
    return;
  }
  note('acquire', 'granted', since);
  let from: number | undefined;
  let to = 0;
  // Mostly short, now and then longer than the ttl.
  const until = now() + Math.random() ** 4 * work;
  for (;;) {
    // Read before the question: if the answer is yes, it was so at that time, however long the process stood still.
    const at = now();
    if (!lock.isHeld) break;
    from ??= at;
    to = at;
    if (at >= until) break;
    await pause(2);
  }
  if (from !== undefined) holds.push({ fence: lock.fencingToken, from, to });
  const releasedAt = now();
  note('release', await lock.release(), releasedAt);
}

async function takeTurns(): Promise<void> {
  while (!end.signal.aborted) await takeTurn();
}

await locker.connect();
const all = Promise.all(Array.from({ length: workers }, takeTurns));
process.once('message', () => {
  end.abort();
  void all.then(async () => {
    await locker.close();
    process.send?.({ holds, calls } satisfies StormDone);
    process.disconnect();
  });
});
process.send?.('ready');
