import type { Clock } from '../clock.js';
import type { LockEmitter } from '../events.js';
import { isQuorum, type ResolvedLockerOptions } from '../options.js';
import type { LockBackend } from './lock-backend.js';
import { MemoryBackend } from './memory-backend.js';
import { QuorumBackend } from './quorum-backend.js';
import { RedisBackend } from './redis-backend.js';

/** The backend for what the options call `connection`: the one place that knows all of them. */
export function openBackend(
  options: ResolvedLockerOptions,
  clock: Clock,
  random: () => number,
  events: LockEmitter,
): LockBackend {
  const { connection, nodeTimeout, commandTimeout, application, wakeUp, replicas, guard } = options;
  if (connection === 'memory') return new MemoryBackend({ application });
  const { prefix } = options.defaults;
  const ofRedis = { commandTimeout, application, wakeUp, replicas, guard, prefix };
  if (isQuorum(connection)) {
    return new QuorumBackend({ ...ofRedis, connection, nodeTimeout }, clock, random, events);
  }
  return new RedisBackend({ ...ofRedis, connection }, clock, events, random);
}
