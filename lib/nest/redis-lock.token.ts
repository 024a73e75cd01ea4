import { Inject, type InjectionToken } from '@nestjs/common';

import { LockConfigError } from '../core/errors.js';
import { RedisLockService } from './redis-lock.service.js';

/**
 * The token of an instance: the class `RedisLockService` for the default one. For `overrideProvider`, `moduleRef.get`
 * and the `inject` of factories.
 *
 * @throws LockConfigError for a name that is none.
 *
 * @example
 * { provide: Shop, useFactory: (locks: RedisLockService) => new Shop(locks), inject: [getRedisLockToken('orders')] }
 */
export function getRedisLockToken(name?: string): InjectionToken<RedisLockService> {
  if (name === undefined) return RedisLockService;
  if (typeof name !== 'string' || name.trim() === '') {
    throw new LockConfigError(
      'Expected the name of a lock instance to be a non-empty text. For the default instance, leave it out.',
      'name',
      name,
    );
  }
  return `RedisLockService(${name})`;
}

/**
 * Injects the `RedisLockService` of a named instance.
 *
 * @example
 * constructor(@InjectRedisLock('orders') private readonly locks: RedisLockService) {}
 */
export function InjectRedisLock(name?: string): ParameterDecorator & PropertyDecorator {
  return Inject(getRedisLockToken(name));
}

const propertyKeys = new Map<string | undefined, symbol>();

/**
 * Lets every instance of a class reach the service of the application that made it, under a symbol: the same class
 * may live in two applications at once, and a subclass inherits it. An application without the module fails at boot.
 */
export function injectServiceInto(prototype: object, instance: string | undefined): symbol {
  const token = getRedisLockToken(instance);
  let key = propertyKeys.get(instance);
  if (key === undefined) {
    // Nest prints the symbol where it can't be injected, so it says what is missing.
    const remedy = instance === undefined ? 'forRoot()' : `forRoot({ name: '${instance}' })`;
    propertyKeys.set(
      instance,
      (key = Symbol(`locks of @DistributedLock or @RunOnce: import RedisLockModule.${remedy}`)),
    );
  }
  Inject(token)(prototype, key);
  return key;
}

/**
 * The service that Nest has injected into the instance on which a guarded method is called.
 * @throws LockConfigError for an instance that Nest didn't make; it says to call `instead` there.
 */
export function serviceOf(
  instance: unknown,
  key: symbol,
  { decorator, name }: { readonly decorator: string; readonly name: string | symbol },
  instead: string,
): RedisLockService {
  const locks = (instance as Partial<Record<symbol, RedisLockService>> | undefined)?.[key];
  if (locks === undefined) {
    throw new LockConfigError(
      `The method '${String(name)}' is guarded by ${decorator}, but was called on what Nest didn't make: an instance made with \`new\` (also in a useFactory), or no instance at all. Let Nest make it (useClass), or call RedisLockService.${instead}() instead.`,
    );
  }
  return locks;
}
