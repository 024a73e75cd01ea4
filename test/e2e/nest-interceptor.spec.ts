import type { AddressInfo, Server } from 'node:net';
import { PassThrough, Readable } from 'node:stream';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  Get,
  Inject,
  Injectable,
  type NestInterceptor,
  NotFoundException,
  Param,
  type PipeTransform,
  Query,
  Sse,
  StreamableFile,
  UseInterceptors,
} from '@nestjs/common';
import { APP_INTERCEPTOR, ExternalContextCreator } from '@nestjs/core';
import { ClientProxyFactory, MessagePattern, Transport } from '@nestjs/microservices';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import {
  firstValueFrom,
  interval,
  map,
  NEVER,
  Observable,
  retry,
  Subject,
  take,
  tap,
  timeout,
} from 'rxjs';

import {
  CurrentLock,
  DistributedLock,
  type Lock,
  LockConfigError,
  LockKey,
  RedisLockInterceptor,
  RedisLockService,
} from '../../lib/index.js';
import { holdAnswer } from '../../lib/nest/held-body.js';
import { eventually } from '../support/eventually.js';
import { Gate, NestApp } from '../support/nest-app.js';
import { RedisServer } from '../support/redis-server.js';

/** What the handlers of a test share with it. A key has one of each. */
@Injectable()
class Stage {
  readonly #gates = new Map<string, Gate>();
  readonly #subjects = new Map<string, Subject<unknown>>();
  readonly entered: string[] = [];
  readonly unsubscribed: string[] = [];
  running = 0;
  most = 0;

  gate(id: string): Gate {
    let gate = this.#gates.get(id);
    if (gate === undefined) this.#gates.set(id, (gate = new Gate()));
    return gate;
  }

  subject(id: string): Subject<unknown> {
    let subject = this.#subjects.get(id);
    if (subject === undefined) this.#subjects.set(id, (subject = new Subject()));
    return subject;
  }

  /** The subject's values; notes down who subscribes and unsubscribes. */
  values(id: string): Observable<unknown> {
    return new Observable((subscriber) => {
      this.entered.push(id);
      const subscription = this.subject(id).subscribe(subscriber);
      return () => {
        subscription.unsubscribe();
        this.unsubscribed.push(id);
      };
    });
  }
}

/** Gives chunks one by one, and ends or fails when it's told to. */
class SlowFile extends Readable {
  static readonly opened = new Map<string, SlowFile>();

  constructor(readonly id: string) {
    super({ read: () => {} });
    SlowFile.opened.set(id, this);
    this.push('begin ');
  }
}

@Controller()
class Handlers {
  constructor(
    @Inject(Stage) private readonly stage: Stage,
    @Inject(RedisLockService) private readonly locks: RedisLockService,
  ) {}

  @Get('turn/:id')
  @LockKey('k:{params.id}')
  async turn(): Promise<void> {
    const { stage } = this;
    stage.running += 1;
    stage.most = Math.max(stage.most, stage.running);
    await new Promise((resolve) => setImmediate(resolve));
    stage.running -= 1;
  }

  @Get('promise/:id')
  @LockKey('k:{params.id}')
  async promise(@Param('id') id: string): Promise<unknown> {
    this.stage.entered.push(id);
    await this.stage.gate(id).opened;
    return { current: this.locks.current()?.key };
  }

  @Get('shared/:id')
  @LockKey('k:{params.id}', { mode: 'shared' })
  async shared(@Param('id') id: string): Promise<void> {
    this.stage.entered.push(`shared ${id}`);
    await this.stage.gate(`shared ${id}`).opened;
  }

  @Get('failing/:id')
  @LockKey('k:{params.id}')
  async failing(): Promise<never> {
    throw new NotFoundException('own');
  }

  @Get('unguarded/:id')
  unguarded(): unknown {
    return { current: this.locks.current()?.key ?? null };
  }

  @Get('current/:id')
  @LockKey('k:{params.id}')
  current(@Param('id') _id: string, @CurrentLock() lock: Lock): unknown {
    return {
      key: lock.key,
      held: lock.isHeld,
      fence: lock.fencingToken > 0,
      same: lock === this.locks.current(),
    };
  }

  @Get('values/:id')
  @LockKey('k:{params.id}')
  values(@Param('id') id: string): Observable<unknown> {
    return this.stage.values(id);
  }

  @Sse('sse/:id')
  @LockKey('k:{params.id}')
  sse(@Param('id') id: string): Observable<unknown> {
    return this.stage.values(id);
  }

  @Sse('decorated-sse/:id')
  @DistributedLock('k:{0}')
  decoratedSse(@Param('id') id: string): Observable<unknown> {
    return this.stage.values(id);
  }

  @Get('file/:id')
  @LockKey('k:{params.id}')
  file(@Param('id') id: string): StreamableFile {
    return new StreamableFile(new SlowFile(id));
  }

  @Get('decorated-file/:id')
  @DistributedLock('k:{0}')
  async decoratedFile(@Param('id') id: string): Promise<StreamableFile> {
    return new StreamableFile(new SlowFile(id));
  }

  @Get('buffer/:id')
  @LockKey('k:{params.id}')
  async buffer(): Promise<StreamableFile> {
    return new StreamableFile(Buffer.from('all of it'));
  }

  @Get('both/:id')
  @LockKey('k:{params.id}')
  @DistributedLock('k:{0}')
  both(@Param('id') _id: string, @CurrentLock() lock?: Lock): unknown {
    return { key: lock?.key, held: lock?.isHeld };
  }

  @Get('both-values/:id')
  @DistributedLock('k:{0}')
  @LockKey('k:{params.id}')
  bothValues(@Param('id') id: string): Observable<unknown> {
    return this.stage.values(id);
  }

  @Get('skip/:id')
  @LockKey('k:{params.id}', { onBusy: 'skip' })
  skip(@Param('id') id: string): string {
    this.stage.entered.push(`skip ${id}`);
    return 'ran';
  }

  @Sse('skip-sse/:id')
  @LockKey('k:{params.id}', { onBusy: 'skip' })
  skipSse(@Param('id') id: string): Observable<unknown> {
    return this.stage.values(`skip ${id}`);
  }

  @Get('overstay/:id')
  @LockKey('k:{params.id}', { maxHold: 150 })
  async overstay(@CurrentLock() lock: Lock, @Query('fail') fail?: string): Promise<string> {
    await new Promise((resolve) => lock.signal.addEventListener('abort', resolve));
    if (fail !== undefined) throw new NotFoundException('own');
    return 'done';
  }

  @Get('overstay-values/:id')
  @LockKey('k:{params.id}', { maxHold: 150 })
  overstayValues(@Param('id') _id: string, @CurrentLock() lock: Lock): Observable<string> {
    return new Observable((subscriber) => {
      lock.signal.addEventListener('abort', () => setImmediate(() => subscriber.next('too late')));
    });
  }

  @Get('overstay-empty-file/:id')
  @LockKey('k:{params.id}', { maxHold: 150 })
  overstayEmptyFile(): StreamableFile {
    return new StreamableFile(new Readable({ read: () => {} }));
  }

  @Sse('overstay-sse/:id')
  @LockKey('k:{params.id}', { maxHold: 150 })
  overstaySse(): Observable<unknown> {
    return NEVER;
  }

  @Get('overstay-file/:id')
  @LockKey('k:{params.id}', { maxHold: 150 })
  overstayFile(@Param('id') id: string): StreamableFile {
    return new StreamableFile(new SlowFile(id));
  }

  @Get('generator/:id')
  @LockKey('k:{params.id}')
  async *generator(@Param('id') id: string): AsyncGenerator<string> {
    yield `${this.locks.current()?.key} `;
    await this.stage.gate(id).opened;
    yield `${this.locks.current()?.key}`;
  }

  @Get('response/:id')
  @LockKey('k:{params.id}')
  response(@Param('id') id: string): Response {
    return new Response(ReadableStream.from(this.chunks(id)), {
      status: 202,
      headers: { 'x-own': 'yes' },
    });
  }

  private async *chunks(id: string): AsyncGenerator<Uint8Array> {
    yield Buffer.from('one ');
    await this.stage.gate(id).opened;
    yield Buffer.from('two');
  }
}

const adapters = [
  ['Express', undefined],
  ['Fastify', () => new FastifyAdapter()],
] as const;

function handlersApp(adapter?: (() => FastifyAdapter) | undefined) {
  return NestApp.start({
    controllers: [Handlers],
    providers: [Stage],
    ...(adapter === undefined ? {} : { adapter: adapter() }),
  });
}

/** A response of which the test reads as much as it wants, and which it may leave. */
class Reader implements AsyncDisposable {
  readonly #controller = new AbortController();
  text = '';
  failed = false;
  readonly ended: Promise<void>;

  constructor(app: NestApp, path: string) {
    this.ended = this.#read(app, path);
  }

  async #read(app: NestApp, path: string): Promise<void> {
    try {
      const response = await app.fetch(path, { signal: this.#controller.signal });
      for await (const chunk of response.body ?? [])
        this.text += Buffer.from(chunk as Uint8Array).toString();
    } catch {
      this.failed = true;
    }
  }

  leave(): void {
    this.#controller.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.leave();
    await this.ended;
  }
}

describe.each(adapters)('A handler with @LockKey, on %s', (_, adapter) => {
  it('runs once at a time for one key', async () => {
    await using app = await handlersApp(adapter);
    const answers = await Promise.all(Array.from({ length: 10 }, () => app.fetch('/turn/1')));
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 200));
    expect(app.get(Stage).most).toBe(1);
  });

  it('holds the lock until its promise settles, and answers after the release', async () => {
    await using app = await handlersApp(adapter);
    const stage = app.get(Stage);
    const answer = app.fetch('/promise/1');
    await eventually(() => stage.entered.length === 1);
    expect(await app.isHeld('k:1')).toBe(true);
    stage.gate('1').open();
    expect(await (await answer).json()).toEqual({ current: 'k:1' });
    expect(await app.isHeld('k:1')).toBe(false);
  });

  it("runs beside others where each has `mode: 'shared'`, and keeps one out that wants to be alone", async () => {
    await using app = await handlersApp(adapter);
    const stage = app.get(Stage);
    const shared = [app.fetch('/shared/1'), app.fetch('/shared/1')];
    await eventually(() => stage.entered.length === 2, { message: 'both are in at once' });
    expect((await app.locks.inspect('k:1')).held).toMatchObject([
      { access: 'shared' },
      { access: 'shared' },
    ]);
    const alone = app.fetch('/promise/1');
    await eventually(async () => (await app.waiting('k:1')) === 1);
    expect(stage.entered).toEqual(['shared 1', 'shared 1']);
    stage.gate('shared 1').open();
    for (const answer of await Promise.all(shared)) expect(answer.status).toBe(200);
    await eventually(() => stage.entered.length === 3, { message: 'it is its turn' });
    expect((await app.locks.inspect('k:1')).held).toMatchObject([{ access: 'exclusive' }]);
    stage.gate('1').open();
    expect((await alone).status).toBe(200);
    expect(await app.isHeld('k:1')).toBe(false);
  });

  it('passes its own exception through, and gives the lock back', async () => {
    await using app = await handlersApp(adapter);
    const response = await app.fetch('/failing/1');
    expect([response.status, await response.json()]).toEqual([
      404,
      expect.objectContaining({ message: 'own' }),
    ]);
    expect(await app.isHeld('k:1')).toBe(false);
  });

  it('gets its lock through @CurrentLock', async () => {
    await using app = await handlersApp(adapter);
    expect(await (await app.fetch('/current/1')).json()).toEqual({
      key: 'k:1',
      held: true,
      fence: true,
      same: true,
    });
  });

  it('that is also decorated with the same key runs, with the same lock', async () => {
    await using app = await handlersApp(adapter);
    expect(await (await app.fetch('/both/1')).json()).toEqual({ key: 'k:1', held: true });
    expect(await app.isHeld('k:1')).toBe(false);
  });

  it.each(['values', 'both-values'])(
    'holds the lock until its Observable completes: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      const answer = app.fetch(`/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      stage.subject('1').next({ n: 1 });
      expect(await app.isHeld('k:1')).toBe(true);
      stage.subject('1').next({ n: 2 });
      stage.subject('1').complete();
      expect(await (await answer).json()).toEqual({ n: 2 });
      expect(await app.isHeld('k:1')).toBe(false);
    },
  );

  it.each(['values', 'both-values'])(
    'holds the lock until its Observable fails: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      const answer = app.fetch(`/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      stage.subject('1').error(new NotFoundException('own'));
      expect((await answer).status).toBe(404);
      expect(await app.isHeld('k:1')).toBe(false);
    },
  );

  it.each(['values', 'both-values'])(
    'gives the lock back when the client of its Observable leaves: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      await using reader = new Reader(app, `/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      expect(await app.isHeld('k:1')).toBe(true);
      reader.leave();
      await eventually(async () => !(await app.isHeld('k:1')));
      expect(stage.unsubscribed).toEqual(['1']);
    },
  );

  it.each(['sse', 'decorated-sse'])(
    'holds the lock until its event stream completes: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      await using reader = new Reader(app, `/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      stage.subject('1').next({ data: 'one' });
      await eventually(() => reader.text.includes('data: one'));
      expect(await app.isHeld('k:1')).toBe(true);
      stage.subject('1').complete();
      await reader.ended;
      expect(reader.failed).toBe(false);
      expect(await app.isHeld('k:1')).toBe(false);
    },
  );

  it.each(['sse', 'decorated-sse'])(
    'holds the lock until its event stream fails: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      await using reader = new Reader(app, `/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      stage.subject('1').next({ data: 'one' });
      await eventually(() => reader.text.includes('data: one'));
      stage.subject('1').error(new NotFoundException('own'));
      await reader.ended;
      expect(reader.text).toMatch(/event: error[^]*data: own/);
      expect(await app.isHeld('k:1')).toBe(false);
    },
  );

  it.each(['sse', 'decorated-sse'])(
    'gives the lock back when the client of its event stream leaves: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      const stage = app.get(Stage);
      await using reader = new Reader(app, `/${path}/1`);
      await eventually(() => stage.entered.length === 1);
      stage.subject('1').next({ data: 'one' });
      await eventually(() => reader.text.includes('data: one'));
      expect(await app.isHeld('k:1')).toBe(true);
      reader.leave();
      await eventually(async () => !(await app.isHeld('k:1')));
      expect(stage.unsubscribed).toEqual(['1']);
    },
  );

  it.each(['file', 'decorated-file'])(
    'holds the lock until its file has been read to the end: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      await using reader = new Reader(app, `/${path}/end`);
      await eventually(() => reader.text === 'begin ');
      expect(await app.isHeld('k:end')).toBe(true);
      SlowFile.opened.get('end')?.push('end');
      SlowFile.opened.get('end')?.push(null);
      await reader.ended;
      expect([reader.text, reader.failed]).toEqual(['begin end', false]);
      await eventually(async () => !(await app.isHeld('k:end')));
    },
  );

  it.each(['file', 'decorated-file'])(
    'gives the lock back when its file fails: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      await using reader = new Reader(app, `/${path}/fails`);
      await eventually(() => reader.text === 'begin ');
      SlowFile.opened.get('fails')?.destroy(new Error('disk'));
      await reader.ended;
      await eventually(async () => !(await app.isHeld('k:fails')));
    },
  );

  it.each(['file', 'decorated-file'])(
    'gives the lock back when the client of its file leaves: /%s',
    async (path) => {
      await using app = await handlersApp(adapter);
      await using reader = new Reader(app, `/${path}/leaves`);
      await eventually(() => reader.text === 'begin ');
      expect(await app.isHeld('k:leaves')).toBe(true);
      reader.leave();
      await eventually(async () => !(await app.isHeld('k:leaves')));
      expect(SlowFile.opened.get('leaves')?.destroyed).toBe(true);
    },
  );

  it('sends a file of bytes, and gives the lock back', async () => {
    await using app = await handlersApp(adapter);
    expect(await (await app.fetch('/buffer/1')).text()).toBe('all of it');
    await eventually(async () => !(await app.isHeld('k:1')));
  });

  it("isn't run where the key is held and it may skip: the answer is empty", async () => {
    await using app = await handlersApp(adapter);
    const held = await app.locks.acquire('k:1');
    const response = await app.fetch('/skip/1');
    expect([response.status, await response.text()]).toEqual([200, '']);
    const events = await app.fetch('/skip-sse/1');
    expect(events.status).toBe(200);
    expect((await events.text()).trim()).toBe('');
    expect(app.get(Stage).entered).toEqual([]);
    await held.release();
    expect(await (await app.fetch('/skip/1')).text()).toBe('ran');
  });

  it("isn't run when its client left while it waited, and leaves nothing behind", async () => {
    await using app = await handlersApp(adapter);
    const stage = app.get(Stage);
    const held = await app.locks.acquire('k:1');
    for (const path of ['/promise/1', '/sse/1', '/values/1', '/file/waiting']) {
      const key = path.endsWith('1') ? 'k:1' : 'k:waiting';
      await using other = key === 'k:1' ? undefined : await app.locks.acquire(key);
      void other;
      await using reader = new Reader(app, path);
      await eventually(async () => (await app.waiting(key)) === 1);
      reader.leave();
      await eventually(async () => (await app.waiting(key)) === 0);
    }
    await held.release();
    expect(await app.isHeld('k:1')).toBe(false);
    expect(stage.entered).toEqual([]);
    expect(SlowFile.opened.has('waiting')).toBe(false);
  });

  it('is a 500 in place of its result if the lock was lost, but keeps its own exception', async () => {
    await using app = await handlersApp(adapter);
    const lost = await app.fetch('/overstay/1');
    expect([lost.status, await lost.json()]).toEqual([
      500,
      {
        statusCode: 500,
        error: 'Internal Server Error',
        code: 'LOCK_LOST',
        message: 'Internal server error',
      },
    ]);
    expect((await app.fetch('/overstay/2?fail=1')).status).toBe(404);
  });

  it('is a 500 if the lock was lost before the first value of its Observable', async () => {
    await using app = await handlersApp(adapter);
    const lost = await app.fetch('/overstay-values/1');
    expect([lost.status, await lost.json()]).toEqual([
      500,
      expect.objectContaining({ code: 'LOCK_LOST' }),
    ]);
  });

  it('fails its event stream at once if the lock is lost', async () => {
    await using app = await handlersApp(adapter);
    await using reader = new Reader(app, '/overstay-sse/1');
    await reader.ended;
    expect(reader.text).toContain('event: error');
  });

  it('cuts its file short if the lock is lost: it does not look complete', async () => {
    await using app = await handlersApp(adapter);
    await using reader = new Reader(app, '/overstay-file/lost');
    await reader.ended;
    expect([reader.text, reader.failed]).toEqual(['begin ', true]);
    expect(SlowFile.opened.get('lost')?.destroyed).toBe(true);
  });

  it.each([
    ['an async generator', '/generator/1', 'k:1 k:1'],
    ['a web Response', '/response/1', 'one two'],
  ])('holds the lock until %s has ended, where Nest sends it', async (_what, path, text) => {
    await using app = await handlersApp(adapter);
    await using reader = new Reader(app, path);
    await eventually(() => reader.text !== '');
    expect(await app.isHeld('k:1')).toBe(true);
    app.get(Stage).gate('1').open();
    await reader.ended;
    expect(reader.text).toBe(text);
    await eventually(async () => !(await app.isHeld('k:1')));
  });

  it.each(['/generator/1', '/response/1'])(
    'gives the lock back when the client leaves: %s',
    async (path) => {
      await using app = await handlersApp(adapter);
      await using reader = new Reader(app, path);
      await eventually(() => reader.text !== '');
      reader.leave();
      // A generator that awaits can't be stopped before its next step.
      await reader.ended;
      app.get(Stage).gate('1').open();
      await eventually(async () => !(await app.isHeld('k:1')));
    },
  );
});

@Controller('by-class')
@LockKey('class:{params.id}')
class ByClass {
  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  @Get('class/:id')
  ofClass(): unknown {
    return { key: this.locks.current()?.key };
  }

  @Get('own/:id')
  @LockKey('own:{params.id}')
  own(): unknown {
    return { key: this.locks.current()?.key };
  }
}

@Controller('derived')
class Derived extends ByClass {}

@Injectable()
class Slow {
  readonly gate = new Gate();
  started = 0;
  attempts = 0;
}

class GivesUp implements NestInterceptor {
  intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(timeout(50));
  }
}

class Retries implements NestInterceptor {
  intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(retry(2));
  }
}

@Controller('slow')
class SlowController {
  constructor(
    @Inject(Slow) private readonly slow: Slow,
    @Inject(RedisLockService) private readonly locks: RedisLockService,
  ) {}

  @Get('promise')
  @UseInterceptors(GivesUp, RedisLockInterceptor)
  @LockKey('slow')
  async promise(): Promise<string> {
    this.slow.started += 1;
    await this.slow.gate.opened;
    return 'done';
  }

  @Get('inner')
  @UseInterceptors(GivesUp)
  @LockKey('slow')
  async givenUpInside(): Promise<string> {
    return this.promise();
  }

  @Get('retried')
  @UseInterceptors(Retries, RedisLockInterceptor)
  @LockKey('retried')
  async retried(): Promise<unknown> {
    this.slow.attempts += 1;
    const key = this.locks.current()?.key;
    if (this.slow.attempts < 3) throw new Error('again');
    return { key };
  }
}

@Controller('slow-class')
@UseInterceptors(GivesUp, RedisLockInterceptor)
@LockKey('slow')
class SlowByClass {
  constructor(@Inject(Slow) private readonly slow: Slow) {}

  @Get('promise')
  async promise(): Promise<string> {
    this.slow.started += 1;
    await this.slow.gate.opened;
    return 'done';
  }
}

describe('RedisLockInterceptor', () => {
  it("applies to the handlers of a controller; a handler's own @LockKey wins", async () => {
    await using app = await NestApp.start({ controllers: [ByClass, Derived] });
    expect(await (await app.fetch('/by-class/class/1')).json()).toEqual({ key: 'class:1' });
    expect(await (await app.fetch('/by-class/own/1')).json()).toEqual({ key: 'own:1' });
    expect(await (await app.fetch('/derived/class/1')).json()).toEqual({ key: 'class:1' });
  });

  it.each<[string, Parameters<typeof NestApp.start>[0]]>([
    [
      'by APP_INTERCEPTOR',
      { providers: [Stage, { provide: APP_INTERCEPTOR, useClass: RedisLockInterceptor }] },
    ],
    [
      'by useGlobalInterceptors',
      {
        providers: [Stage],
        prepare: (app) => app.useGlobalInterceptors(app.get(RedisLockInterceptor)),
      },
    ],
  ])(
    'applies globally, %s, once to a handler with @LockKey and not to others',
    async (_, options) => {
      await using app = await NestApp.start({ ...options, controllers: [Handlers] });
      const acquired: string[] = [];
      app.locks.on('acquired', ({ key }) => acquired.push(key));
      expect(await (await app.fetch('/current/1')).json()).toMatchObject({
        key: 'k:1',
        held: true,
      });
      expect(await (await app.fetch('/unguarded/1')).json()).toEqual({ current: null });
      expect(acquired).toEqual(['k:1']);
    },
  );

  it.each(['/slow/promise', '/slow-class/promise', '/slow/inner'])(
    'keeps the lock while the handler goes on that a timeout outside or inside has given up: %s',
    async (path) => {
      await using app = await NestApp.start({
        controllers: [SlowController, SlowByClass],
        providers: [Slow],
      });
      const slow = app.get(Slow);
      expect((await app.fetch(path)).status).toBe(500);
      expect(slow.started).toBe(1);
      expect(await app.isHeld('slow')).toBe(true);
      slow.gate.open();
      await eventually(async () => !(await app.isHeld('slow')));
    },
  );

  it('never runs a handler whose parameters were ready only after the lock was given back', async () => {
    const asked = new Gate();
    const ready = new Gate();
    const ran: boolean[] = [];
    class SlowPipe implements PipeTransform {
      async transform(value: unknown): Promise<unknown> {
        asked.open();
        await ready.opened;
        return value;
      }
    }
    @Controller()
    @UseInterceptors(GivesUp)
    class Piped {
      @Get('piped/:id')
      @LockKey('piped')
      piped(@Param('id', new SlowPipe()) _id: string, @CurrentLock() lock?: Lock): void {
        ran.push(lock?.isHeld ?? false);
      }
    }
    await using app = await NestApp.start({ controllers: [Piped] });
    expect((await app.fetch('/piped/1')).status).toBe(500);
    await asked.opened;
    await eventually(async () => !(await app.isHeld('piped')));
    ready.open();
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    expect(ran).toEqual([]);
  });

  it("answers with a handler's result after the release, and with a stream's values before it", async () => {
    const order: string[] = [];
    class NotesDown implements NestInterceptor {
      intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
        return next.handle().pipe(tap((value) => order.push(String(value))));
      }
    }
    @Controller()
    @UseInterceptors(NotesDown, RedisLockInterceptor)
    @LockKey('key')
    class Results {
      @Get('promise')
      async promise(): Promise<string> {
        return 'result';
      }

      @Get('values')
      values(): Observable<string> {
        return interval(5).pipe(
          map((n) => `value ${n}`),
          take(2),
        );
      }
    }
    await using app = await NestApp.start({ controllers: [Results] });
    app.locks.on('released', () => order.push('released'));
    await (await app.fetch('/promise')).text();
    expect(order.splice(0)).toEqual(['released', 'result']);
    await (await app.fetch('/values')).text();
    expect(order).toEqual(['value 0', 'released', 'value 1']);
  });

  it("doesn't run the handler of a call that was given up just when the lock was granted", async () => {
    let ran = false;
    let unsubscribe = () => {};
    class Leaves implements NestInterceptor {
      intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
        return new Observable((subscriber) => {
          const subscription = next.handle().subscribe((value) => subscriber.next(value));
          unsubscribe = () => {
            subscription.unsubscribe();
            subscriber.next('left');
            subscriber.complete();
          };
        });
      }
    }
    @Controller()
    class Left {
      @Get('left')
      @UseInterceptors(Leaves, RedisLockInterceptor)
      @LockKey('key')
      left(): void {
        ran = true;
      }
    }
    await using app = await NestApp.start({ controllers: [Left] });
    app.locks.on('acquired', () => unsubscribe());
    expect(await (await app.fetch('/left')).text()).toBe('left');
    await eventually(async () => !(await app.isHeld('key')));
    expect(ran).toBe(false);
  });

  it('ends a file with its response, also where the adapter would leave it open', async () => {
    await using app = await NestApp.start({});
    await using lock = await app.locks.acquire('key');
    const [file, response] = [new SlowFile('left open'), new PassThrough()];
    const held = holdAnswer(new StreamableFile(file), lock, response);
    file.pipe(response);
    response.destroy();
    await held?.ended;
    expect(file.destroyed).toBe(true);
    const late = holdAnswer(new StreamableFile(new SlowFile('late')), lock, response);
    await late?.ended;
  });

  it('answers a file with a 500 if the lock was lost before anything was sent', async () => {
    await using app = await handlersApp();
    expect((await app.fetch('/overstay-empty-file/1')).status).toBe(500);
  });

  it('asks the key function once per call, however often it applies', async () => {
    const asked: string[] = [];
    @Controller()
    class Once {
      @Get('once')
      @UseInterceptors(RedisLockInterceptor)
      @LockKey(() => {
        asked.push('once');
        return 'once';
      })
      once(): string {
        return 'answer';
      }
    }
    await using app = await NestApp.start({
      controllers: [Once],
      providers: [{ provide: APP_INTERCEPTOR, useClass: RedisLockInterceptor }],
    });
    expect(await (await app.fetch('/once')).text()).toBe('answer');
    expect(asked).toEqual(['once']);
  });

  it('takes the lock anew for each try of an outer retry', async () => {
    await using app = await NestApp.start({ controllers: [SlowController], providers: [Slow] });
    const acquired: string[] = [];
    app.locks.on('acquired', ({ key }) => acquired.push(key));
    expect(await (await app.fetch('/slow/retried')).json()).toEqual({ key: 'retried' });
    expect(acquired).toEqual(['retried', 'retried', 'retried']);
  });
});

@Controller()
class Messages {
  constructor(
    @Inject(Stage) private readonly stage: Stage,
    @Inject(RedisLockService) private readonly locks: RedisLockService,
  ) {}

  @MessagePattern('current')
  @LockKey('rpc:{data.id}')
  current(): unknown {
    return this.locks.current()?.key;
  }

  @MessagePattern('values')
  @LockKey('rpc:{data.id}')
  values(data: { id: string }): Observable<unknown> {
    return this.stage.values(data.id);
  }

  @MessagePattern('busy')
  @LockKey('rpc:{data.id}', { onBusy: 'throw' })
  busy(): string {
    return 'ran';
  }
}

@Injectable()
class Resolver {
  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  @LockKey(
    (context) => `${context.getType<string>()}:${context.getArgByIndex<{ id: string }>(1).id}`,
  )
  async resolve(): Promise<string | undefined> {
    return this.locks.current()?.key;
  }

  @LockKey('graphql:{args.id}', { onBusy: 'throw' })
  async busy(): Promise<string> {
    return 'ran';
  }
}

describe('A handler with @LockKey beyond HTTP', () => {
  async function rpcApp() {
    const app = await NestApp.start({ controllers: [Messages], providers: [Stage] });
    const service = app.app.connectMicroservice(
      { transport: Transport.TCP, options: { host: '127.0.0.1', port: 0 } },
      { inheritAppConfig: true },
    );
    await app.app.startAllMicroservices();
    const { port } = service.unwrap<Server>().address() as AddressInfo;
    const client = ClientProxyFactory.create({
      transport: Transport.TCP,
      options: { host: '127.0.0.1', port },
    });
    return {
      app,
      client,
      async [Symbol.asyncDispose]() {
        await client.close();
        await app[Symbol.asyncDispose]();
      },
    };
  }

  it('locks for a message, and holds until its Observable completes', async () => {
    await using rpc = await rpcApp();
    const { app, client } = rpc;
    expect(await firstValueFrom(client.send<unknown>('current', { id: '1' }))).toBe('rpc:1');
    const seen: unknown[] = [];
    const completed = new Gate();
    client
      .send<unknown>('values', { id: '2' })
      .subscribe({ next: (value) => seen.push(value), complete: completed.open });
    const stage = app.get(Stage);
    await eventually(() => stage.entered.length === 1);
    stage.subject('2').next('one');
    await eventually(() => seen.length === 1);
    expect(await app.isHeld('rpc:2')).toBe(true);
    stage.subject('2').complete();
    await completed.opened;
    expect(await app.isHeld('rpc:2')).toBe(false);
  });

  it('answers a message whose key is held with the code of the error', async () => {
    await using rpc = await rpcApp();
    await using held = await rpc.app.locks.acquire('rpc:1');
    await expect(firstValueFrom(rpc.client.send('busy', { id: '1' }))).rejects.toMatchObject({
      status: 'error',
      code: 'LOCK_BUSY',
      message: expect.stringContaining(held.key),
    });
  });

  it.each(['graphql', 'ws'])('locks in a %s context', async (type) => {
    await using app = await NestApp.start({ providers: [Resolver] });
    const resolver = app.get(Resolver);
    const handler = app.app
      .get(ExternalContextCreator)
      .create(
        resolver,
        resolver.resolve,
        'resolve',
        undefined,
        undefined,
        undefined,
        undefined,
        undefined,
        type,
      );
    expect(await handler(null, { id: '1' }, {}, {})).toBe(`${type}:1`);
  });
});

describe('A guarded handler, on Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await RedisServer.start();
  });
  afterAll(async () => {
    await redis.stop();
  });

  const scriptCalls = async () => {
    const stats = await redis.command('INFO', 'commandstats');
    return [...stats.matchAll(/cmdstat_(?:evalsha|eval):calls=(\d+)/g)].reduce(
      (sum, [, calls]) => sum + Number(calls),
      0,
    );
  };

  it('by interceptor and decorator on the same key locks once: one acquire and one release', async () => {
    await using app = await NestApp.start({
      locks: { connection: redis.url },
      controllers: [Handlers],
      providers: [Stage],
    });
    await app.fetch('/both/warm-up');
    const before = await scriptCalls();
    expect(await (await app.fetch('/both/1')).json()).toEqual({ key: 'k:1', held: true });
    expect((await scriptCalls()) - before).toBe(2);
  });

  it.each(['/promise/1', '/decorated/1'])(
    'keeps its result when Redis is gone at the release: %s',
    async (path) => {
      @Controller()
      class Decorated {
        constructor(@Inject(Stage) private readonly stage: Stage) {}

        @Get('decorated/:id')
        @DistributedLock('k:{0}')
        async decorated(@Param('id') id: string): Promise<unknown> {
          this.stage.entered.push(id);
          await this.stage.gate(id).opened;
          return { current: 'k:1' };
        }
      }
      await using server = await RedisServer.start();
      await using app = await NestApp.start({
        locks: { connection: server.url, commandTimeout: 200 },
        controllers: [Handlers, Decorated],
        providers: [Stage],
      });
      const failures: string[] = [];
      app.locks.on('releaseFailed', ({ key }) => failures.push(key));
      const stage = app.get(Stage);
      const answer = app.fetch(path);
      await eventually(() => stage.entered.length === 1);
      await server.kill();
      stage.gate('1').open();
      const response = await answer;
      expect([response.status, await response.json()]).toEqual([200, { current: 'k:1' }]);
      expect(failures).toEqual(['k:1']);
    },
  );
});

describe('Misuse of @LockKey', () => {
  const decorate = LockKey('key') as (...args: unknown[]) => void;
  class Some {
    static forAll(): void {}
    get value(): number {
      return 1;
    }
  }

  it.each<[string, unknown[], RegExp]>([
    [
      'a getter',
      [Some.prototype, 'value', Object.getOwnPropertyDescriptor(Some.prototype, 'value')],
      /accessor 'value'/,
    ],
    [
      'a static method',
      [Some, 'forAll', Object.getOwnPropertyDescriptor(Some, 'forAll')],
      /static member 'forAll'/,
    ],
    ['a property', [Some.prototype, 'field', undefined], /property 'field'/],
  ])('on %s is a LockConfigError when the class is defined', (_, args, message) => {
    expect(() => decorate(...args)).toThrow(LockConfigError);
    expect(() => decorate(...args)).toThrow(message);
  });

  it('with wrong options is a LockConfigError when the class is defined', () => {
    expect(() => LockKey('key', { ttl: 1 })).toThrow(LockConfigError);
    expect(() => LockKey('key', { waitTime: 1 } as object)).toThrow(LockConfigError);
  });
});
