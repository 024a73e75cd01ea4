import { Readable } from 'node:stream';

import { describe, expect, it } from '@jest/globals';
import {
  Controller,
  Get,
  Inject,
  Injectable,
  NotFoundException,
  Param,
  Post,
  Scope,
  SetMetadata,
  StreamableFile,
} from '@nestjs/common';
import { REQUEST } from '@nestjs/core';
import { Cron, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { ApiOperation, DocumentBuilder, SwaggerModule } from '@nestjs/swagger';
import { Test } from '@nestjs/testing';
import {
  firstValueFrom,
  isObservable,
  lastValueFrom,
  NEVER,
  Observable,
  of,
  Subject,
  toArray,
} from 'rxjs';

import {
  CurrentLock,
  DistributedLock,
  type Lock,
  LockConfigError,
  RedisLockModule,
  RedisLockService,
} from '../../lib/index.js';
import { eventually } from '../support/eventually.js';
import { Gate, inMemory, NestApp } from '../support/nest-app.js';

const Tagged = SetMetadata('tag', 'value');

@Injectable()
class Shop {
  readonly entered: string[] = [];
  readonly gate = new Gate();
  running = 0;
  most = 0;

  @DistributedLock('shop')
  async turn(): Promise<void> {
    this.running += 1;
    this.most = Math.max(this.most, this.running);
    await new Promise((resolve) => setImmediate(resolve));
    this.running -= 1;
  }

  @DistributedLock('slow:{0}')
  async slow(id: string): Promise<string> {
    this.entered.push(id);
    await this.gate.opened;
    return id;
  }

  @DistributedLock('catalogue', { mode: 'shared' })
  async read(): Promise<string> {
    this.entered.push('reader');
    await this.gate.opened;
    return 'read';
  }

  @DistributedLock('catalogue')
  async write(): Promise<string> {
    this.entered.push('writer');
    return 'written';
  }

  @DistributedLock('seats', { limit: 2 })
  async seat(): Promise<void> {
    this.running += 1;
    this.most = Math.max(this.most, this.running);
    await new Promise((resolve) => setTimeout(resolve, 2));
    this.running -= 1;
  }

  @DistributedLock('slow:{0}', { onBusy: 'skip' })
  async skipping(_id: string): Promise<string> {
    return 'ran';
  }

  @DistributedLock('slow:{0}', { onBusy: 'throw' })
  async throwing(_id: string): Promise<string> {
    return 'ran';
  }

  @DistributedLock('plain')
  plain(a: number, b = 2): number {
    return a + b;
  }

  @DistributedLock('failing')
  async failing(error: unknown): Promise<never> {
    throw error;
  }

  @DistributedLock('short', { maxHold: 100 })
  async overstay(error?: Error): Promise<string> {
    const lock = this.locks.current('short');
    await new Promise((resolve) => lock?.signal.addEventListener('abort', resolve));
    if (error !== undefined) throw error;
    return 'done';
  }

  @DistributedLock('nested')
  async outer(): Promise<number> {
    return this.inner();
  }

  @DistributedLock('nested')
  async inner(): Promise<number> {
    return 1;
  }

  @DistributedLock('current')
  async current(
    _before?: string,
    @CurrentLock() lock?: Lock,
  ): Promise<(string | boolean | undefined)[]> {
    return [lock?.key, lock?.isHeld, lock === this.locks.current()];
  }

  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}
}

async function shopApp() {
  return NestApp.start({ providers: [Shop] });
}

describe('A method with @DistributedLock', () => {
  it('runs once at a time for one key', async () => {
    await using app = await shopApp();
    const shop = app.get(Shop);
    await Promise.all(Array.from({ length: 20 }, () => shop.turn()));
    expect(shop.most).toBe(1);
  });

  it('runs side by side for different keys, and holds each key until its promise settles', async () => {
    await using app = await shopApp();
    const shop = app.get(Shop);
    const calls = [shop.slow('a'), shop.slow('b'), shop.slow('a')];
    await eventually(() => shop.entered.length === 2);
    expect(shop.entered.toSorted()).toEqual(['a', 'b']);
    expect(await app.isHeld('slow:a')).toBe(true);
    shop.gate.open();
    expect(await Promise.all(calls)).toEqual(['a', 'b', 'a']);
    expect(await app.isHeld('slow:a')).toBe(false);
  });

  it('runs beside other readers, and not beside a writer', async () => {
    await using app = await NestApp.start({ providers: [Shop] });
    const shop = app.get(Shop);
    const readers = [shop.read(), shop.read(), shop.read()];
    await eventually(() => shop.entered.length === 3);
    const writer = shop.write();
    await eventually(async () => (await app.waiting('catalogue')) === 1);
    shop.gate.open();
    expect(await Promise.all([...readers, writer])).toEqual(['read', 'read', 'read', 'written']);
    expect(shop.entered).toEqual(['reader', 'reader', 'reader', 'writer']);
  });

  it('runs as often at once as its limit says', async () => {
    await using app = await NestApp.start({ providers: [Shop] });
    const shop = app.get(Shop);
    await Promise.all(Array.from({ length: 10 }, () => shop.seat()));
    expect(shop.most).toBe(2);
  });

  it("isn't run and gives undefined with onBusy: 'skip', and rejects with 'throw', where the key is held", async () => {
    await using app = await shopApp();
    const shop = app.get(Shop);
    const call = shop.slow('a');
    await eventually(() => shop.entered.length === 1);
    expect(await shop.skipping('a')).toBeUndefined();
    await expect(shop.throwing('a')).rejects.toMatchObject({
      name: 'LockBusyError',
      key: 'slow:a',
    });
    shop.gate.open();
    await call;
    expect(await shop.skipping('a')).toBe('ran');
  });

  it('becomes asynchronous, and keeps its result', async () => {
    await using app = await shopApp();
    const result = app.get(Shop).plain(1) as unknown;
    expect(result).toBeInstanceOf(Promise);
    expect(await result).toBe(3);
  });

  it.each([new NotFoundException('no order'), new TypeError('broken'), 'a text', undefined])(
    'passes its own exception through untouched: %p',
    async (error) => {
      await using app = await shopApp();
      await expect(app.get(Shop).failing(error)).rejects.toBe(error);
      expect(await app.isHeld('failing')).toBe(false);
    },
  );

  it('rejects with LockLostError in place of its result if the lock was lost, but keeps its own exception', async () => {
    await using app = await shopApp();
    const shop = app.get(Shop);
    await expect(shop.overstay()).rejects.toMatchObject({
      name: 'LockLostError',
      reason: 'max-hold',
    });
    const own = new NotFoundException();
    await expect(shop.overstay(own)).rejects.toBe(own);
  });

  it('may call another method on the same key', async () => {
    await using app = await shopApp();
    expect(await app.get(Shop).outer()).toBe(1);
  });

  it('gets its lock through @CurrentLock, in whatever place, also when called with fewer arguments', async () => {
    await using app = await shopApp();
    expect(await app.get(Shop).current()).toEqual(['current', true, true]);
    expect(await app.get(Shop).current('x')).toEqual(['current', true, true]);
  });
});

class Decorated {
  @DistributedLock('above')
  @Tagged
  above(_a: unknown, _b: unknown): void {}

  @Tagged
  @DistributedLock('below')
  below(_a: unknown, _b: unknown): void {}
}

@Controller()
class RoutesAndJobs {
  readonly ran: string[] = [];

  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  @DistributedLock('get-above')
  @Get('above/:id')
  @Tagged
  @ApiOperation({ summary: 'above' })
  getAbove(@Param('id') id: string): unknown {
    return { id, held: this.locks.current()?.key };
  }

  @ApiOperation({ summary: 'below' })
  @Tagged
  @Post('below/:id')
  @DistributedLock('post-below')
  postBelow(@Param('id') id: string): unknown {
    return { id, held: this.locks.current()?.key };
  }

  @DistributedLock('cron-above')
  @Cron('* * * * * *', { name: 'above' })
  cronAbove(): void {
    this.ran.push(this.locks.current()?.key ?? 'no lock');
  }

  @Cron('* * * * * *', { name: 'below' })
  @DistributedLock('cron-below')
  cronBelow(): void {
    this.ran.push(this.locks.current()?.key ?? 'no lock');
  }

  @Get('gone')
  @DistributedLock('gone')
  gone(): never {
    throw new NotFoundException('no such order');
  }

  @Get('lock/:id')
  @DistributedLock('lock:{0}')
  withLock(@Param('id') _id: string, @CurrentLock() lock?: Lock): unknown {
    return { key: lock?.key, held: lock?.isHeld };
  }
}

describe('@DistributedLock among other decorators', () => {
  it.each(['above', 'below'] as const)(
    'stands %s one that sets metadata: name, length and metadata are intact',
    (name) => {
      const method = Decorated.prototype[name];
      expect(method.name).toBe(name);
      expect(method.length).toBe(2);
      expect(Reflect.getMetadata('tag', method)).toBe('value');
      expect(Reflect.getMetadata('design:paramtypes', Decorated.prototype, name)).toEqual([
        Object,
        Object,
      ]);
    },
  );

  it('stands above and below @Get and @Post: the routes answer, under the lock', async () => {
    await using app = await NestApp.start({ controllers: [RoutesAndJobs] });
    expect(await (await app.fetch('/above/1')).json()).toEqual({ id: '1', held: 'get-above' });
    expect(await (await app.fetch('/below/2', { method: 'POST' })).json()).toEqual({
      id: '2',
      held: 'post-below',
    });
  });

  it('stands above and below @Cron: the jobs are registered, and run under the lock', async () => {
    await using app = await NestApp.start({
      imports: [ScheduleModule.forRoot()],
      controllers: [RoutesAndJobs],
    });
    const jobs = app.get(SchedulerRegistry).getCronJobs();
    expect([...jobs.keys()].toSorted()).toEqual(['above', 'below']);
    const { ran } = app.get(RoutesAndJobs);
    await eventually(() => ran.includes('cron-above') && ran.includes('cron-below'));
    expect(ran).not.toContain('no lock');
  });

  it("stands above and below Swagger's: the document has both routes", async () => {
    await using app = await NestApp.start({ controllers: [RoutesAndJobs] });
    const { paths } = SwaggerModule.createDocument(app.app, new DocumentBuilder().build());
    expect(paths['/above/{id}']?.get?.summary).toBe('above');
    expect(paths['/below/{id}']?.post?.summary).toBe('below');
    expect(paths['/above/{id}']?.get?.parameters).toHaveLength(1);
  });

  it("leaves a handler's NotFoundException a 404", async () => {
    await using app = await NestApp.start({ controllers: [RoutesAndJobs] });
    const response = await app.fetch('/gone');
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ message: 'no such order' });
  });

  it('fills @CurrentLock of a handler', async () => {
    await using app = await NestApp.start({ controllers: [RoutesAndJobs] });
    expect(await (await app.fetch('/lock/7')).json()).toEqual({ key: 'lock:7', held: true });
  });
});

@Injectable()
class Base {
  @DistributedLock('base:{0}')
  async inherited(_id: string, @CurrentLock() lock?: Lock): Promise<string | undefined> {
    return lock?.key;
  }

  @DistributedLock('base-overridden')
  async overridden(): Promise<string[]> {
    return ['base'];
  }

  @DistributedLock('base-guarded')
  async guarded(@CurrentLock() argument?: unknown): Promise<unknown> {
    return argument;
  }

  @DistributedLock('base-bare')
  async bare(@CurrentLock() argument?: unknown): Promise<unknown> {
    return argument;
  }
}

@Injectable()
class Derived extends Base {
  constructor(@Inject(RedisLockService) readonly locks: RedisLockService) {
    super();
  }

  @DistributedLock('derived')
  override async overridden(): Promise<string[]> {
    return [this.locks.current('derived')?.key ?? 'no lock', ...(await super.overridden())];
  }

  override async bare(argument?: unknown): Promise<unknown> {
    return [argument, this.locks.current()];
  }

  @DistributedLock('derived-guarded')
  override async guarded(argument?: unknown): Promise<unknown> {
    return argument;
  }
}

@Injectable({ scope: Scope.REQUEST })
class PerRequest {
  constructor(@Inject(REQUEST) private readonly request: { url: string }) {}

  @DistributedLock('per-request')
  async url(@CurrentLock() lock?: Lock): Promise<string> {
    return `${this.request.url} under ${lock?.key}`;
  }
}

@Controller()
class PerRequestController {
  constructor(@Inject(PerRequest) private readonly service: PerRequest) {}

  @Get('scoped/:id')
  @DistributedLock('scoped:{0}')
  get(@Param('id') _id: string): Promise<string> {
    return this.service.url();
  }
}

@Injectable()
class Counter {
  readonly gate = new Gate();
  entered = 0;

  @DistributedLock('counter')
  async count(): Promise<void> {
    this.entered += 1;
    await this.gate.opened;
  }
}

describe('@DistributedLock and the instances of a class', () => {
  it('guards inherited methods, and overriding ones only where they are decorated themselves', async () => {
    await using app = await NestApp.start({ providers: [Derived] });
    const derived = app.get(Derived);
    expect(await derived.inherited('1')).toBe('base:1');
    expect(await derived.overridden()).toEqual(['derived', 'base']);
    expect(await derived.bare('own')).toEqual(['own', undefined]);
    expect(await derived.guarded('own')).toBe('own');
  });

  it('guards request-scoped providers and controllers', async () => {
    await using app = await NestApp.start({
      controllers: [PerRequestController],
      providers: [PerRequest],
    });
    const answers = await Promise.all(
      ['1', '2'].map(async (id) => (await app.fetch(`/scoped/${id}`)).text()),
    );
    expect(answers).toEqual(['/scoped/1 under per-request', '/scoped/2 under per-request']);
  });

  it('gives each of two applications in a process its own locks, also after one was closed', async () => {
    await using first = await NestApp.start({
      locks: inMemory({ prefix: 'first' }),
      providers: [Counter],
    });
    await using second = await NestApp.start({
      locks: inMemory({ prefix: 'second' }),
      providers: [Counter],
    });
    const counters = [first.get(Counter), second.get(Counter)];
    const calls = counters.map((counter) => counter.count());
    // With one service for both, and hence one prefix, the second call would wait for the first.
    await eventually(() => counters.every(({ entered }) => entered === 1));
    for (const { gate } of counters) gate.open();
    await Promise.all(calls);
    await first.app.close();
    await second.get(Counter).count();
    expect(counters[1]?.entered).toBe(2);
    await expect(counters[0]?.count()).rejects.toMatchObject({
      name: 'LockUnavailableError',
      reason: 'shutting-down',
    });
  });

  it.each([
    ['made by `new`', () => new Counter().count()],
    ['called on nothing', () => (0, Counter.prototype.count)()],
  ])('rejects with LockConfigError where the instance was %s', async (_, call) => {
    await expect(call()).rejects.toMatchObject({
      name: 'LockConfigError',
      code: 'LOCK_CONFIG',
      message: expect.stringMatching(/'count'.*RedisLockService\.using/),
    });
  });

  it('rejects with LockConfigError where the instance was made by a useFactory with `new`', async () => {
    await using app = await NestApp.start({
      providers: [{ provide: Counter, useFactory: () => new Counter() }],
    });
    await expect(app.get(Counter).count()).rejects.toBeInstanceOf(LockConfigError);
  });

  it('fails the boot where the module is missing, and says what to import', async () => {
    const boot = Test.createTestingModule({ providers: [Counter] }).compile();
    await expect(boot).rejects.toThrow(/import RedisLockModule\.forRoot\(\)/);
  });

  it('uses a named instance, and fails the boot where there is none of the name', async () => {
    @Injectable()
    class Orders {
      @DistributedLock('order', { instance: 'orders' })
      async key(@CurrentLock() lock?: Lock): Promise<string | undefined> {
        return lock?.key;
      }
    }
    await using app = await NestApp.start({
      locks: false,
      imports: [RedisLockModule.forRoot(inMemory({ name: 'orders' }))],
      providers: [Orders],
    });
    expect(await app.get(Orders).key()).toBe('order');
    const boot = Test.createTestingModule({
      imports: [RedisLockModule.forRoot(inMemory())],
      providers: [Orders],
    }).compile();
    await expect(boot).rejects.toThrow(/forRoot\({ name: 'orders' }\)/);
  });
});

describe('Misuse of @DistributedLock', () => {
  // As a compiler calls decorators; the types of ours don't let these through.
  const decorate = DistributedLock('key') as (...args: unknown[]) => void;
  class Some {
    static forAll(): void {}
    get value(): number {
      return 1;
    }
    *values(): Generator<number> {
      yield 1;
    }
    method(): void {}
  }
  const ofPrototype = (name: string) => Object.getOwnPropertyDescriptor(Some.prototype, name);

  it.each<[string, unknown[], RegExp]>([
    ['a getter', [Some.prototype, 'value', ofPrototype('value')], /accessor 'value'/],
    [
      'a static method',
      [Some, 'forAll', Object.getOwnPropertyDescriptor(Some, 'forAll')],
      /static member 'forAll'/,
    ],
    ['a property', [Some.prototype, 'field', undefined], /property 'field'/],
    ['a class', [Some], /a class/],
    ['a parameter', [Some.prototype, 'method', 0], /parameter of 'method'/],
    ['a constructor parameter', [Some, undefined, 0], /constructor parameter/],
    ['a generator', [Some.prototype, 'values', ofPrototype('values')], /generator 'values'/],
    [
      'what a standard decorator stands on',
      [Some.prototype.method, { kind: 'method', name: 'method' }],
      /experimentalDecorators/,
    ],
  ])('on %s is a LockConfigError when the class is defined', (_, args, message) => {
    expect(() => decorate(...args)).toThrow(LockConfigError);
    expect(() => decorate(...args)).toThrow(message);
  });

  it.each<[string, unknown, RegExp]>([
    ['an unknown option', { waitTime: 1 }, /Unknown option `waitTime`/],
    ['a ttl below the minimum', { ttl: 1 }, /`ttl`.*100 ms/],
    ['an endless waitTimeout', { waitTimeout: Number.POSITIVE_INFINITY }, /`waitTimeout`/],
    ['an unknown onBusy', { onBusy: 'ignore' }, /`onBusy`.*'wait', 'skip', 'throw'/],
    ['no object', null, /an object/],
  ])('with %s is a LockConfigError when the class is defined', (_, options, message) => {
    expect(() => DistributedLock('key', options as object)).toThrow(LockConfigError);
    expect(() => DistributedLock('key', options as object)).toThrow(message);
  });

  it('with an instance name that is none is a LockConfigError', () => {
    const onMethod = DistributedLock('key', { instance: ' ' }) as (...args: unknown[]) => void;
    expect(() => onMethod(Some.prototype, 'method', ofPrototype('method'))).toThrow(
      LockConfigError,
    );
  });

  it('of @CurrentLock on a constructor is a LockConfigError', () => {
    expect(() => CurrentLock()(Some, undefined, 0)).toThrow(LockConfigError);
  });
});

@Injectable()
class Streams {
  readonly subject = new Subject<number>();
  readonly closed = new Gate();

  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  @DistributedLock('stream')
  numbers(): Observable<number> {
    return this.subject;
  }

  @DistributedLock('stream')
  contexts(): Observable<string | undefined> {
    return new Observable((subscriber) => {
      subscriber.next(this.locks.current()?.key);
      subscriber.complete();
    });
  }

  @DistributedLock('unread', { ttl: 100 })
  never(): Observable<number> {
    return NEVER;
  }

  @DistributedLock('unread', { ttl: 100 })
  async *neverIterated(): AsyncGenerator<number> {
    yield 1;
  }

  @DistributedLock('unread', { ttl: 100 })
  async neverRead(): Promise<StreamableFile> {
    return new StreamableFile(Readable.from(['text']));
  }

  @DistributedLock('stream')
  async fetched(): Promise<Response> {
    return new Response('text');
  }

  @DistributedLock('stream', { maxHold: 100 })
  endless(): Observable<number> {
    return NEVER;
  }

  @DistributedLock('stream')
  async *generated(): AsyncGenerator<string | undefined> {
    try {
      yield this.locks.current()?.key;
      yield 'two';
    } finally {
      this.closed.open();
    }
  }

  @DistributedLock('stream')
  of(): Observable<number> {
    return of(1, 2, 3);
  }
}

describe('A method with @DistributedLock that gives a stream', () => {
  type Asynchronous<T> = Promise<T>;
  const streams = async () => {
    const app = await NestApp.start({ providers: [Streams] });
    return {
      app,
      streams: app.get(Streams),
      [Symbol.asyncDispose]: () => app[Symbol.asyncDispose](),
    };
  };
  /** What a method gives at run time; its declared type is synchronous. */
  const call = <T>(result: T) => result as unknown as Asynchronous<T>;

  it('holds the lock until its Observable completes, and is told so after the release', async () => {
    await using all = await streams();
    const numbers = await call(all.streams.numbers());
    const seen: number[] = [];
    const completed = new Gate();
    let heldAtCompletion: boolean | undefined;
    numbers.subscribe({
      next: (value) => seen.push(value),
      complete: () =>
        void all.app.isHeld('stream').then((held) => {
          heldAtCompletion = held;
          completed.open();
        }),
    });
    all.streams.subject.next(1);
    await eventually(() => seen.length === 1);
    expect(await all.app.isHeld('stream')).toBe(true);
    all.streams.subject.next(2);
    all.streams.subject.complete();
    await completed.opened;
    expect(seen).toEqual([1, 2]);
    expect(heldAtCompletion).toBe(false);
  });

  it('delivers all values, also where they come with the completion', async () => {
    await using all = await streams();
    expect(await lastValueFrom((await call(all.streams.of())).pipe(toArray()))).toEqual([1, 2, 3]);
  });

  it("holds the lock until its Observable fails, with the Observable's own error", async () => {
    await using all = await streams();
    const numbers = await call(all.streams.numbers());
    const failure = firstValueFrom(numbers);
    const error = new Error('own');
    all.streams.subject.error(error);
    await expect(failure).rejects.toBe(error);
    expect(await all.app.isHeld('stream')).toBe(false);
  });

  it('holds the lock until its last subscription is gone; a later one fails with LockLostError', async () => {
    await using all = await streams();
    const numbers = await call(all.streams.numbers());
    const [first, second] = [numbers.subscribe(), numbers.subscribe()];
    first.unsubscribe();
    expect(await all.app.isHeld('stream')).toBe(true);
    second.unsubscribe();
    await eventually(async () => !(await all.app.isHeld('stream')));
    await expect(firstValueFrom(numbers)).rejects.toMatchObject({
      name: 'LockLostError',
      reason: 'released',
    });
  });

  it('subscribes within the call chain of the lock', async () => {
    await using all = await streams();
    expect(await lastValueFrom(await call(all.streams.contexts()))).toBe('stream');
  });

  it.each(['never', 'neverIterated', 'neverRead'] as const)(
    'gives the lock back if nobody reads it within the ttl; a later reader gets LockLostError: %s',
    async (name) => {
      await using all = await streams();
      const result: unknown = await all.streams[name]();
      expect(await all.app.isHeld('unread')).toBe(true);
      await eventually(async () => !(await all.app.isHeld('unread')));
      const read =
        result instanceof StreamableFile
          ? result.getStream().toArray()
          : isObservable(result)
            ? firstValueFrom(result)
            : (result as AsyncGenerator).next();
      const error: unknown = await Promise.resolve(read).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ name: 'LockLostError' });
      // Expired, where the machine stood still for longer than the ttl.
      expect(['released', 'expired']).toContain((error as { reason: string }).reason);
    },
  );

  it('fails with LockLostError as soon as the lock is lost', async () => {
    await using all = await streams();
    const endless = await call(all.streams.endless());
    await expect(firstValueFrom(endless)).rejects.toMatchObject({
      name: 'LockLostError',
      reason: 'max-hold',
    });
  });

  it('gives the lock back at once where its result only happens to have a body', async () => {
    await using all = await streams();
    const response = await all.streams.fetched();
    expect(await all.app.isHeld('stream')).toBe(false);
    expect(await response.text()).toBe('text');
  });

  it('holds the lock until its async generator has ended, and runs its body under it', async () => {
    await using all = await streams();
    const generated = await call(all.streams.generated());
    const seen: (string | undefined)[] = [];
    for await (const value of generated) {
      seen.push(value);
      expect(await all.app.isHeld('stream')).toBe(true);
    }
    expect(seen).toEqual(['stream', 'two']);
    await eventually(async () => !(await all.app.isHeld('stream')));
  });

  it('gives the lock back when the consumer of its async generator stops early', async () => {
    await using all = await streams();
    for await (const _ of await call(all.streams.generated())) break;
    await all.streams.closed.opened;
    await eventually(async () => !(await all.app.isHeld('stream')));
  });
});
