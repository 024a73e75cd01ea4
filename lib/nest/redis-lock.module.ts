import { type DynamicModule, Module } from '@nestjs/common';

import {
  asyncOptionsProviders,
  defineInstance,
  optionsProvider,
} from './redis-lock.module-definition.js';
import type { RedisLockModuleAsyncOptions, RedisLockModuleOptions } from './redis-lock.options.js';

/**
 * Provides the locks of an application.
 *
 * Each call of `forRoot` or `forRootAsync` sets up one instance; all but one of them need a `name`. The application
 * comes up without Redis, and says so; calls fail with `LockUnavailableError` until it's there. With
 * `requireConnection: true` the boot fails instead.
 *
 * @example
 * @Module({ imports: [RedisLockModule.forRoot({ connection: 'redis://localhost:6379' })] })
 * export class AppModule {}
 */
@Module({})
export class RedisLockModule {
  /**
   * Sets up an instance with options that are known.
   *
   * @throws LockConfigError, here or at boot, that names the option, its value and the remedy. At boot
   * LockUnavailableError, with `requireConnection`.
   */
  static forRoot(options: RedisLockModuleOptions): DynamicModule {
    const { extras, provider } = optionsProvider(options);
    return defineInstance(this, extras, provider);
  }

  /**
   * Sets up an instance with options that other providers make.
   *
   * @throws LockConfigError, here or at boot, that names the option, its value and the remedy. At boot
   * LockUnavailableError, with `requireConnection`.
   */
  static forRootAsync(options: RedisLockModuleAsyncOptions): DynamicModule {
    const { provider, more } = asyncOptionsProviders(options);
    return defineInstance(this, options, provider, {
      imports: options.imports ?? [],
      providers: more,
    });
  }
}
