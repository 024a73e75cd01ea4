import { isObservable } from 'rxjs';

import type { Lock } from '../core/lock.js';
import type { LockKeys } from '../core/lock-name.js';
import type { LockOptions } from '../core/options.js';
import { currentLockIndex } from './current-lock.decorator.js';
import { type GuardOptions, guardOptions } from './guard.options.js';
import { disguise, methodUnder } from './guarded-method.js';
import { holdResult } from './held-body.js';
import { HeldObservable } from './held-observable.js';
import { keyFromArguments } from './lock-key.js';
import type { RedisLockService } from './redis-lock.service.js';
import { injectServiceInto, serviceOf } from './redis-lock.token.js';

/** A key function is given the arguments of the method. Which these are, only the place of the decorator tells. */
// oxlint-disable-next-line typescript/no-explicit-any
type KeyFunction = (...args: any[]) => LockKeys;
// oxlint-disable-next-line typescript/no-explicit-any
type AnyMethod = (...args: any[]) => unknown;

/** What the compiler shows where a key function doesn't accept what the method is called with. */
export interface KeyFunctionMismatch<Expected extends readonly unknown[]> {
  'the key function must accept the parameters of the method': Expected;
}

/** Stands on a method whose parameters the key accepts: `unknown` where they fit, else what can't be satisfied. */
type Accepting<K, M extends AnyMethod> = K extends KeyFunction
  ? K extends (...args: Parameters<M>) => LockKeys
    ? unknown
    : KeyFunctionMismatch<Parameters<M>>
  : unknown;

/** The decorator that {@link DistributedLock} makes. */
export type DistributedLockDecorator<K> = <M extends AnyMethod>(
  target: object,
  propertyKey: string | symbol,
  descriptor: TypedPropertyDescriptor<M> & Accepting<K, M>,
) => void;

/**
 * Runs a method under a lock: takes it, runs the method, gives it back.
 *
 * The key is a text, a template over the arguments (`'order:{0}:{1.customer.id}'`), or a function of them, whose
 * parameters the compiler checks against the method's. Braces in a text are written `{{` and `}}`. A list of texts, or a
 * function that returns one, takes all of these keys or none.
 *
 * Works on the methods of controllers, providers and gateways, below and above any other decorator (`@Get`, `@Cron`,
 * Swagger's), in subclasses and on request-scoped providers. The method becomes asynchronous. Its own result and
 * exception come through untouched; with `onBusy: 'skip'`, and the key held by another, it isn't run and gives
 * `undefined`. If it gives an Observable, a `StreamableFile` or an async generator, the lock is held until that has
 * ended, or, if nobody begins to read it, for a ttl.
 *
 * A call below the method may take the same key again, by whatever means.
 *
 * @throws LockConfigError when the class is defined: for a wrong key or option, or on anything but a method. What the
 * call rejects with: LockTimeoutError, LockBusyError, LockUnavailableError, LockKeyError, or LockConfigError for an
 * instance that Nest didn't make: the method was not run. LockLostError: it ran, but the lock was lost before its end.
 *
 * @example
 * @DistributedLock((id: string) => `order:${id}`)
 * async pay(id: string, payment: Payment) {}
 *
 * @DistributedLock(['account:{0}', 'account:{1}'])
 * async transfer(from: string, to: string, amount: number) {}
 *
 * @Cron('0 * * * *')
 * @DistributedLock('hourly-report', { onBusy: 'skip', holdAtLeast: '30s' })
 * async report() {}
 */
export function DistributedLock<K extends LockKeys | KeyFunction>(
  key: K,
  options: GuardOptions = {},
): DistributedLockDecorator<K> {
  const keyOf = keyFromArguments(key);
  const { instance, lockOptions } = guardOptions(options);
  return (target, propertyKey, descriptor) => {
    const place = methodUnder('@DistributedLock', target, propertyKey, descriptor);
    const { method, prototype, name } = place;
    const service = injectServiceInto(prototype, instance);
    const lockIndex = currentLockIndex(prototype, name);

    async function guarded(this: unknown, ...args: unknown[]): Promise<unknown> {
      const locks = serviceOf(this, service, place, 'using');
      return callUnderLock(locks, keyOf(args), lockOptions, (lock) => {
        if (lockIndex !== undefined) args[lockIndex] = lock;
        return method.apply(this, args);
      });
    }
    place.descriptor.value = disguise(guarded, method);
  };
}

/** As `using`, but what goes on after the method has returned is handed to the caller while the lock is still held. */
function callUnderLock(
  locks: RedisLockService,
  key: LockKeys,
  options: LockOptions,
  work: (lock: Lock) => unknown,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    let observable: HeldObservable | undefined;
    locks
      .using(key, options, async (lock) => {
        const result = await work(lock);
        if (isObservable(result)) observable = new HeldObservable(result, lock);
        const held = observable ?? holdResult(result, lock);
        if (held === undefined) return result;
        resolve(held.value);
        await held.ended;
        return undefined;
      })
      .then(
        (result) => {
          resolve(result);
          return observable?.released();
        },
        (error: unknown) => {
          reject(error);
          return observable?.released(error);
        },
      );
  });
}
