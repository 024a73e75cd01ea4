import { createParamDecorator } from '@nestjs/common';

import { lockOfCall } from '../core/call-chain.js';
import { LockConfigError } from '../core/errors.js';
import type { Lock } from '../core/lock.js';

const INDEX = Symbol('nestjs-redis-lock.current-lock');

/**
 * For a handler that the interceptor guards: Nest resolves parameters after the interceptor took the lock. Under a
 * decorator alone it's too early; there the decorated method fills the argument in itself.
 */
const fromCallChain = createParamDecorator((): Lock | undefined => lockOfCall());

/**
 * Gives a guarded method the lock it runs under: for its fencing token, its signal, `assertHeld()`.
 *
 * Works in handlers and in the methods of any provider. The caller leaves the argument out, so it's declared as
 * optional where the method is called from code. Elsewhere below the method, use `RedisLockService.current()`.
 *
 * @throws LockConfigError on anything but a method's parameter, when the class is defined.
 *
 * @example
 * @DistributedLock('stock:{0}')
 * async reserve(id: string, @CurrentLock() lock?: Lock) {
 *   await this.store.save(id, { fence: lock?.fencingToken });
 * }
 */
export function CurrentLock(): ParameterDecorator {
  return (target, propertyKey, index) => {
    if (propertyKey === undefined || typeof index !== 'number') {
      throw new LockConfigError(
        '@CurrentLock can only stand on a parameter of a guarded method, not of a constructor.',
      );
    }
    Reflect.defineMetadata(INDEX, index, target, propertyKey);
    fromCallChain()(target, propertyKey, index);
  };
}

/** Which of a method's arguments is its lock. An overriding method has parameters of its own. */
export function currentLockIndex(
  prototype: object,
  propertyKey: string | symbol,
): number | undefined {
  return Reflect.getOwnMetadata(INDEX, prototype, propertyKey) as number | undefined;
}
