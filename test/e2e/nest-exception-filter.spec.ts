import { describe, expect, it } from '@jest/globals';
import {
  type ArgumentsHost,
  Catch,
  Controller,
  type ExceptionFilter,
  Get,
  Param,
  type Type,
  UseFilters,
} from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { isObservable, lastValueFrom } from 'rxjs';

import {
  LockBusyError,
  LockConfigError,
  LockError,
  LockKeyError,
  LockLostError,
  LockTimeoutError,
  LockUnavailableError,
  RedisLockExceptionFilter,
} from '../../lib/index.js';
import { inMemory, NestApp, type NestAppOptions } from '../support/nest-app.js';

/** As the other copy of this package, ESM or CommonJS, makes it: of another class, with the same brand. */
class ForeignLockError extends Error {
  override readonly name = 'LockBusyError';
  readonly code = 'LOCK_BUSY';
  readonly key = 'foreign';
  readonly remaining = 2_500;

  constructor(message?: string) {
    super(message);
    Object.defineProperty(this, Symbol.for('nestjs-redis-lock.LockError'), { value: true });
  }
}

const ERRORS: Record<string, () => unknown> = {
  busy: () => new LockBusyError('k'),
  'busy-for-long': () => new LockBusyError('k', 4_200),
  'busy-for-ever': () => new LockBusyError('k', -1),
  timeout: () => new LockTimeoutError('k', 10),
  guarded: () => new LockUnavailableError('k', 'guard', undefined, { retryAfter: 12_001 }),
  unavailable: () =>
    new LockUnavailableError('k', 'unreachable', new Error('10.0.0.7:6379 refused')),
  lost: () => new LockLostError('k', 'expired', 42),
  key: () => new LockKeyError('The part {body.id} is missing.'),
  config: () => new LockConfigError('Expected option `ttl` …', 'ttl', 1),
  foreign: () => new ForeignLockError('held elsewhere'),
  other: () => new Error('not ours'),
};

@Controller()
class Fails {
  @Get(':error')
  fail(@Param('error') error: string): never {
    throw ERRORS[error]?.();
  }
}

@Catch()
class Teapot implements ExceptionFilter {
  catch(exception: Error, host: ArgumentsHost): void {
    const response = host
      .switchToHttp()
      .getResponse<{ status(code: number): { send(body: unknown): void } }>();
    response.status(418).send({ by: exception.name });
  }
}

const failing = (options: NestAppOptions = {}) =>
  NestApp.start({ controllers: [Fails], ...options });

describe.each([
  ['Express', undefined],
  ['Fastify', () => new FastifyAdapter()],
])('A lock error that reaches HTTP, on %s', (_, adapter) => {
  const INTERNAL = {
    statusCode: 500,
    error: 'Internal Server Error',
    message: 'Internal server error',
  };
  it.each<[string, number, string | null, object]>([
    [
      'busy',
      409,
      '1',
      { error: 'Conflict', code: 'LOCK_BUSY', message: expect.stringContaining('"k" is held') },
    ],
    ['busy-for-long', 409, '5', { code: 'LOCK_BUSY' }],
    ['busy-for-ever', 409, '1', { code: 'LOCK_BUSY' }],
    [
      'timeout',
      409,
      '1',
      { code: 'LOCK_TIMEOUT', message: expect.stringContaining('within 10 ms') },
    ],
    [
      'unavailable',
      503,
      '1',
      {
        error: 'Service Unavailable',
        code: 'LOCK_UNAVAILABLE',
        message: expect.not.stringContaining('Redis'),
      },
    ],
    ['guarded', 503, '13', { code: 'LOCK_UNAVAILABLE' }],
    ['lost', 500, null, { ...INTERNAL, code: 'LOCK_LOST' }],
    [
      'key',
      400,
      null,
      { error: 'Bad Request', code: 'LOCK_KEY', message: 'The part {body.id} is missing.' },
    ],
    ['config', 500, null, { ...INTERNAL, code: 'LOCK_CONFIG' }],
    ['foreign', 409, '3', { code: 'LOCK_BUSY', message: 'held elsewhere' }],
  ])('is answered: %s is %d, Retry-After %s', async (error, status, retryAfter, body) => {
    await using app = await failing(adapter === undefined ? {} : { adapter: adapter() });
    const response = await app.fetch(`/${error}`);
    expect([response.status, response.headers.get('retry-after')]).toEqual([status, retryAfter]);
    expect(await response.json()).toMatchObject({ statusCode: status, ...body });
  });
});

describe("A user's own filter", () => {
  @Controller()
  @UseFilters(Teapot)
  class WithFilter extends Fails {}

  it.each<[string, NestAppOptions]>([
    ['of a controller', { controllers: [WithFilter] }],
    ['by useGlobalFilters', { prepare: (app) => app.useGlobalFilters(new Teapot()) }],
    [
      'by APP_FILTER, with exceptionFilter: false',
      {
        locks: inMemory({ exceptionFilter: false }),
        providers: [{ provide: APP_FILTER, useClass: Teapot }],
      },
    ],
  ])('%s answers lock errors in place of ours', async (_, options) => {
    await using app = await failing(options);
    const response = await app.fetch('/busy');
    expect([response.status, await response.json()]).toEqual([418, { by: 'LockBusyError' }]);
  });

  it('by APP_FILTER for all other errors leaves lock errors to ours', async () => {
    await using app = await failing({ providers: [{ provide: APP_FILTER, useClass: Teapot }] });
    expect((await app.fetch('/busy')).status).toBe(409);
    expect((await app.fetch('/other')).status).toBe(418);
  });

  it('is not needed: without any, exceptionFilter: false makes a lock error a 500', async () => {
    await using app = await failing({ locks: inMemory({ exceptionFilter: false }) });
    expect((await app.fetch('/busy')).status).toBe(500);
  });
});

describe('RedisLockExceptionFilter beyond HTTP', () => {
  const filter = new RedisLockExceptionFilter(undefined as never);
  const hostOf = (type: string, client?: unknown) =>
    ({
      getType: () => type,
      switchToWs: () => ({ getClient: () => client }),
    }) as unknown as ArgumentsHost;
  const busy = new LockBusyError('k');
  const told = { status: 'error', code: 'LOCK_BUSY', message: busy.message };

  it('gives an RPC caller the error as its answer', async () => {
    const answer = filter.catch(busy, hostOf('rpc'));
    if (!isObservable(answer)) throw new TypeError('expected an Observable');
    await expect(lastValueFrom(answer)).rejects.toEqual(told);
  });

  it('emits an exception to a WebSocket client', () => {
    const emitted: unknown[] = [];
    expect(
      filter.catch(busy, hostOf('ws', { emit: (...args: unknown[]) => emitted.push(args) })),
    ).toBeUndefined();
    expect(emitted).toEqual([['exception', told]]);
  });

  it('returns the error to GraphQL', () => {
    expect(filter.catch(busy, hostOf('graphql'))).toBe(busy);
  });

  it('catches the lock errors of every copy of the package, and nothing else', () => {
    const [caught] = Reflect.getMetadata('__filterCatchExceptions__', RedisLockExceptionFilter) as [
      Type,
    ];
    expect(busy instanceof caught).toBe(true);
    expect(new ForeignLockError() instanceof caught).toBe(true);
    expect(LockError.is(new ForeignLockError())).toBe(true);
    expect(new Error('LOCK_BUSY') instanceof caught).toBe(false);
    expect({ code: 'LOCK_BUSY' } instanceof caught).toBe(false);
  });
});
