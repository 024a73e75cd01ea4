import { describe, expect, it } from '@jest/globals';
import {
  Body,
  type CanActivate,
  Controller,
  type ExecutionContext,
  Get,
  Inject,
  Injectable,
  Param,
  Post,
  UseGuards,
} from '@nestjs/common';
import fc from 'fast-check';

import {
  CurrentLock,
  DistributedLock,
  type Lock,
  LockConfigError,
  LockKey,
  RedisLockService,
} from '../../lib/index.js';
import { keyFromArguments, keyFromContext } from '../../lib/nest/lock-key.js';
import { NestApp } from '../support/nest-app.js';

describe('A key template over arguments', () => {
  it.each<[string, unknown[], string]>([
    ['report', [], 'report'],
    ['order:{0}', ['a1'], 'order:a1'],
    ['order:{0}:{1.customer.id}', ['a1', { customer: { id: 7 } }], 'order:a1:7'],
    ['order:{1}', ['unused', 12n], 'order:12'],
    ['flag:{0}', [false], 'flag:false'],
    ['first:{0.items.0.id}', [{ items: [{ id: 'x' }] }], 'first:x'],
    ['{0}-{1}', ['a', 'b'], 'a-b'],
    ['literal {{0}} {0}', ['a'], 'literal {0} a'],
    ['päckchen:{0}', ['größe 🎁'], 'päckchen:größe 🎁'],
    ['name:{0}', ['50%:{x}'], 'name:50%25%3A{x}'],
    ['{0}-{1}', ['a-b', 'c:d'], 'a%2Db-c%3Ad'],
    ['id:{0}', ['1c9e-77'], 'id:1c9e-77'],
  ])('%s over %j is %j', (template, args, key) => {
    expect(keyFromArguments(template)(args)).toBe(key);
  });

  it.each<[string, unknown[], string]>([
    ['{0}', [], 'missing'],
    ['{0}', [null], 'null'],
    ['{0}', [undefined], 'missing'],
    ['{0}', [''], 'empty'],
    ['{0}', [{ id: 1 }], 'an object'],
    ['{0}', [['a']], 'an array'],
    ['{0}', [Number.NaN], 'NaN'],
    ['{0}', [Number.POSITIVE_INFINITY], 'Infinity'],
    ['{0}', [new Date(0)], 'an object'],
    ['{0}', [Symbol('s')], 'a symbol'],
    ['{0}', [() => 'a'], 'a function'],
    ['{0.user.id}', [{}], 'missing'],
    ['{0.user.id}', [{ user: null }], 'missing'],
    ['{0.length}', ['text'], 'missing'],
    ['{0.constructor.name}', [{}], 'missing'],
    ['{0.__proto__.name}', [{}], 'missing'],
    ['{0.id}', [Object.create({ id: 'inherited' })], 'missing'],
    ['a:{0}:{1}', ['x'], 'missing'],
  ])(
    '%s over %p is a LockKeyError that names template, part and finding',
    (template, args, finding) => {
      const part = template.match(/{[^}]*}$/)?.[0] as string;
      expect(() => keyFromArguments(template)(args)).toThrow(
        expect.objectContaining({
          name: 'LockKeyError',
          code: 'LOCK_KEY',
          message: expect.stringContaining(
            `${JSON.stringify(template)} needs a value for ${part}, but it is ${finding}`,
          ),
        }),
      );
    },
  );

  it('never gives one key for two different tuples of values', () => {
    const value = fc.oneof(
      fc.string({ minLength: 1 }),
      fc.stringMatching(/^[ab:%\-3A]{1,6}$/),
      fc.integer().map(String),
    );
    const template = fc.constantFrom(
      '{0}:{1}',
      '{0}-{1}',
      'x:{0}a-b{1}:y',
      '{0}%:{1}',
      '{0}é–2{1}',
      '{0}:{1}:',
    );
    fc.assert(
      fc.property(template, fc.tuple(value, value), fc.tuple(value, value), (text, a, b) => {
        fc.pre(a[0] !== b[0] || a[1] !== b[1]);
        const keyOf = keyFromArguments(text);
        expect(keyOf(a)).not.toBe(keyOf(b));
      }),
      { numRuns: 5_000 },
    );
    expect(keyFromArguments('{0}:{1}')(['a:b', 'c'])).not.toBe(
      keyFromArguments('{0}:{1}')(['a', 'b:c']),
    );
  });

  it.each([
    ['', /non-empty/],
    ['a'.repeat(513), /at most 512 bytes/],
    ['order:{', /single {/],
    ['order:}', /single }/],
    ['order:{}', /placeholder {}/],
    ['order:{0..id}', /placeholder {0..id}/],
    ['order:{ 0 }', /placeholder { 0 }/],
    ['{0}{1}', /no punctuation mark/],
    ['{0}and{1}', /no punctuation mark/],
    ['order:{params.id}', /use @LockKey/],
    ['order:{id}', /use @LockKey/],
    [42, /a text, a template or a function/],
    [undefined, /a text, a template or a function/],
    [[], /one at least, got an empty one/],
    [['a', 7], /hold texts or templates, .* got one with 7|a number/],
    [['a', () => 'b'], /hold texts or templates/],
    [['a', ['b']], /got one with an array/],
    [['a', 'order:{'], /single {/],
  ])('that is wrong is a LockConfigError where the decorator stands: %p', (template, message) => {
    expect(() => DistributedLock(template as string)).toThrow(LockConfigError);
    expect(() => DistributedLock(template as string)).toThrow(message);
  });
});

describe('Several keys', () => {
  it.each<[unknown, unknown[], readonly string[]]>([
    [['a', 'b'], [], ['a', 'b']],
    [
      ['acc:{0}', 'acc:{1}', 'fixed'],
      ['x', 'y'],
      ['acc:x', 'acc:y', 'fixed'],
    ],
    [(from: string, to: string) => [`acc:${from}`, `acc:${to}`], ['x', 'y'], ['acc:x', 'acc:y']],
  ])('%p over %j are %j', async (source, args, keys) => {
    expect(keyFromArguments(source)(args)).toEqual(keys);
  });

  it('are held together while the decorated method or the handler runs', async () => {
    @Controller()
    class Accounts {
      @Inject(RedisLockService) readonly locks!: RedisLockService;

      @DistributedLock(['acc:{0}', 'acc:{1}'])
      async transfer(_from: string, _to: string): Promise<readonly string[] | undefined> {
        return this.locks.current()?.keys;
      }

      @Post(':from/:to')
      @LockKey(['acc:{params.from}', 'acc:{params.to}'], { mode: 'shared' })
      async show(@CurrentLock() lock: Lock): Promise<unknown> {
        return { keys: lock.keys, access: lock.access };
      }
    }
    await using app = await NestApp.start({ controllers: [Accounts] });
    expect(await app.get(Accounts).transfer('y', 'x')).toEqual(['acc:x', 'acc:y']);
    expect(await app.get(Accounts).transfer('x', 'x')).toEqual(['acc:x']);
    const shown = await app.fetch('/x/y', { method: 'POST' });
    expect(await shown.json()).toEqual({ keys: ['acc:x', 'acc:y'], access: 'shared' });
  });
});

describe('A key function', () => {
  it.each<[unknown, string]>([
    [undefined, 'missing'],
    [null, 'null'],
    [1, '1'],
    [{}, 'an object'],
    [Promise.resolve('a'), 'a promise'],
  ])('that returns no text is a LockKeyError: %p', (result, finding) => {
    expect(() => keyFromArguments(() => result)([])).toThrow(
      expect.objectContaining({
        name: 'LockKeyError',
        message: expect.stringContaining(`returned ${finding}`),
      }),
    );
  });

  it('that throws passes its own error through', () => {
    const error = new Error('own');
    expect(() =>
      keyFromArguments(() => {
        throw error;
      })([]),
    ).toThrow(error);
  });
});

@Injectable()
class SetsUser implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const request = context
      .switchToHttp()
      .getRequest<{ user?: unknown; headers: Record<string, string> }>();
    const { login } = request.headers;
    if (login !== undefined) request.user = { id: login, roles: ['buyer'] };
    return true;
  }
}

@Controller()
@UseGuards(SetsUser)
class Requests {
  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  private get key(): { key: string | undefined } {
    return { key: this.locks.current()?.key };
  }

  @Get('params/:id')
  @LockKey('params:{params.id}')
  params(): unknown {
    return this.key;
  }

  @Get('query')
  @LockKey('query:{query.x}')
  query(): unknown {
    return this.key;
  }

  @Post('body')
  @LockKey('body:{body.order.id}')
  body(): unknown {
    return this.key;
  }

  @Get('headers')
  @LockKey('tenant:{headers.X-Tenant}')
  headers(): unknown {
    return this.key;
  }

  @Get('user')
  @LockKey('user:{user.id}')
  user(): unknown {
    return this.key;
  }

  @Get('several/:id')
  @LockKey('several:{params.id}:{user.id}:{query.x}')
  several(): unknown {
    return this.key;
  }

  @Get('function')
  @LockKey(async (context) => `function:${context.getHandler().name}:${context.getClass().name}`)
  function(): unknown {
    return this.key;
  }

  @Get('bad-function')
  @LockKey((() => 42) as never)
  badFunction(): unknown {
    return this.key;
  }

  @Get('inherited')
  @LockKey('x:{constructor.name}')
  inherited(): unknown {
    return this.key;
  }

  @Get('method')
  @LockKey('x:{get.name}')
  method(): unknown {
    return this.key;
  }

  @Post('arguments')
  @DistributedLock('arguments:{0.order.id}')
  arguments(@Body() _body: unknown, @CurrentLock() lock?: Lock): unknown {
    return { key: lock?.key };
  }

  @Get('name/:name')
  @DistributedLock((name: string) => name)
  name(@Param('name') _name: string, @CurrentLock() lock?: Lock): unknown {
    return { key: lock?.key };
  }
}

describe('A key from a request', () => {
  const json = (body: unknown): RequestInit => ({
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });

  it.each<[string, RequestInit | undefined, string]>([
    ['/params/a1', undefined, 'params:a1'],
    ['/params/a%3Ab%25', undefined, 'params:a%3Ab%25'],
    ['/query?x=1', undefined, 'query:1'],
    ['/body', json({ order: { id: 5 } }), 'body:5'],
    ['/headers', { headers: { 'x-tenant': 'acme' } }, 'tenant:acme'],
    ['/user', { headers: { login: 'ada' } }, 'user:ada'],
    ['/several/1?x=2', { headers: { login: 'ada' } }, 'several:1:ada:2'],
    ['/function', undefined, 'function:function:Requests'],
    ['/arguments', json({ order: { id: 'a' } }), 'arguments:a'],
    [`/name/${encodeURIComponent('{a}:%🎁')}`, undefined, '{a}:%🎁'],
  ])('%s is that of its parts', async (path, init, key) => {
    await using app = await NestApp.start({ controllers: [Requests] });
    const response = await app.fetch(path, init);
    expect(await response.json()).toEqual({ key });
  });

  it.each<[string, RequestInit | undefined, RegExp]>([
    ['/query', undefined, /{query.x}, but it is missing/],
    ['/query?x=', undefined, /{query.x}, but it is empty/],
    ['/query?x=1&x=2', undefined, /{query.x}, but it is an array/],
    ['/body', json({}), /{body.order.id}, but it is missing/],
    ['/body', json({ order: { id: { $ne: null } } }), /{body.order.id}, but it is an object/],
    ['/body', json({ order: { id: null } }), /{body.order.id}, but it is null/],
    ['/body', json([]), /{body.order.id}, but it is missing/],
    ['/headers', undefined, /{headers.X-Tenant}, but it is missing/],
    ['/user', undefined, /{user.id}, but it is missing/],
    ['/bad-function', undefined, /returned 42/],
    ['/inherited', undefined, /{constructor.name}, but it is missing/],
    ['/method', undefined, /{get.name}, but it is missing/],
    ['/arguments', json({ order: {} }), /{0.order.id}, but it is missing/],
    [`/name/${'a'.repeat(513)}`, undefined, /at most 512 bytes/],
  ])('%s is a 400 where a part is missing or no scalar', async (path, init, message) => {
    await using app = await NestApp.start({ controllers: [Requests] });
    const response = await app.fetch(path, init);
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({
      statusCode: 400,
      error: 'Bad Request',
      code: 'LOCK_KEY',
      message: expect.stringMatching(message),
    });
  });

  /** What Nest hands an interceptor in contexts that need no server to be told apart. */
  const contextOf = (type: string, args: unknown[]) =>
    ({
      getType: () => type,
      getArgByIndex: (index: number) => args[index],
      switchToRpc: () => ({ getData: () => args[0], getContext: () => args[1] }),
      switchToWs: () => ({ getClient: () => args[0], getData: () => args[1] }),
    }) as unknown as ExecutionContext;

  it.each<[string, string, unknown[], string]>([
    ['graphql', 'order:{args.id}', [null, { id: 'a' }, {}, {}], 'order:a'],
    [
      'graphql',
      'order:{args.id}:{user.id}',
      [null, { id: 'a' }, { req: { user: { id: 1 } } }, {}],
      'order:a:1',
    ],
    [
      'graphql',
      'tenant:{headers.x-tenant}',
      [null, {}, { request: { headers: { 'x-tenant': 't' } } }, {}],
      'tenant:t',
    ],
    ['rpc', 'order:{data.id}', [{ id: 'a' }, {}], 'order:a'],
    ['rpc', 'order:{data}', ['a', {}], 'order:a'],
    ['ws', 'order:{data.id}', [{}, { id: 'a' }], 'order:a'],
    ['ws', 'client:{client.id}', [{ id: 'c1' }, {}], 'client:c1'],
  ])('is read in a %s context by %s', async (type, template, args, key) => {
    expect(await keyFromContext(template)(contextOf(type, args))).toBe(key);
  });

  it('that is missing in a graphql context is a LockKeyError', async () => {
    await expect(
      keyFromContext('user:{user.id}')(contextOf('graphql', [null, {}, {}, {}])),
    ).rejects.toMatchObject({
      name: 'LockKeyError',
    });
  });

  it.each([
    ['order:{0}', /use @DistributedLock/],
    ['order:{', /single {/],
    ['', /non-empty/],
    [undefined, /a text, a template or a function/],
  ])(
    'by a template that is wrong is a LockConfigError where the decorator stands: %p',
    (template, message) => {
      expect(() => LockKey(template as string)).toThrow(LockConfigError);
      expect(() => LockKey(template as string)).toThrow(message);
    },
  );
});
