import { type LockOptions, resolveLockOptions } from '../core/options.js';

/** How a decorated method or handler is locked: as any lock is, and by which instance. */
export interface GuardOptions extends LockOptions {
  /**
   * The name of the `RedisLockModule` instance to use.
   * @default the default instance
   */
  instance?: string;
}

/**
 * Checks what a decorator is given, and tells its own options from the lock's.
 * @throws LockConfigError that names the option, its value and the remedy.
 */
export function guardOptions(options: GuardOptions): {
  readonly instance: string | undefined;
  readonly lockOptions: LockOptions;
} {
  if (typeof options !== 'object' || options === null) resolveLockOptions(options);
  const { instance, ...lockOptions } = options;
  resolveLockOptions(lockOptions);
  return { instance, lockOptions };
}
