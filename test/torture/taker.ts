/**
 * A process of the torture: callers that take one of a few keys, work under the lock, write to the resource, and give the
 * lock back, over and over. It writes down when each of them believed that it held its key (see journal.ts).
 *
 * A caller asks before each step whether it still holds the lock, as a careful user does, but a moment passes between the
 * question and its write. That's what fencing tokens are for.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../bench/machine-clock.js';
import { seededRandom } from '../support/seeded-random.js';
import { type Entry, Journal } from './journal.js';
import { Writer } from './resource.js';
import { subjectOf } from './subjects/catalogue.js';
import type { SubjectLock, SubjectOptions } from './subjects/subject.js';

export interface TakerOptions extends SubjectOptions {
  readonly subject: string;
  /** Unique among the processes of a run. */
  readonly name: string;
  readonly folder: string;
  readonly resource: number;
  readonly seed: number;
  readonly callers: number;
  readonly keys: readonly string[];
  /** How long a holder works at most, in ms. */
  readonly work: number;
}

/** `block`: keep the event loop busy for so long, in ms. */
export type ToTaker = { readonly block: number } | 'stop';
export type FromTaker = 'ready' | 'done';

const options = JSON.parse(process.argv[2] as string) as TakerOptions;
const { name, folder, callers, keys, work } = options;

const STILL_EVERY = 10;
/** How long most hold a key at most, and how often one holds it for up to `work`, of 1. */
const SHORT_WORK = 20;
const LONG_PART = 0.08;
/** The pauses between two writes: at first, and of those who hold it for longer. */
const WRITE_EVERY = 2;
const WRITE_EVERY_LATER = 8;
const STALL = 50;
const TICK = 5;

const journal = new Journal(`${folder}/${name}.jsonl`);
const writer = new Writer(options.resource);
const end = new AbortController();
let holds = 0;
let asks = 0;

// How far the event loop is behind: stopped by a signal, blocked, or starved of processor time.
let lastTick = machineNow();
let lastStall = 0;
let lags: { at: number; by: number }[] = [];
setInterval(() => {
  const at = machineNow();
  const by = at - lastTick - TICK;
  if (by > STALL) lastStall = at;
  lags = lags.filter((lag) => at - lag.at < 2 * STALL);
  if (by > 1) lags.push({ at, by });
  lastTick = at;
}, TICK).unref();

function lateness(): number {
  return Math.max(0, machineNow() - lastTick - TICK, ...lags.map(({ by }) => by));
}

function stalledSince(at: number): boolean {
  return lastStall >= at || machineNow() - lastTick > STALL;
}

function note(call: 'acquire' | 'release', outcome: string, since: number, ask?: string): void {
  const took = machineNow() - since;
  const stalled = stalledSince(since);
  journal.write({ what: 'call', call, ask, outcome, at: since, took, stalled });
}

function unhandled(error: unknown): void {
  journal.write({ what: 'unhandled', error: client.outcomeOf(error), at: machineNow() });
}

/** Works under the lock for so long, or until it's lost. */
async function hold(key: string, lock: SubjectLock, ask: string, length: number): Promise<void> {
  holds += 1;
  const id = `${name}.${holds}`;
  const fence = lock.fencingToken;
  let done = false;
  lock.onLost((reason) => {
    if (done) return;
    journal.write({ what: 'told', id, at: machineNow(), reason, late: lateness() });
  });
  const begunAt = machineNow();
  const until = begunAt + length;
  let last: number | undefined;
  let written = 0;
  for (;;) {
    // Read before the question: if the answer is yes, it was so at that time, however long the process stood still.
    const at = machineNow();
    if (!lock.isHeld) break;
    if (last === undefined) {
      journal.write({ what: 'held', id, ask, key, fence, at } satisfies Entry);
      written = at;
    } else if (at - written >= STILL_EVERY) {
      journal.write({ what: 'still', id, at });
      written = at;
    }
    last = at;
    done = at >= until;
    if (done) break;
    await pause(at - begunAt < SHORT_WORK ? WRITE_EVERY : WRITE_EVERY_LATER);
    // Those who share a key write each to a place of its own: one's writes make nobody else's stale.
    await writer.write({ key: options.limit === undefined ? key : id, id, fence });
  }
  if (last !== undefined) journal.write({ what: 'ended', id, at: last });
}

async function takeTurn(random: () => number): Promise<void> {
  const key = keys[Math.floor(random() * keys.length)] as string;
  // Mostly a moment, so that much is granted; now and then beyond its ttl, so that much is held when something fails.
  const length = random() < LONG_PART ? random() * work : random() * SHORT_WORK;
  asks += 1;
  const ask = `${name}?${asks}`;
  const since = machineNow();
  journal.write({ what: 'asked', ask, key, at: since });
  let lock: SubjectLock | undefined;
  try {
    lock = await client.acquire(key);
  } catch (error) {
    note('acquire', client.outcomeOf(error), since, ask);
    await pause(10);
    return;
  }
  note('acquire', lock === undefined ? 'busy' : 'granted', since, ask);
  if (lock === undefined) return;
  await hold(key, lock, ask, length);
  const releasedAt = machineNow();
  try {
    note('release', await lock.release(), releasedAt);
  } catch (error) {
    note('release', client.outcomeOf(error), releasedAt);
  }
}

async function takeTurns(caller: number): Promise<void> {
  const random = seededRandom(options.seed * 100 + caller);
  while (!end.signal.aborted) await takeTurn(random);
}

function block(length: number): void {
  const until = machineNow() + length;
  while (machineNow() < until);
}

// What would end a process that doesn't listen is counted here instead, or there would be nothing left to look at.
process.on('unhandledRejection', unhandled);
process.on('uncaughtException', unhandled);
const client = await subjectOf(options.subject).open(options);
const all = Promise.all(Array.from({ length: callers }, (_, caller) => takeTurns(caller)));
process.on('message', (message: ToTaker) => {
  if (message !== 'stop') return block(message.block);
  end.abort();
  void all.then(async () => {
    await client.close();
    writer.close();
    process.send?.('done' satisfies FromTaker);
    process.disconnect();
  });
});
process.send?.('ready' satisfies FromTaker);
