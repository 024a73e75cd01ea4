import { AsyncLocalStorage } from 'node:async_hooks';
import { isPromise } from 'node:util/types';

import type { ExecutionContext } from '@nestjs/common';

import { LockLostError } from '../core/errors.js';
import type { Lock } from '../core/lock.js';
import { disguise, type Method } from './guarded-method.js';

/**
 * One call of a handler that the interceptor guards, as far as an interceptor can't see it: what it gets from Nest is
 * an Observable, which it may unsubscribe from (a timeout does, or a client that leaves) while the promise of the
 * handler goes on. The lock must not be given back before that promise has settled.
 *
 *     idle ──handler called──▶ running ──returned or settled──▶ idle
 *       └──asked for by `idle`, or `end`──▶ over
 *
 * Over is final: Nest may still be busy with the handler's parameters (an asynchronous pipe) when the interceptor gives
 * up, and would call the handler after the lock was given back. Then it isn't run.
 */
export class HandlerCall {
  #running = 0;
  #onIdle: (() => void)[] = [];

  #over = false;

  constructor(
    readonly context: ExecutionContext,
    private readonly lock: Lock,
  ) {}

  /** The call that the running code is part of. */
  static get current(): HandlerCall | undefined {
    return calls.getStore();
  }

  run<T>(work: () => T): T {
    return calls.run(this, work);
  }

  /** Resolves when no handler runs; `undefined` if none does now. None begins any more after that. */
  idle(): Promise<void> | undefined {
    if (this.#running === 0) {
      this.#over = true;
      return undefined;
    }
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  /** The lock is about to be given back. */
  end(): void {
    this.#over = true;
  }

  /** Makes a handler tell the call that it's part of when it begins and ends. */
  static watched(handler: Method): Method {
    return disguise(function (this: unknown, ...args: unknown[]): unknown {
      const call = HandlerCall.current;
      return call === undefined
        ? handler.apply(this, args)
        : call.#watch(() => handler.apply(this, args));
    }, handler);
  }

  #watch(handle: () => unknown): unknown {
    if (this.#over) throw LockLostError.afterRelease(this.lock);
    this.#running += 1;
    let result: unknown;
    try {
      result = handle();
    } catch (error) {
      this.#ended();
      throw error;
    }
    if (!isThenable(result)) {
      this.#ended();
      return result;
    }
    // A thenable may be lazy (a query builder's): asked once, it runs once.
    const promise = isPromise(result) ? result : Promise.resolve(result);
    void promise.then(
      () => this.#ended(),
      () => this.#ended(),
    );
    return promise;
  }

  #ended(): void {
    this.#running -= 1;
    if (this.#running > 0) return;
    if (this.#onIdle.length > 0) this.#over = true;
    const waiting = this.#onIdle;
    this.#onIdle = [];
    for (const resolve of waiting) resolve();
  }
}

const calls = new AsyncLocalStorage<HandlerCall>();

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function';
}
