import { LockConfigError } from '../core/errors.js';

/** Any method. Its types don't matter to who wraps it. */
export type Method = (this: unknown, ...args: unknown[]) => unknown;

/**
 * The method that a decorator stands on, where it may stand there.
 *
 * Only prototype methods can be guarded: the lock is reached through the instance that Nest made.
 *
 * @throws LockConfigError for anything else, when the class is defined.
 */
export function methodUnder(
  decorator: string,
  target: unknown,
  propertyKey: unknown,
  descriptor: unknown,
): {
  readonly decorator: string;
  readonly prototype: object;
  readonly name: string | symbol;
  readonly descriptor: PropertyDescriptor;
  readonly method: Method;
} {
  const misplaced = (place: string, remedy: string) =>
    new LockConfigError(`${decorator} can't stand on ${place}. ${remedy}`);
  const onMethod = 'Put it on a method of a provider or controller.';

  if (typeof propertyKey === 'object' && propertyKey !== null && 'kind' in propertyKey) {
    throw misplaced(
      'a standard (TC39) decorator position',
      'Nest uses the older decorators: set "experimentalDecorators": true in tsconfig.json.',
    );
  }
  if (typeof propertyKey !== 'string' && typeof propertyKey !== 'symbol') {
    throw misplaced(
      typeof descriptor === 'number' ? 'a constructor parameter' : 'a class',
      onMethod,
    );
  }
  const where = `'${String(propertyKey)}'`;
  if (typeof target === 'function') {
    throw misplaced(
      `the static member ${where}`,
      `It needs the instance that Nest makes. ${onMethod}`,
    );
  }
  if (typeof descriptor === 'number') throw misplaced(`a parameter of ${where}`, onMethod);
  if (
    typeof target !== 'object' ||
    target === null ||
    typeof descriptor !== 'object' ||
    descriptor === null
  ) {
    throw misplaced(`the property ${where}`, onMethod);
  }
  const given = descriptor as PropertyDescriptor;
  if (given.get !== undefined || given.set !== undefined)
    throw misplaced(`the accessor ${where}`, onMethod);
  if (typeof given.value !== 'function') throw misplaced(`the property ${where}`, onMethod);
  if (Object.prototype.toString.call(given.value) === '[object GeneratorFunction]') {
    // Its body would run when the caller iterates, after the lock was given back.
    throw misplaced(
      `the generator ${where}`,
      'Make it an async generator, or collect the values under the lock.',
    );
  }
  return {
    decorator,
    prototype: target,
    name: propertyKey,
    descriptor: given,
    method: given.value as Method,
  };
}

/**
 * Makes a method look like the one it replaces: name, length, own properties and all metadata. Decorators above and
 * below then find what they look for, whatever their order.
 */
export function disguise(wrapper: Method, original: Method): Method {
  for (const key of Reflect.ownKeys(original)) {
    if (key === 'prototype' || key === 'arguments' || key === 'caller') continue;
    Object.defineProperty(
      wrapper,
      key,
      Object.getOwnPropertyDescriptor(original, key) as PropertyDescriptor,
    );
  }
  for (const key of Reflect.getMetadataKeys(original) as unknown[]) {
    Reflect.defineMetadata(key, Reflect.getMetadata(key, original), wrapper);
  }
  return wrapper;
}
