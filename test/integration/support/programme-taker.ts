/**
 * A process of `programmes.spec.ts`: runs a random programme of locks of every kind, and writes down each hold, at once and
 * with one write, so that a kill loses no more than the end of the last.
 */
import { openSync, writeSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { LockError, type LostReason } from '../../../lib/core/errors.js';
import type { Lock } from '../../../lib/core/lock.js';
import { Locker } from '../../../lib/core/locker.js';
import { seededRandom } from '../../support/seeded-random.js';

export interface ProgrammeOptions {
  readonly url: string;
  readonly seed: number;
  readonly file: string;
  readonly keys: readonly string[];
  readonly limit: number;
  readonly ttl: number;
  readonly callers: number;
}

/** One line of the file. */
export type ProgrammeEntry =
  | {
      readonly what: 'held';
      readonly id: string;
      readonly key: string;
      readonly access: string;
      readonly fence: number;
      readonly at: number;
    }
  | { readonly what: 'ended'; readonly id: string; readonly at: number }
  | { readonly what: 'lost'; readonly key: string; readonly reason: LostReason }
  | {
      readonly what: 'call';
      readonly outcome: string;
      readonly took: number;
      readonly bound: number;
      readonly stalled: boolean;
    };

const { url, seed, file, keys, limit, ttl, callers } = JSON.parse(
  process.argv[2] as string,
) as ProgrammeOptions;
const out = openSync(file, 'a');
const locker = new Locker({ connection: url, ttl, commandTimeout: 1_000, drainTimeout: 1 });
const end = new AbortController();
let holds = 0;

const now = (): number => Number(process.hrtime.bigint()) / 1e6;

function write(entry: ProgrammeEntry): void {
  writeSync(out, `${JSON.stringify(entry)}\n`);
}

// When the process stood still: what a call took then says nothing.
let lastTick = now();
let lastStall = 0;
setInterval(() => {
  const at = now();
  if (at - lastTick > 50) lastStall = at;
  lastTick = at;
}, 10).unref();

/** Holds for a while; says of each key from when to when it surely believed that it held it, and how. */
async function hold(lock: Lock, length: number, downgradeAt: number): Promise<void> {
  const begun = new Map<string, string>();
  let last = now();
  const begin = () => {
    for (const key of lock.keys) {
      const at = now();
      if (!lock.isHeld) return;
      holds += 1;
      const id = `${process.pid}.${holds}`;
      begun.set(key, id);
      const fence = lock.fencingTokens.get(key) as number;
      write({ what: 'held', id, key, access: lock.access, fence, at });
      last = at;
    }
  };
  const finish = () => {
    for (const id of begun.values()) write({ what: 'ended', id, at: last });
    begun.clear();
  };
  begin();
  const until = now() + length;
  let downgraded = false;
  for (;;) {
    const at = now();
    if (!lock.isHeld) break;
    last = at;
    if (at >= until) break;
    if (!downgraded && at >= until - downgradeAt && lock.access === 'exclusive') {
      downgraded = true;
      finish();
      await lock.downgrade().catch(() => {});
      begin();
    }
    await pause(2);
  }
  finish();
}

async function step(random: () => number): Promise<void> {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  // The first keys are only held under the limit, so that no two callers give different ones.
  const limited = random() < 0.25;
  const several = !limited && random() < 0.3;
  const free = keys.slice(1);
  const wanted = limited
    ? (keys[0] as string)
    : several
      ? [pick(free), pick(free), pick(free)]
      : pick(free);
  const kind = limited ? { limit } : ({ mode: random() < 0.5 ? 'shared' : 'exclusive' } as const);
  const waitTimeout = pick([50, 500, 3_000]);
  const holdAtLeast = random() < 0.1 ? { holdAtLeast: 30 } : {};
  const length = random() ** 3 * 60;
  const downgradeAt = random() < 0.2 ? length / 2 : 0;
  const abortAfter = random() < 0.15 ? random() * 100 : undefined;
  const nested = random() < 0.2;
  const tries = random() < 0.15;
  const controller = new AbortController();
  const timer =
    abortAfter === undefined ? undefined : setTimeout(() => controller.abort(), abortAfter);
  const options = { ...kind, ...holdAtLeast, waitTimeout, signal: controller.signal };
  const since = now();
  const note = (outcome: string, bound: number) => {
    const stalled = lastStall >= since || now() - lastTick > 50;
    write({ what: 'call', outcome, took: now() - since, bound, stalled });
  };
  try {
    if (tries) {
      const { waitTimeout: _never, signal: _none, ...once } = options;
      const lock = await locker.tryAcquire(wanted, once);
      note(lock === null ? 'busy' : 'granted', 1_000);
      if (lock !== null) await hold(lock, length, downgradeAt);
      await lock?.release();
      return;
    }
    await locker.using(wanted, options, async (lock) => {
      note('granted', waitTimeout + 1_000);
      await hold(lock, length, nested ? 0 : downgradeAt);
      // Entered again: it must come at once, and what is below it counts as the outer's.
      if (nested && lock.isHeld) await locker.using(wanted, kind, () => pause(1));
    });
  } catch (error) {
    const known = LockError.is(error) ? error.code : (error as Error).name;
    if (known !== 'LOCK_LOST') note(known, waitTimeout + 1_000);
    else write({ what: 'call', outcome: known, took: 0, bound: 1, stalled: false });
  } finally {
    clearTimeout(timer);
  }
}

async function run(caller: number): Promise<void> {
  const random = seededRandom(seed * 1_000 + caller);
  while (!end.signal.aborted) {
    await step(random);
    if (random() < 0.5) await pause(random() * 10);
  }
}

locker.on('lost', ({ key, reason }) => write({ what: 'lost', key, reason }));
await locker.connect();
const all = Promise.all(Array.from({ length: callers }, (_, caller) => run(caller)));
process.once('message', () => {
  end.abort();
  void all.then(async () => {
    await locker.close();
    process.send?.('done');
    process.disconnect();
  });
});
process.send?.('ready');
