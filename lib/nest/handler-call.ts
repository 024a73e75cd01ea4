import { AsyncLocalStorage } from 'node:async_hooks';
import { isPromise } from 'node:util/types';

import type { ExecutionContext } from '@nestjs/common';

import { disguise, type Method } from './guarded-method.js';

/**
 * One call of a handler that the interceptor guards, as far as an interceptor can't see it: what it gets from Nest is
 * an Observable, which it may unsubscribe from (a timeout does, or a client that leaves) while the promise of the
 * handler goes on. The lock must not be given back before that promise has settled.
 *
 *     idle ──handler called──▶ running ──returned or settled──▶ idle
 */
export class HandlerCall {
  #running = 0;
  #onIdle: (() => void)[] = [];

  constructor(readonly context: ExecutionContext) {}

  /** The call that the running code is part of. */
  static get current(): HandlerCall | undefined {
    return calls.getStore();
  }

  run<T>(work: () => T): T {
    return calls.run(this, work);
  }

  /** Resolves when no handler runs; `undefined` if none does now. */
  idle(): Promise<void> | undefined {
    if (this.#running === 0) return undefined;
    return new Promise((resolve) => this.#onIdle.push(resolve));
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
    const waiting = this.#onIdle;
    this.#onIdle = [];
    for (const resolve of waiting) resolve();
  }
}

const calls = new AsyncLocalStorage<HandlerCall>();

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function';
}
