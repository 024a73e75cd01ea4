import { AsyncResource } from 'node:async_hooks';
import type { Writable } from 'node:stream';

import { Observable, type Subscriber, Subscription } from 'rxjs';

import { LockLostError } from '../core/errors.js';
import type { Lock } from '../core/lock.js';
import { holdAnswer, whenUnread } from './held-body.js';

/** How a source is passed on. */
export interface RelayOptions {
  /** The source is a stream, hence fails as soon as the lock is lost. Otherwise it's one from its first value on. */
  readonly flowing: boolean;
  /** Where an HTTP answer goes. */
  readonly response?: Writable | undefined;
  /** Resolves when work is done that goes on whatever becomes of the source; `undefined`: there's none now. */
  readonly idle?: () => Promise<void> | undefined;
}

/** Passes on what is left, once the lock has been given back. */
export type Deliver = () => void;

/**
 * Passes a source on to a subscriber for as long as the lock is held.
 *
 *     passing ──complete──▶ ended: what came with the completion is delivered after the release
 *        ├──error──▶ ended: rejects with the source's own error
 *        ├──unsubscribed──▶ ended, when the work has stopped
 *        └──lock lost──▶ ended: rejects with LockLostError: at once in a stream, else in the result's place
 *
 * Where the source ends before the work does (a timeout gave it up), the lock is held until the work ends, too; who
 * subscribed needn't wait for that.
 *
 * A value that comes together with the completion is a result: a promise's, say. It's delivered after the release, so
 * that who sees it finds the lock free. To tell, each value waits a microtask.
 */
export function relay<T>(
  source: Observable<T>,
  subscriber: Subscriber<T>,
  lock: Lock,
  { flowing, response, idle }: RelayOptions,
): Promise<Deliver> {
  return new Promise((resolve, reject) => {
    const { signal } = lock;
    const subscription = new Subscription();
    const bodies: Promise<void>[] = [];
    let isStream = flowing;
    let over = false;
    let pending: T[] = [];

    const settle = (then: () => void) => {
      if (over) return;
      over = true;
      signal.removeEventListener('abort', lostAtOnce);
      then();
    };
    const holdUntil = (end: Promise<unknown> | undefined) =>
      void (async () => {
        await end;
        resolve(() => {});
      })();
    const lost = () =>
      settle(() => {
        subscription.unsubscribe();
        reject(signal.reason);
      });
    const lostAtOnce = () => {
      if (isStream) lost();
    };
    const deliverPending = () => {
      const values = pending;
      pending = [];
      for (const value of values) subscriber.next(value);
    };
    const finish = () => {
      deliverPending();
      subscriber.complete();
    };
    const pass = () => {
      if (over) return;
      isStream = true;
      deliverPending();
    };

    signal.addEventListener('abort', lostAtOnce, { once: true });
    if (signal.aborted) lostAtOnce();
    subscriber.add(() =>
      settle(() => {
        subscription.unsubscribe();
        holdUntil(idle?.());
      }),
    );
    if (over) return;
    subscription.add(
      source.subscribe({
        next(value) {
          if (over) return;
          if (signal.aborted) {
            lost();
            return;
          }
          const body = holdAnswer(value, lock, response);
          if (body !== undefined) bodies.push(body.ended);
          pending.push(body === undefined ? value : (body.value as T));
          if (pending.length === 1) queueMicrotask(pass);
        },
        error(error: unknown) {
          settle(() => {
            deliverPending();
            const working = idle?.();
            if (working === undefined) {
              reject(error);
            } else {
              subscriber.error(error);
              holdUntil(working);
            }
          });
        },
        complete() {
          if (signal.aborted) {
            lost();
            return;
          }
          settle(() => {
            const working = idle?.();
            if (bodies.length === 0 && working === undefined) {
              resolve(finish);
            } else {
              // A body flows only once it's delivered.
              finish();
              holdUntil(Promise.all([working, ...bodies]));
            }
          });
        },
      }),
    );
  });
}

/**
 * An Observable that a guarded method has returned. The lock is held from the method's call until no subscription is
 * left; then, subscribing fails with LockLostError. If nobody subscribes within a ttl, the lock is given back.
 */
export class HeldObservable {
  readonly value: Observable<unknown>;
  readonly ended: Promise<void>;
  #active = 0;
  #over: LockLostError | undefined;
  #end!: () => void;
  /** What the last subscriber is told after the release. */
  #last: ((error?: unknown) => void) | undefined;

  constructor(source: Observable<unknown>, lock: Lock) {
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    // What a subscription does is the guarded work, whoever subscribes: it runs as if called by the method.
    const asWork = AsyncResource.bind((work: () => void): void => work());
    const subscribed = whenUnread(lock, (error) => this.#finish(error));
    this.value = new Observable((subscriber) => {
      subscribed();
      if (this.#over !== undefined) {
        subscriber.error(this.#over);
        return;
      }
      this.#active += 1;
      asWork(() => {
        void relay(source, subscriber, lock, { flowing: true }).then(
          (deliver) => this.#leave(lock, deliver, subscriber),
          (error: unknown) => this.#leave(lock, () => subscriber.error(error), subscriber),
        );
      });
    });
  }

  /** The lock was given back, or turned out to be lost. */
  released(error?: unknown): void {
    this.#last?.(error);
    this.#last = undefined;
  }

  #leave(lock: Lock, deliver: Deliver, subscriber: Subscriber<unknown>): void {
    this.#active -= 1;
    if (this.#active > 0) {
      deliver();
      return;
    }
    this.#last = (error) => (error === undefined ? deliver() : subscriber.error(error));
    this.#finish(LockLostError.afterRelease(lock));
  }

  #finish(over: LockLostError): void {
    this.#over ??= over;
    this.#end();
  }
}
