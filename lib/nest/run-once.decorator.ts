import { LockConfigError } from '../core/errors.js';
import { LockName } from '../core/lock-name.js';
import { resolveRunOnceOptions, type RunOnceOptions } from '../core/run-options.js';
import { currentLockIndex } from './current-lock.decorator.js';
import type { GuardOptions } from './guard.options.js';
import { disguise, methodUnder } from './guarded-method.js';
import { injectServiceInto, serviceOf } from './redis-lock.token.js';

/** How a scheduled method is run: as any run, and by which instance. */
export interface ScheduledRunOptions
  extends Omit<RunOnceOptions, 'at'>, Pick<GuardOptions, 'instance'> {}

/**
 * Runs a scheduled method once a tick, on whichever replica claims the tick first: where clocks differ, a replica is slow,
 * or restarts, and also when the work is done before the last replica's clock strikes.
 *
 * Stands below or above `@Cron`, on the methods of any provider or controller. On the other replicas the method isn't run,
 * and gives `undefined`. Its own result and exception come through untouched; what came of each tick is recorded:
 * `RedisLockService.runs(name)`. The name is that of the job, as it is: no template.
 *
 * @throws LockConfigError, LockKeyError when the class is defined: for a wrong name or option, or on anything but a method.
 * What the call rejects with: LockUnavailableError, or LockConfigError for an instance that Nest didn't make: the method was
 * not run. LockLostError: it ran, but its lock was lost before its end.
 *
 * @example
 * @Cron('0 * * * *')
 * @RunOnce('hourly-report', { per: '1h', retryCrashed: true })
 * async report() {}
 */
export function RunOnce(name: string, options: ScheduledRunOptions): MethodDecorator {
  const { instance, runOptions } = scheduled(options);
  LockName.of('lock', name);
  return (target, propertyKey, descriptor) => {
    const place = methodUnder('@RunOnce', target, propertyKey, descriptor);
    const { method, prototype } = place;
    const service = injectServiceInto(prototype, instance);
    const lockIndex = currentLockIndex(prototype, place.name);

    async function guarded(this: unknown, ...args: unknown[]): Promise<unknown> {
      const locks = serviceOf(this, service, place, 'runOnce');
      const outcome = await locks.runOnce(name, runOptions, (lock) => {
        if (lockIndex !== undefined) args[lockIndex] = lock;
        return method.apply(this, args);
      });
      return outcome.kind === 'ran' ? outcome.result : undefined;
    }
    place.descriptor.value = disguise(guarded, method);
  };
}

/** Tells the decorator's own option from those of the run, and checks these. */
function scheduled(options: ScheduledRunOptions): {
  readonly instance: string | undefined;
  readonly runOptions: RunOnceOptions;
} {
  if (typeof options !== 'object' || options === null) resolveRunOnceOptions(options);
  const { instance, ...runOptions }: ScheduledRunOptions & RunOnceOptions = options;
  resolveRunOnceOptions(runOptions);
  if (runOptions.at !== undefined) {
    throw new LockConfigError(
      'The tick of a method with @RunOnce is that at which it is called: leave option `at` out, or call RedisLockService.runOnce() instead.',
      'at',
      runOptions.at,
    );
  }
  return { instance, runOptions };
}
