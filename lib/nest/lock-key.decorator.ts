import { UseInterceptors } from '@nestjs/common';

import { type GuardOptions, guardOptions } from './guard.options.js';
import { methodUnder, type Method } from './guarded-method.js';
import { HandlerCall } from './handler-call.js';
import { type HandlerGuard, setGuard } from './handler-guard.js';
import { keyFromContext, type LockKeySource } from './lock-key.js';
import { LockKeyInterceptor } from './redis-lock.interceptor.js';
import { injectServiceInto } from './redis-lock.token.js';

/**
 * Lets `RedisLockInterceptor` run a handler, or every handler of a controller, under a lock. A handler's own
 * `@LockKey` wins over its controller's.
 *
 * The key is a text, a template over the request, or a function of the `ExecutionContext`, which may be asynchronous.
 * Templates read, for HTTP, what the request has: `{params.id}`, `{query.x}`, `{body.order.id}`, `{headers.x-tenant}`,
 * `{user.id}`; for GraphQL `{args.id}` and the same of the HTTP request; for RPC and WebSocket `{data.x}`. Braces in a
 * text are written `{{` and `}}`. A list of texts, or a function that returns one, takes all of these keys or none.
 *
 * It brings the interceptor along, so that no handler with a `@LockKey` ever runs without its lock; give it another
 * place among the interceptors with `@UseInterceptors(RedisLockInterceptor)`.
 *
 * @throws LockConfigError when the class is defined: for a wrong key or option, or on anything but a method or a class.
 *
 * @example
 * @LockKey('order:{params.id}', { waitTimeout: '2s' })
 * @Post(':id/pay')
 * pay(@Param('id') id: string) {}
 */
export function LockKey(
  key: LockKeySource,
  options: GuardOptions = {},
): MethodDecorator & ClassDecorator {
  const keyOf = keyFromContext(key);
  const { instance, lockOptions } = guardOptions(options);
  const guard: HandlerGuard = { keyOf, instance, options: lockOptions };
  return (target: unknown, propertyKey?: unknown, descriptor?: unknown) => {
    if (typeof target === 'function' && propertyKey === undefined) {
      const controller = target as new (...args: never[]) => unknown;
      injectServiceInto(controller.prototype as object, instance);
      watchHandlers(controller.prototype as object);
      setGuard(controller, guard);
      UseInterceptors(LockKeyInterceptor)(controller);
      return;
    }
    const place = methodUnder('@LockKey', target, propertyKey, descriptor);
    injectServiceInto(place.prototype, instance);
    place.descriptor.value = HandlerCall.watched(place.method);
    setGuard(place.descriptor.value as object, guard);
    UseInterceptors(LockKeyInterceptor)(place.prototype, place.name, place.descriptor);
  };
}

/** Every handler of a class is one of its methods with metadata, or of a class that it extends. */
function watchHandlers(prototype: object): void {
  const seen = new Set<string | symbol>(['constructor']);
  for (
    let link = prototype;
    link !== Object.prototype && link !== null;
    link = Object.getPrototypeOf(link) as object
  ) {
    for (const name of Reflect.ownKeys(link)) {
      if (seen.has(name)) continue;
      seen.add(name);
      const descriptor = Object.getOwnPropertyDescriptor(link, name);
      if (
        typeof descriptor?.value !== 'function' ||
        Reflect.getMetadataKeys(descriptor.value as object).length === 0
      )
        continue;
      Object.defineProperty(prototype, name, {
        ...descriptor,
        value: HandlerCall.watched(descriptor.value as Method),
      });
    }
  }
}
