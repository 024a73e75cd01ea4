/** A process of `order.spec.ts` and `order-access.spec.ts`: callers that take their turns on a few keys and write down when they enter and leave. */
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type AcquireOptions, Locker } from '../../../lib/core/locker.js';
import type { LockerOptions } from '../../../lib/core/options.js';

export interface OrderTakerOptions {
  readonly port: number;
  /** The name of this process, also of its locker's connections. */
  readonly process: string;
  readonly keys: readonly string[];
  /** How many callers a key. */
  readonly callers: number;
  /** How many turns each of them takes. */
  readonly turns: number;
  /** How often, of 1, a caller pauses for a moment before its next turn: then the process has no stand for a while. */
  readonly pauses: number;
  readonly locker: Partial<LockerOptions>;
  /** How each of the callers takes its keys, in turn. @default as the locker does */
  readonly takes?: readonly AcquireOptions[];
}

export interface OrderTakerDone {
  readonly errors: readonly string[];
  /** How often the process stood still for so long that it may have missed its claim window. */
  readonly stalls: number;
}

/** One entry of the log, as JSON. */
export type LogEntry = readonly [
  what: 'enter' | 'leave',
  key: string,
  process: string,
  fence: number,
];

const STALL = 400;
const TICK = 20;

const options = JSON.parse(process.argv[2] as string) as OrderTakerOptions;
const connection = { host: '127.0.0.1', port: options.port };
const locker = new Locker({
  connection: { ...connection, connectionName: options.process },
  ttl: '20s',
  waitTimeout: '600s',
  ...options.locker,
});
const redis = new Redis(connection);
const errors: string[] = [];

let stalls = 0;
let lastTick = performance.now();
setInterval(() => {
  const at = performance.now();
  if (at - lastTick > STALL) stalls += 1;
  lastTick = at;
}, TICK).unref();

async function log(...entry: LogEntry): Promise<void> {
  await redis.rpush('log', JSON.stringify(entry));
}

async function takeTurns(key: string, take: AcquireOptions | undefined): Promise<void> {
  for (let turn = 0; turn < options.turns; turn += 1) {
    const lock = await locker.acquire(key, take);
    await log('enter', key, options.process, lock.fencingToken);
    if (!lock.isHeld) errors.push(`Not held on entering: ${key} ${lock.fencingToken}`);
    await log('leave', key, options.process, lock.fencingToken);
    const released = await lock.release();
    if (released !== 'released') errors.push(`Released: ${released}`);
    if (Math.random() < options.pauses) await pause(1);
  }
}

await Promise.all([locker.connect(), redis.ping()]);
process.once('message', () => {
  const callers = options.keys.flatMap((key) =>
    Array.from({ length: options.callers }, (_, caller) =>
      takeTurns(key, options.takes?.[caller % options.takes.length]).catch((error: unknown) =>
        errors.push(String(error)),
      ),
    ),
  );
  void Promise.all(callers).then(async () => {
    await locker.close();
    redis.disconnect();
    process.send?.({ errors, stalls } satisfies OrderTakerDone);
    process.disconnect();
  });
});
process.send?.('ready');
