import type { Clock } from '../clock.js';
import type { LockEmitter } from '../events.js';
import type { ResolvedLockerOptions } from '../options.js';
import type { LockBackend } from './lock-backend.js';
import { MemoryBackend } from './memory-backend.js';
import { RedisBackend } from './redis-backend.js';

/** The backend for what the options call `connection`: the one place that knows all of them. */
export function openBackend(
  options: ResolvedLockerOptions,
  clock: Clock,
  events: LockEmitter,
): LockBackend {
  const { connection, commandTimeout, application, wakeUp, replicas, guard, defaults } = options;
  if (connection === 'memory') return new MemoryBackend({ application });
  return new RedisBackend(
    { connection, commandTimeout, application, wakeUp, replicas, guard, prefix: defaults.prefix },
    clock,
    events,
  );
}
