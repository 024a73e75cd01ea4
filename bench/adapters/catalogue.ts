import type { Adapter } from './adapter.js';
import { asyncMutex } from './async-mutex.js';
import { murlock } from './murlock.js';
import { ours, oursPolling, oursWithoutHandOver } from './ours.js';
import { oursDecorator } from './ours-decorator.js';
import { oursQuorum, oursQuorumAtOdds } from './ours-quorum.js';
import { raw } from './raw.js';
import { rawBatch } from './raw-batch.js';
import { rawPolling } from './raw-polling.js';
import { rawQuorum } from './raw-quorum.js';
import { redisKitLock } from './redis-kit-lock.js';
import { redisSemaphore } from './redis-semaphore.js';
import { redlock4 } from './redlock-4.js';
import { redlock5, redlock5Quorum } from './redlock-5.js';
import { redlockUniversal } from './redlock-universal.js';

/** Every library that is measured, in the order of the tables: the limits, the rivals, ours. */
export const adapters: readonly Adapter[] = [
  raw,
  rawPolling,
  rawBatch,
  asyncMutex,
  redisSemaphore,
  redlock4,
  redlock5,
  redlockUniversal,
  murlock,
  redisKitLock,
  ours,
  oursWithoutHandOver,
  oursPolling,
  oursDecorator,
  rawQuorum,
  redlock5Quorum,
  oursQuorum,
  oursQuorumAtOdds,
];

export function adapterOf(id: string): Adapter {
  const found = adapters.find((adapter) => adapter.id === id);
  if (found === undefined) throw new Error(`There is no library ${id}.`);
  return found;
}
