import 'reflect-metadata';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type DynamicModule,
  Inject,
  Injectable,
  type LoggerService,
  Module,
  type ModuleMetadata,
} from '@nestjs/common';
import { Test, type TestingModule } from '@nestjs/testing';
import { Redis } from 'ioredis';

import {
  DistributedLock,
  getRedisLockToken,
  InjectRedisLock,
  LockConfigError,
  type LockerOptions,
  LockKey,
  RedisLockModule,
  type RedisLockModuleAsyncOptions,
  type RedisLockModuleOptions,
  type RedisLockOptionsFactory,
  RedisLockService,
} from '../../lib/index.js';
import { eventually } from '../support/eventually.js';
import { inMemory } from '../support/nest-app.js';
import { RedisServer } from '../support/redis-server.js';

/** What the application's log was told, as `level text`. */
class Lines implements LoggerService {
  readonly lines: string[] = [];
  readonly log = (message: string) => void this.lines.push(`log ${message}`);
  readonly warn = (message: string) => void this.lines.push(`warn ${message}`);
  readonly error = (message: string) => void this.lines.push(`error ${message}`);
  readonly debug = (message: string) => void this.lines.push(`debug ${message}`);

  of(level: string): string[] {
    return this.lines.filter((line) => line.startsWith(`${level} `));
  }
}

async function boot(imports: NonNullable<ModuleMetadata['imports']>, more: ModuleMetadata = {}) {
  const lines = new Lines();
  const module: TestingModule = await Test.createTestingModule({ imports, ...more })
    .setLogger(lines)
    .compile();
  await module.init();
  return {
    lines,
    get: <T = RedisLockService>(token: Parameters<TestingModule['get']>[0] = RedisLockService) =>
      module.get(token, { strict: false }) as T,
    [Symbol.asyncDispose]: () => module.close(),
  };
}

const locked = async (locks: RedisLockService, key = 'key') =>
  locks.using(key, async (lock) => [lock.key, (await locks.inspect(key)).held.length]);

@Injectable()
class Settings implements RedisLockOptionsFactory {
  static made = 0;
  used = 0;

  constructor() {
    Settings.made += 1;
  }

  async createRedisLockOptions(): Promise<LockerOptions> {
    this.used += 1;
    return inMemory();
  }
}

@Module({
  providers: [Settings, { provide: 'PREFIX', useValue: 'shop' }],
  exports: [Settings, 'PREFIX'],
})
class SettingsModule {}

describe('RedisLockModule', () => {
  const setUps: [string, () => DynamicModule][] = [
    ['forRoot', () => RedisLockModule.forRoot(inMemory())],
    [
      'forRootAsync with useFactory',
      () => RedisLockModule.forRootAsync({ useFactory: () => inMemory() }),
    ],
    [
      'forRootAsync with an asynchronous useFactory, imports and inject',
      () =>
        RedisLockModule.forRootAsync({
          imports: [SettingsModule],
          inject: ['PREFIX'],
          useFactory: async (prefix: string) => inMemory({ prefix }),
        }),
    ],
    ['forRootAsync with useClass', () => RedisLockModule.forRootAsync({ useClass: Settings })],
    [
      'forRootAsync with useExisting',
      () => RedisLockModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings }),
    ],
  ];
  it.each(setUps)('gives a working service by %s', async (_, setUp) => {
    await using app = await boot([setUp()]);
    expect(await locked(app.get())).toEqual(['key', 1]);
  });

  it('uses the very instance with useExisting, and makes no second', async () => {
    Settings.made = 0;
    await using app = await boot([
      RedisLockModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings }),
    ]);
    expect([Settings.made, app.get<Settings>(Settings).used]).toEqual([1, 1]);
  });

  it('takes its options as the defaults of every lock', async () => {
    await using app = await boot([
      RedisLockModule.forRoot(inMemory({ onBusy: 'throw', ttl: '30s' })),
    ]);
    const locks = app.get();
    await using held = await locks.acquire('key');
    expect(held.remaining).toBeGreaterThan(29_000);
    await expect(locks.acquire('key')).rejects.toMatchObject({ code: 'LOCK_BUSY' });
    await using other = await locks.acquire('other', { ttl: 500 });
    expect(other.remaining).toBeLessThan(500);
  });

  it('gives the service: using, acquire, tryAcquire, query, current and events', async () => {
    await using app = await boot([RedisLockModule.forRoot(inMemory())]);
    const locks = app.get();
    const released: string[] = [];
    const stop = locks.on('released', ({ key }) => released.push(key));
    expect(await locks.using('key', async (lock) => locks.current('key') === lock)).toBe(true);
    expect(await locks.using('key', { onBusy: 'skip' }, () => 1)).toBe(1);
    const lock = await locks.tryAcquire('key');
    expect(await locks.tryAcquire('key')).toBeNull();
    expect((await locks.inspect('key')).held).toHaveLength(1);
    expect(await lock?.release()).toBe('released');
    stop();
    await locks.using('key', () => {});
    expect(released).toEqual(['key', 'key', 'key']);
    await expect(locks.using('key', {} as never)).rejects.toBeInstanceOf(LockConfigError);
  });

  it('is global by default; with isGlobal: false only who imports it can inject it', async () => {
    @Module({
      providers: [
        { provide: 'FEATURE', useFactory: (locks: unknown) => locks, inject: [RedisLockService] },
      ],
    })
    class Feature {}
    await using app = await boot([RedisLockModule.forRoot(inMemory()), Feature]);
    expect(app.get('FEATURE')).toBe(app.get());

    const local = RedisLockModule.forRoot(inMemory({ isGlobal: false }));
    await expect(boot([local, Feature])).rejects.toThrow(/RedisLockService/);
    @Module({ imports: [local, Feature] })
    class Importing {}
    await expect(boot([Importing])).rejects.toThrow(/RedisLockService/);
    @Module({
      imports: [local],
      providers: [
        { provide: 'FEATURE', useFactory: (locks: unknown) => locks, inject: [RedisLockService] },
      ],
    })
    class Owner {}
    // Imported twice, it's still one instance.
    await using owned = await boot([Owner, local]);
    expect(owned.get('FEATURE')).toBe(owned.get());
  });
});

@Injectable()
class Named {
  constructor(
    @InjectRedisLock('orders') readonly orders: RedisLockService,
    @InjectRedisLock() readonly standard: RedisLockService,
    @Inject(getRedisLockToken('stock')) readonly stock: RedisLockService,
  ) {}

  @DistributedLock('key', { instance: 'orders' })
  async ordersKey(): Promise<string | undefined> {
    return this.orders.current()?.key;
  }
}

describe('RedisLockService in tests', () => {
  it('can be replaced: decorated methods use what stands in for it', async () => {
    @Injectable()
    class Shop {
      @DistributedLock('shop:{0}', { ttl: '1m' })
      async buy(id: string): Promise<string> {
        return id;
      }
    }
    const calls: unknown[] = [];
    const using = async (key: string, options: object, work: (lock: object) => unknown) => {
      calls.push([key, options]);
      return work({});
    };
    const module = await Test.createTestingModule({
      imports: [RedisLockModule.forRoot({ connection: 'redis://not-there.invalid' })],
      providers: [Shop],
    })
      .overrideProvider(RedisLockService)
      .useValue({ using })
      .compile();
    expect(await module.get(Shop).buy('a')).toBe('a');
    expect(calls).toEqual([['shop:a', { ttl: '1m' }]]);
    await module.close();
  });
});

describe('Named instances', () => {
  it('live side by side, each with its own options', async () => {
    await using app = await boot(
      [
        RedisLockModule.forRoot(inMemory()),
        RedisLockModule.forRoot(inMemory({ name: 'orders', prefix: 'orders' })),
        RedisLockModule.forRootAsync({
          name: 'stock',
          useFactory: () => inMemory({ prefix: 'stock' }),
        }),
      ],
      { providers: [Named] },
    );
    const { orders, standard, stock, ...named } = app.get<Named>(Named);
    void named;
    expect(new Set([orders, standard, stock]).size).toBe(3);
    expect(standard).toBe(app.get());
    expect(await orders.using('key', () => standard.using('key', () => locked(stock)))).toEqual([
      'key',
      1,
    ]);
    expect(await app.get<Named>(Named).ordersKey()).toBe('key');
  });

  it.each([undefined, 'orders'])(
    'that share the name %p are a LockConfigError at boot',
    async (name) => {
      const options = name === undefined ? inMemory() : inMemory({ name });
      await expect(
        boot([RedisLockModule.forRoot(options), RedisLockModule.forRoot(options)]),
      ).rejects.toMatchObject({
        name: 'LockConfigError',
        message: expect.stringMatching(/set up 2 times .*(without a name|with the name 'orders')/),
      });
    },
  );

  it('that @LockKey names must exist: else the boot fails', async () => {
    class Handlers {
      @LockKey('key', { instance: 'orders' })
      handle(): void {}
    }
    await expect(
      boot([RedisLockModule.forRoot(inMemory())], { providers: [Handlers] }),
    ).rejects.toThrow(/forRoot\({ name: 'orders' }\)/);
  });

  it.each(['', ' ', 7])('have a name: %p is a LockConfigError', (name) => {
    expect(() => getRedisLockToken(name as string)).toThrow(LockConfigError);
    expect(() => RedisLockModule.forRoot(inMemory({ name: name as string }))).toThrow(
      LockConfigError,
    );
  });
});

describe('Wrong options of the module', () => {
  it.each<[string, object, RegExp]>([
    ['no connection', {}, /`connection`.*a URL/],
    [
      'a connection that is none',
      { connection: 'localhost:6379' },
      /`connection`.*'localhost:6379'/,
    ],
    ['an unknown option', { connection: 'memory', timeout: 1 }, /Unknown option `timeout`/],
    ['a ttl below the minimum', { connection: 'memory', ttl: 99 }, /`ttl`.*from 100 ms.*got 99/],
    ['a ttl that is NaN', { connection: 'memory', ttl: Number.NaN }, /`ttl`.*NaN/],
    ['a negative ttl', { connection: 'memory', ttl: -1 }, /`ttl`.*-1/],
    ['a duration without a unit', { connection: 'memory', ttl: '10' }, /`ttl`.*'10'/],
    [
      'an endless waitTimeout',
      { connection: 'memory', waitTimeout: Number.POSITIVE_INFINITY },
      /`waitTimeout`.*Infinity/,
    ],
    ['a waitTimeout of zero', { connection: 'memory', waitTimeout: 0 }, /`waitTimeout`.*onBusy/],
    ['a wrong onBusy', { connection: 'memory', onBusy: 'queue' }, /`onBusy`.*'wait'/],
    ['a wrong renew', { connection: 'memory', renew: 'yes' }, /`renew`.*true or false/],
    ['a wrong prefix', { connection: 'memory', prefix: 'a{b}' }, /`prefix`/],
    ['a wrong commandTimeout', { connection: 'memory', commandTimeout: 1 }, /`commandTimeout`/],
    ['a wrong drainTimeout', { connection: 'memory', drainTimeout: 0 }, /`drainTimeout`/],
    [
      'a wrong requireConnection',
      { connection: 'memory', requireConnection: 1 },
      /`requireConnection`/,
    ],
    [
      'a signal',
      { connection: 'memory', signal: new AbortController().signal },
      /Unknown option `signal`/,
    ],
  ])(
    'are a LockConfigError at boot, by forRoot and by a factory: %s',
    async (_, options, message) => {
      const wrong = options as RedisLockModuleOptions;
      for (const module of [
        RedisLockModule.forRoot(wrong),
        RedisLockModule.forRootAsync({ useFactory: () => wrong }),
      ]) {
        const failed = boot([module]);
        await expect(failed).rejects.toMatchObject({
          name: 'LockConfigError',
          code: 'LOCK_CONFIG',
        });
        await expect(failed).rejects.toThrow(message);
      }
    },
  );

  it.each<[string, unknown, RegExp]>([
    ['none', undefined, /an object of options/],
    ['null', null, /an object of options/],
    ['isGlobal', inMemory({ isGlobal: 'no' as never }), /`isGlobal`/],
    ['exceptionFilter', inMemory({ exceptionFilter: 1 as never }), /`exceptionFilter`/],
  ])('are a LockConfigError of forRoot: %s', (_, options, message) => {
    expect(() => RedisLockModule.forRoot(options as RedisLockModuleOptions)).toThrow(
      LockConfigError,
    );
    expect(() => RedisLockModule.forRoot(options as RedisLockModuleOptions)).toThrow(message);
  });

  it.each<[string, unknown, RegExp]>([
    ['none', undefined, /an object of options/],
    ['no source', {}, /exactly one of .* got none/],
    [
      'two sources',
      { useFactory: () => inMemory(), useClass: Settings },
      /got useFactory and useClass/,
    ],
    ['a misspelt source', { useFatcory: () => inMemory() }, /Unknown option `useFatcory`/],
    [
      'an option of the locks',
      { useFactory: () => inMemory(), ttl: 1 },
      /Unknown option `ttl`.*factory returns/,
    ],
  ])('are a LockConfigError of forRootAsync: %s', (_, options, message) => {
    expect(() => RedisLockModule.forRootAsync(options as RedisLockModuleAsyncOptions)).toThrow(
      LockConfigError,
    );
    expect(() => RedisLockModule.forRootAsync(options as RedisLockModuleAsyncOptions)).toThrow(
      message,
    );
  });

  it("are a LockConfigError where a factory gives the module's own", async () => {
    const module = RedisLockModule.forRootAsync({ useFactory: () => inMemory({ name: 'orders' }) });
    await expect(boot([module])).rejects.toThrow(/Unknown option `name`/);
  });
});

describe('RedisLockModule and Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await RedisServer.start();
  });
  afterAll(async () => {
    await redis.stop();
  });

  it.each<[string, () => RedisLockModuleOptions['connection']]>([
    ['a URL', () => redis.url],
    ['ioredis options', () => ({ host: '127.0.0.1', port: redis.port })],
  ])('connects by %s, and closes its connections with the application', async (_, connection) => {
    const clients = async () =>
      (await redis.command('CLIENT', 'LIST')).split('\n').filter((line) => line.includes('id='))
        .length;
    const before = await clients();
    {
      await using app = await boot([RedisLockModule.forRoot({ connection: connection() })]);
      expect(await locked(app.get())).toEqual(['key', 1]);
      expect(await clients()).toBeGreaterThan(before);
    }
    await eventually(async () => (await clients()) === before);
  });

  it("leaves a caller's ioredis instance open, and works on beside it", async () => {
    const own = new Redis(redis.url);
    {
      await using app = await boot([RedisLockModule.forRoot({ connection: own })]);
      expect(await locked(app.get())).toEqual(['key', 1]);
    }
    expect(own.status).toBe('ready');
    expect(await own.ping()).toBe('PONG');
    await own.quit();
  });

  it('boots without Redis, says so once, fails calls fast, and serves when Redis is there', async () => {
    const server = await RedisServer.start();
    await server.stop();
    await using app = await boot([
      RedisLockModule.forRoot({ connection: server.url, commandTimeout: 200 }),
    ]);
    expect(app.lines.of('warn')).toEqual([expect.stringMatching(/can't be reached.*ECONNREFUSED/)]);
    const start = performance.now();
    await expect(app.get().acquire('key')).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
      reason: 'unreachable',
    });
    expect(performance.now() - start).toBeLessThan(1_000);

    await using later = await RedisServer.start({ port: server.port });
    void later;
    await eventually(() => app.lines.of('log').some((line) => line.includes('reachable again')));
    expect(await locked(app.get())).toEqual(['key', 1]);
    expect(app.lines.of('warn')).toHaveLength(1);
  });

  it('fails the boot with requireConnection, and leaves no connection behind', async () => {
    const server = await RedisServer.start();
    await server.stop();
    await expect(
      boot([
        RedisLockModule.forRoot({
          connection: server.url,
          commandTimeout: 200,
          requireConnection: true,
        }),
      ]),
    ).rejects.toMatchObject({ name: 'LockUnavailableError', reason: 'unreachable' });
    await using later = await RedisServer.start({ port: server.port });
    // Whoever still tried to connect would do so within its longest pause, one second.
    await expect(
      eventually(async () => (await later.command('CLIENT', 'LIST')).split('id=').length > 2, {
        timeout: 1_500,
      }),
    ).rejects.toThrow(/not within/);
  });

  it('tells the log of an outage once, and of each lost lock', async () => {
    await using server = await RedisServer.start();
    await using app = await boot([
      RedisLockModule.forRoot({ connection: server.url, ttl: 600, commandTimeout: 100 }),
    ]);
    const held = await Promise.all(['a', 'b', 'c'].map((key) => app.get().acquire(key)));
    await server.kill();
    await eventually(() => held.every((lock) => !lock.isHeld));
    await eventually(() => app.lines.of('error').length === 3);
    expect(app.lines.of('error').toSorted()).toEqual(
      held.map(({ key }) => expect.stringContaining(`"${key}"`) as unknown),
    );
    expect(app.lines.of('warn').filter((line) => line.includes("can't be reached"))).toHaveLength(
      1,
    );
    expect(
      app.lines.of('warn').filter((line) => line.includes('could not be renewed')),
    ).toHaveLength(1);
  });
});
