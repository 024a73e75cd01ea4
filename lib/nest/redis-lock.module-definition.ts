import type { DynamicModule, FactoryProvider, Provider, Type, ValueProvider } from '@nestjs/common';
import { APP_FILTER, ModulesContainer } from '@nestjs/core';

import { LockConfigError } from '../core/errors.js';
import type { LockerOptions } from '../core/options.js';
import { RedisLockExceptionFilter } from './redis-lock.exception-filter.js';
import { RedisLockInterceptor } from './redis-lock.interceptor.js';
import type {
  RedisLockModuleAsyncOptions,
  RedisLockModuleExtras,
  RedisLockModuleOptions,
  RedisLockOptionsFactory,
} from './redis-lock.options.js';
import { RedisLockService } from './redis-lock.service.js';
import { getRedisLockToken } from './redis-lock.token.js';

/**
 * The dynamic module of one instance: its options (a provider of the module's own, hence one token for all instances),
 * the service made from them, and what guards handlers.
 *
 * Written by hand where Nest has a `ConfigurableModuleBuilder`: that one can't tell a misspelt option of the module
 * from an option of the locks, and its types hide the documentation of both.
 */
export function defineInstance(
  module: Type,
  extras: RedisLockModuleExtras,
  options: OptionsProvider,
  more: { imports?: NonNullable<DynamicModule['imports']>; providers?: Provider[] } = {},
): DynamicModule {
  const { name } = extras;
  const token = getRedisLockToken(name);
  const isGlobal = flag('isGlobal', extras.isGlobal);
  const exceptionFilter = flag('exceptionFilter', extras.exceptionFilter);
  return {
    module,
    global: isGlobal,
    imports: more.imports ?? [],
    providers: [
      ...(more.providers ?? []),
      options,
      {
        provide: token,
        useFactory: (given: LockerOptions, modules: ModulesContainer) => {
          const instances = [...modules.values()].filter(
            (other) => other.metatype === module && other.providers.has(token),
          );
          if (instances.length > 1) throw severalInstances(instances.length, name);
          return RedisLockService.open(given, name);
        },
        inject: [LOCKER_OPTIONS, ModulesContainer],
      },
      RedisLockInterceptor,
      ...(exceptionFilter ? [{ provide: APP_FILTER, useClass: RedisLockExceptionFilter }] : []),
    ],
    exports: [token, RedisLockInterceptor],
  };
}

/** @throws LockConfigError unless it's an object. */
export function optionsProvider(options: RedisLockModuleOptions): {
  extras: RedisLockModuleExtras;
  provider: OptionsProvider;
} {
  const { name, isGlobal, exceptionFilter, ...ofLocker } = anObject(options, 'forRoot');
  return {
    extras: { name, isGlobal, exceptionFilter } as RedisLockModuleExtras,
    provider: { provide: LOCKER_OPTIONS, useValue: ofLocker },
  };
}

/** @throws LockConfigError unless it has exactly one of `useFactory`, `useClass`, `useExisting`, and nothing unknown. */
export function asyncOptionsProviders(options: RedisLockModuleAsyncOptions): {
  provider: OptionsProvider;
  more: Provider[];
} {
  const given = Object.entries(anObject(options, 'forRootAsync')).filter(
    ([, value]) => value !== undefined,
  );
  for (const [option, value] of given) {
    if (!ASYNC_OPTIONS.includes(option)) {
      throw new LockConfigError(
        `Unknown option \`${option}\` of RedisLockModule.forRootAsync(). Known are: ${ASYNC_OPTIONS.join(', ')}. Options of the locks are what the factory returns.`,
        option,
        value,
      );
    }
  }
  const sources = given.map(([option]) => option).filter((option) => SOURCES.includes(option));
  if (sources.length !== 1) {
    throw new LockConfigError(
      `Expected RedisLockModule.forRootAsync() to have exactly one of ${SOURCES.join(', ')}, got ${sources.length === 0 ? 'none' : sources.join(' and ')}.`,
    );
  }
  const { useFactory, inject, useClass, useExisting } = options;
  if (useFactory !== undefined) {
    return { provider: { provide: LOCKER_OPTIONS, useFactory, inject: inject ?? [] }, more: [] };
  }
  const factory = useExisting ?? (useClass as Type<RedisLockOptionsFactory>);
  return {
    provider: {
      provide: LOCKER_OPTIONS,
      useFactory: (made: RedisLockOptionsFactory) => made.createRedisLockOptions(),
      inject: [factory],
    },
    more: useClass === undefined ? [] : [useClass],
  };
}

const LOCKER_OPTIONS = Symbol('options of RedisLockModule');
const SOURCES = ['useFactory', 'useClass', 'useExisting'];
const ASYNC_OPTIONS = [...SOURCES, 'inject', 'imports', 'name', 'isGlobal', 'exceptionFilter'];

type OptionsProvider = ValueProvider<LockerOptions> | FactoryProvider<LockerOptions>;

function severalInstances(count: number, name: string | undefined): LockConfigError {
  return new LockConfigError(
    `RedisLockModule was set up ${count} times ${name === undefined ? 'without a name' : `with the name '${name}'`}. Give each further instance a name of its own, or import the one dynamic module everywhere.`,
    'name',
    name,
  );
}

function flag(option: string, value: unknown): boolean {
  // Both are on by default.
  if (value === undefined) return true;
  if (typeof value === 'boolean') return value;
  throw new LockConfigError(
    `Expected option \`${option}\` to be true or false, got ${String(value)}.`,
    option,
    value,
  );
}

function anObject<T>(options: T, method: string): T {
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) return options;
  throw new LockConfigError(
    `Expected RedisLockModule.${method}() to be given an object of options, got ${options === null ? 'null' : typeof options}.`,
  );
}
