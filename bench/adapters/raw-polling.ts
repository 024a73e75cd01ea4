import { setTimeout as pause } from 'node:timers/promises';
import { randomUUID } from 'node:crypto';

import { type Adapter, POLL_INTERVAL } from './adapter.js';
import { type RawLock, RawLocks } from './raw.js';

/** The usual recipe for waiting: try, sleep, try again. */
class PollingLocks extends RawLocks {
  override async acquire(key: string): Promise<RawLock> {
    const token = randomUUID();
    for (;;) {
      const lock = await this.tryAcquire(key, token);
      if (lock !== undefined) return lock;
      await pause(POLL_INTERVAL);
    }
  }
}

/** What contention costs where nobody thought about it. */
export const rawPolling: Adapter = {
  id: 'polling',
  title: 'raw, polling',
  settings: `as raw, and tries again every ${POLL_INTERVAL} ms`,
  lacks: { renewal: 'it has none' },
  async open({ url, ttl }) {
    return new PollingLocks(url, ttl);
  },
};
