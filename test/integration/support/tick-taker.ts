/** A process of `run-once.spec.ts`: a replica whose scheduler fires when it's told, and whose wall clock is off. */
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { Locker } from '../../../lib/core/locker.js';
import type { RunOnceOptions } from '../../../lib/core/run-options.js';

export interface TickTakerOptions {
  readonly url: string;
  readonly replica: string;
  readonly job: string;
  /** By how much its wall clock is off, in ms. */
  readonly skew: number;
  /** Whoever runs this tick first is killed in the middle of it. */
  readonly killAt: number;
  readonly options: RunOnceOptions;
}

/** The scheduler fires. */
export interface Tick {
  /** The scheduled instant, in true time. */
  readonly at: number;
}

export type FromTickTaker =
  | { readonly type: 'ready' }
  /** `outcome`: 'ran', why it was skipped, or an error. */
  | { readonly type: 'outcome'; readonly at: number; readonly outcome: string };

/** One line of the log: a run that has begun. */
export interface LoggedRun {
  readonly at: number;
  readonly attempt: number;
  readonly replica: string;
}

const given = JSON.parse(process.argv[2] as string) as TickTakerOptions;
// Of the instant and not of the moment: how long the machine takes to wake a process up is no matter of clocks.
let due = 0;
const locker = new Locker(
  { connection: given.url, application: given.replica },
  { wallClock: () => due + given.skew },
);
const redis = new Redis(given.url);

async function take(at: number): Promise<string> {
  due = at;
  const outcome = await locker.runOnce(given.job, given.options, async (_lock, { attempt }) => {
    const run: LoggedRun = { at, attempt, replica: given.replica };
    await redis.rpush(`log:${given.job}`, JSON.stringify(run));
    if (at === given.killAt && attempt === 1) process.kill(process.pid, 'SIGKILL');
    await pause(5);
  });
  return outcome.kind === 'ran' ? 'ran' : outcome.reason;
}

function send(message: FromTickTaker): void {
  process.send?.(message);
}

await Promise.all([locker.connect(), redis.ping()]);
process.on('message', ({ at }: Tick) => {
  void take(at)
    .catch((error: unknown) => String(error))
    .then((outcome) => send({ type: 'outcome', at, outcome }));
});
process.once('disconnect', () => {
  void locker.close().then(() => redis.disconnect());
});
send({ type: 'ready' });
