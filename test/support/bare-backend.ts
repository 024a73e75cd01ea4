/**
 * The backend that a locker would open for the same options, without the locker: for what a process that doesn't behave, or one
 * that hangs at the wrong moment, says to a server. Who opens it closes it.
 */
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import { openBackend } from '../../lib/core/backend/open-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { type LockerOptions, resolveLockerOptions } from '../../lib/core/options.js';

export function openBareBackend(options: LockerOptions): LockBackend {
  return openBackend(resolveLockerOptions(options), systemClock, Math.random, new LockEmitter());
}
