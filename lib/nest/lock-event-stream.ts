import { Observable, type ObservableInput, takeUntil } from 'rxjs';

import { LOCK_EVENT_NAMES, type LockEvent } from '../core/events.js';
import type { Locker } from '../core/locker.js';

/**
 * A locker's events as one stream. Each subscriber listens for itself, from when it subscribes to when it unsubscribes
 * or the stream completes, which is when the locker has closed.
 *
 * What a subscriber throws never reaches the lock: rxjs reports it later, on its own.
 */
export function lockEventStream(
  locker: Pick<Locker, 'on'>,
  closed: ObservableInput<unknown>,
): Observable<LockEvent> {
  const events = new Observable<LockEvent>((subscriber) => {
    const stops = LOCK_EVENT_NAMES.map((type) =>
      locker.on(type, (facts) => subscriber.next({ type, ...facts } as LockEvent)),
    );
    return () => {
      for (const stop of stops) stop();
    };
  });
  return events.pipe(takeUntil(closed));
}
