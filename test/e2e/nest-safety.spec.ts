/**
 * What an application is told at its boot of how safe its locks are, and `safety: 'strict'`, which doesn't let it start.
 */
import 'reflect-metadata';

import type { LoggerService } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

import { RedisLockModule, type RedisLockModuleOptions, RedisLockService } from '../../lib/index.js';
import { RedisServer } from '../support/redis-server.js';

let unsafe: RedisServer;
let safe: RedisServer;

beforeAll(async () => {
  [unsafe, safe] = await Promise.all([
    RedisServer.start({ args: ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru'] }),
    RedisServer.start({ persistence: 'aof' }),
  ]);
});

afterAll(async () => {
  await Promise.all([unsafe.stop(), safe.stop()]);
});

/** What our part of the log was told, as `level text`. */
class Lines implements LoggerService {
  readonly lines: string[] = [];
  readonly log = this.#of('log');
  readonly warn = this.#of('warn');
  readonly error = this.#of('error');
  readonly debug = this.#of('debug');

  #of(level: string) {
    return (message: string, context?: string) => {
      if (context?.startsWith('RedisLock')) this.lines.push(`${level} ${message}`);
    };
  }
}

async function boot(options: RedisLockModuleOptions) {
  const lines = new Lines();
  const module = await Test.createTestingModule({ imports: [RedisLockModule.forRoot(options)] })
    .setLogger(lines)
    .compile();
  await module.init();
  return {
    // What is told of Nest's own classes begins with the module's name as well.
    lines: lines.lines.filter((line) => !line.includes('dependencies initialized')),
    locks: module.get(RedisLockService),
    [Symbol.asyncDispose]: () => module.close(),
  };
}

describe('At its boot an application', () => {
  it('is told in one line that all is well', async () => {
    await using app = await boot({ connection: safe.url });
    expect(app.lines).toEqual([
      'log Locks keep P1 to P3 over restart, failover and eviction on the server.',
    ]);
  });

  it('is told of each weakness in a line, with what to change and where', async () => {
    await using app = await boot({ connection: unsafe.url });
    expect(app.lines).toEqual([
      expect.stringMatching(
        /^warn P1, P2 under server-restart: .*neither AOF nor RDB.*`guard: true`.* \[127\.0\.0\.1:\d+\]$/,
      ),
      expect.stringMatching(
        /^warn P1, P2 under eviction: .*allkeys-lru.*`maxmemory-policy noeviction`.* \[127\.0\.0\.1:\d+\]$/,
      ),
    ]);
  });

  it('is told as a note what could not be found out', async () => {
    await safe.command(...['ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-config']);
    const { port } = safe;
    await using app = await boot({
      connection: { host: '127.0.0.1', port, username: 'app', password: 'pw' },
    });
    expect(app.lines).toEqual([
      expect.stringMatching(/^log P1, P2 under server-restart: .*CONFIG GET was refused/),
    ]);
  });

  it("is told nothing with safety: 'off'", async () => {
    await using app = await boot({ connection: unsafe.url, safety: 'off' });
    expect(app.lines).toEqual([]);
  });

  it('is told that memory excludes nobody outside', async () => {
    await using app = await boot({ connection: 'memory' });
    expect(app.lines).toEqual([
      'log Locks are in the memory of this process, and exclude nobody outside of it.',
    ]);
  });

  it('starts without Redis, and is told of that alone', async () => {
    const server = await RedisServer.start();
    await server.stop();
    await using app = await boot({ connection: server.url, commandTimeout: 300 });
    expect(app.lines).toEqual([expect.stringMatching(/^warn Redis can't be reached/)]);
  });
});

describe("safety: 'strict'", () => {
  it('does not let it start, and names everything that is to be changed', async () => {
    const failed = boot({ connection: unsafe.url, safety: 'strict', guard: false });
    await expect(failed).rejects.toMatchObject({
      name: 'LockSafetyError',
      code: 'LOCK_SAFETY',
      message: expect.stringMatching(/`guard: true`.*`maxmemory-policy noeviction`/s),
    });
  });

  it('lets it start where all is well', async () => {
    await using app = await boot({ connection: safe.url, safety: 'strict' });
    expect((await app.locks.diagnose()).level).toBe('strict');
  });

  it('turns the guard on, which closes the restart of a server that keeps nothing', async () => {
    await using server = await RedisServer.start();
    await using app = await boot({ connection: server.url, safety: 'strict' });
    const { level, options } = await app.locks.diagnose();
    expect([level, options.guard]).toEqual(['strict', { longestTtl: 30_000, lag: 0 }]);
  });

  it('does not let it start without Redis', async () => {
    const server = await RedisServer.start();
    await server.stop();
    const failed = boot({ connection: server.url, safety: 'strict', commandTimeout: 300 });
    await expect(failed).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE' });
  });
});
