import type { Writable } from 'node:stream';

import {
  type CallHandler,
  type ExecutionContext,
  Inject,
  Injectable,
  type NestInterceptor,
} from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';
import { Observable, type Subscriber } from 'rxjs';

import type { LockOptions } from '../core/options.js';
import { HandlerCall } from './handler-call.js';
import { guardOf, type HandlerGuard } from './handler-guard.js';
import { type Deliver, relay } from './held-observable.js';
import type { RedisLockService } from './redis-lock.service.js';
import { getRedisLockToken } from './redis-lock.token.js';

/** Where `@Sse()` notes that a handler's Observable is a stream from the start. Nest doesn't export the name publicly. */
const SSE_METADATA = '__sse__';
/** Where `@UseInterceptors` notes down what it's given; likewise. */
const INTERCEPTORS_METADATA = '__interceptors__';

/** Why a waiting call gave up: who asked is gone, and needs no answer. */
const CLIENT_GONE = Symbol('client gone');

/**
 * Takes the lock that `@LockKey` names before a handler runs, and gives it back when the handler is done: its promise
 * settled; its Observable completed, failed or was unsubscribed; its stream or file ended, or its client left.
 *
 *     waiting ──granted──▶ handling ──done──▶ releasing ──▶ answered
 *        ├──client left──▶ answered with nothing, handler not run
 *        ├──busy, skip──▶ answered with nothing, handler not run
 *        └──busy, unavailable──▶ failed with a lock error, handler not run
 *
 * `@LockKey` brings it along. By `@UseInterceptors` it gets a place of one's choice among others (the first is the
 * outermost); globally, too, it leaves handlers without `@LockKey` alone. However often it applies to a handler, it locks once. Works for HTTP, GraphQL, RPC and
 * WebSocket handlers.
 *
 * A lock that is lost meanwhile makes a stream fail at once, and a handler that succeeds fail at its end, with
 * LockLostError; the handler's own error comes through untouched.
 *
 * Answers that a handler sends itself, through `@Res()`, are beyond its sight: there, use `RedisLockService`.
 *
 * @example
 * @UseInterceptors(RedisLockInterceptor)
 * @LockKey('order:{params.id}')
 * @Post(':id/pay')
 * pay(@Param('id') id: string) {}
 */
@Injectable()
export class RedisLockInterceptor implements NestInterceptor {
  constructor(@Inject(ModuleRef) private readonly moduleRef: ModuleRef) {}

  /** @internal */
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const guard = guardOf(context);
    // Below itself it has nothing to do; it's asked by the call chain, since a `retry` calls it again with this context.
    if (guard === undefined || HandlerCall.current?.context === context) return next.handle();
    return new Observable((subscriber) => {
      void this.#handle(guard, context, next, subscriber);
    });
  }

  async #handle(
    guard: HandlerGuard,
    context: ExecutionContext,
    next: CallHandler,
    subscriber: Subscriber<unknown>,
  ): Promise<void> {
    const isSse = Reflect.getMetadata(SSE_METADATA, context.getHandler()) === true;
    const response = responseOf(context);
    const waiting = new Waiting(subscriber, response, guard.options.signal);
    let deliver: Deliver | undefined;
    try {
      const key = await guard.keyOf(context);
      const locks = this.moduleRef.get<RedisLockService>(getRedisLockToken(guard.instance), {
        strict: false,
      });
      const options: LockOptions = { ...guard.options, signal: waiting.signal };
      deliver = await locks.using<Deliver>(key, options, (lock) => {
        waiting.end();
        const call = new HandlerCall(context, lock);
        return call
          .run(() =>
            relay(next.handle(), subscriber, lock, {
              flowing: isSse,
              response,
              idle: () => call.idle(),
            }),
          )
          .finally(() => call.end());
      });
    } catch (error) {
      if (error !== CLIENT_GONE) {
        subscriber.error(error);
        return;
      }
    } finally {
      waiting.end();
    }
    if (deliver !== undefined) {
      deliver();
      return;
    }
    // Nest's HTTP router needs a value, whereas to an event stream it would be an event.
    if (!isSse) subscriber.next(undefined);
    subscriber.complete();
  }
}

/**
 * The interceptor as `@LockKey` brings it along: it leaves a handler to the one that was placed by hand. Decorators
 * say nothing about those above them, so it can only find out when it's called.
 * @internal
 */
@Injectable()
export class LockKeyInterceptor extends RedisLockInterceptor {
  override intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const placed = [context.getHandler(), context.getClass()].flatMap(
      (target) =>
        (Reflect.getMetadata(INTERCEPTORS_METADATA, target) as unknown[] | undefined) ?? [],
    );
    const byHand = placed.some(
      (one) => one === RedisLockInterceptor || one?.constructor === RedisLockInterceptor,
    );
    return byHand ? next.handle() : super.intercept(context, next);
  }
}

/** A call that waits for its lock, for as long as somebody is there who waits for the answer. */
class Waiting {
  readonly #controller = new AbortController();
  readonly #gone = () => this.#controller.abort(CLIENT_GONE);
  readonly #cancelled = () => this.#controller.abort(this.#given?.reason);
  #over = false;

  readonly #response: Writable | undefined;
  readonly #given: AbortSignal | undefined;

  constructor(
    subscriber: Subscriber<unknown>,
    response: Writable | undefined,
    given: AbortSignal | undefined,
  ) {
    this.#response = response;
    this.#given = given;
    subscriber.add(() => {
      if (!this.#over) this.#gone();
    });
    response?.once('close', this.#gone);
    given?.addEventListener('abort', this.#cancelled, { once: true });
    if (response?.closed === true) this.#gone();
    else if (given?.aborted === true) this.#cancelled();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  end(): void {
    this.#over = true;
    this.#response?.removeListener('close', this.#gone);
    this.#given?.removeEventListener('abort', this.#cancelled);
  }
}

/** The Node response of an HTTP call: Express' own, or what Fastify's reply wraps. */
function responseOf(context: ExecutionContext): Writable | undefined {
  if (context.getType() !== 'http') return undefined;
  const response = context
    .switchToHttp()
    .getResponse<(Writable & { raw?: Writable }) | undefined>();
  const raw = response?.raw ?? response;
  return typeof raw?.once === 'function' ? raw : undefined;
}
