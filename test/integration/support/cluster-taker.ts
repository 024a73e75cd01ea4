/**
 * A process of `cluster-load.spec.ts`: workers that take, hold and give back locks of every mode on a Cluster, and write
 * down when they believed that they held them.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { Cluster } from 'ioredis';
import { LockError } from '../../../lib/core/errors.js';
import { type AcquireOptions, Locker } from '../../../lib/core/locker.js';
import type { LockerOptions } from '../../../lib/core/options.js';
import { type Belief, Beliefs } from './beliefs.js';

export interface ClusterTakerOptions {
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  readonly locker: Omit<LockerOptions, 'connection'>;
  /** What each of the workers takes, in turn. */
  readonly takes: readonly (readonly [key: string, options: AcquireOptions])[];
  readonly workers: number;
}

export interface ClusterHold extends Belief {
  readonly mode: 'shared' | 'exclusive' | 'limited';
}

export interface ClusterTakerDone {
  readonly holds: readonly ClusterHold[];
  /** How often each call ended how. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** In ms, of one acquire. */
  readonly longestCall: number;
  /** Locks that were lost while they were held. */
  readonly lost: number;
  /** Monotonic, in ms: when each worker was granted something last. */
  readonly lastGrants: readonly number[];
}

const options = JSON.parse(process.argv[2] as string) as ClusterTakerOptions;
const cluster = new Cluster([...options.nodes], { lazyConnect: true });
const locker = new Locker({ connection: cluster, ...options.locker });
const holds: ClusterHold[] = [];
const outcomes: Record<string, number> = {};
const lastGrants: number[] = Array.from({ length: options.workers }, () => 0);
let longestCall = 0;
let lost = 0;
locker.on('lost', () => (lost += 1));
const end = new AbortController();
const now = (): number => Number(process.hrtime.bigint()) / 1e6;

function note(outcome: string): void {
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
}

async function takeTurn(worker: number, turn: number): Promise<void> {
  const [key, take] = options.takes[(worker + turn) % options.takes.length] as [
    string,
    AcquireOptions,
  ];
  const since = now();
  let lock;
  try {
    lock = await locker.acquire(key, take);
  } catch (error) {
    note(LockError.is(error) ? error.code : String(error));
    longestCall = Math.max(longestCall, now() - since);
    await pause(20);
    return;
  }
  note('granted');
  lastGrants[worker] = now();
  longestCall = Math.max(longestCall, now() - since);
  const beliefs = new Beliefs();
  beliefs.watch(lock);
  // Now and then so long that it has to be renewed.
  await pause(Math.random() < 0.03 ? 900 : Math.random() * 20);
  await lock.release();
  const mode = take.limit !== undefined ? 'limited' : (take.mode ?? 'exclusive');
  for (const belief of beliefs.all) holds.push({ ...belief, mode });
}

async function work(worker: number): Promise<void> {
  for (let turn = 0; !end.signal.aborted; turn += 1) await takeTurn(worker, turn);
}

await locker.connect();
const all = Promise.all(Array.from({ length: options.workers }, (_, worker) => work(worker)));
process.once('message', () => {
  end.abort();
  void all.then(async () => {
    await locker.close();
    cluster.disconnect();
    process.send?.({ holds, outcomes, longestCall, lost, lastGrants } satisfies ClusterTakerDone);
    process.disconnect();
  });
});
process.send?.('ready');
