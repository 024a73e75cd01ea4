import type {
  InjectionToken,
  ModuleMetadata,
  OptionalFactoryDependency,
  Type,
} from '@nestjs/common';

import type { LockerOptions } from '../core/options.js';

/**
 * What the module itself is told: known before anything is injected, hence given to `forRoot` and `forRootAsync`
 * alike, and never by an options factory.
 */
export interface RedisLockModuleExtras {
  /**
   * The instance's name, where an application has more than one: `@InjectRedisLock('orders')` injects it, and
   * `{ instance: 'orders' }` makes a decorator use it.
   * @default none: the default instance, injected as `RedisLockService`
   */
  name?: string;
  /**
   * Whether the instance can be injected everywhere. Otherwise each module that uses it imports the dynamic module.
   * @default true
   */
  isGlobal?: boolean;
  /**
   * Whether the module registers {@link RedisLockExceptionFilter}, which answers a lock error with its HTTP status.
   * @default true
   */
  exceptionFilter?: boolean;
}

/**
 * Options of `RedisLockModule.forRoot`: where Redis is, the defaults of every lock, and the module's own.
 *
 * @example
 * RedisLockModule.forRoot({ connection: 'redis://localhost:6379', ttl: '30s' })
 */
export interface RedisLockModuleOptions extends LockerOptions, RedisLockModuleExtras {}

/** A provider that makes the options, for `useClass` and `useExisting`. */
export interface RedisLockOptionsFactory {
  createRedisLockOptions(): LockerOptions | Promise<LockerOptions>;
}

/**
 * Options of `RedisLockModule.forRootAsync`: exactly one of `useFactory`, `useClass` and `useExisting`.
 *
 * @example
 * RedisLockModule.forRootAsync({
 *   inject: [ConfigService],
 *   useFactory: (config: ConfigService) => ({ connection: config.getOrThrow('REDIS_URL') }),
 * })
 */
export interface RedisLockModuleAsyncOptions extends RedisLockModuleExtras {
  /** The modules that `inject`, `useClass` and `useExisting` need. */
  imports?: NonNullable<ModuleMetadata['imports']>;
  /** Makes the options out of what `inject` lists. */
  // Parameters are as the injected tokens say, which no type can express: `any` is what Nest's own options have here.
  // oxlint-disable-next-line typescript/no-explicit-any
  useFactory?: (...args: any[]) => LockerOptions | Promise<LockerOptions>;
  inject?: (InjectionToken | OptionalFactoryDependency)[];
  /** A class that the module instantiates. */
  useClass?: Type<RedisLockOptionsFactory>;
  /** A provider of another module (see `imports`), used as it is: no second instance is made. */
  useExisting?: InjectionToken<RedisLockOptionsFactory>;
}
