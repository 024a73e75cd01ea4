import { describe, expect, it } from '@jest/globals';
import {
  Controller,
  Get,
  Inject,
  Injectable,
  type OnApplicationShutdown,
  Param,
} from '@nestjs/common';
import { Redis } from 'ioredis';

import { DistributedLock, LockKey, RedisLockModule, RedisLockService } from '../../lib/index.js';
import { keysInUse } from '../support/lock-keys.js';
import { eventually } from '../support/eventually.js';
import { Gate, inMemory, NestApp } from '../support/nest-app.js';
import { RedisServer } from '../support/redis-server.js';

@Injectable()
class Work {
  readonly gate = new Gate();
  readonly done: string[] = [];
  started = 0;

  @DistributedLock('work')
  async run(id: string): Promise<string> {
    this.started += 1;
    await this.gate.opened;
    this.done.push(id);
    return id;
  }
}

@Controller()
class WorkController {
  constructor(@Inject(Work) private readonly work: Work) {}

  @Get('decorated/:id')
  decorated(@Param('id') id: string): Promise<string> {
    return this.work.run(id);
  }

  @Get('intercepted/:id')
  @LockKey('work')
  async intercepted(@Param('id') id: string): Promise<string> {
    return this.work.run(id);
  }
}

@Injectable()
class LastWord implements OnApplicationShutdown {
  held: string | undefined;
  constructor(@Inject(RedisLockService) private readonly locks: RedisLockService) {}

  async onApplicationShutdown(): Promise<void> {
    this.held = await this.locks.acquire('last').then(
      () => 'granted',
      (error: Error) => error.name,
    );
  }
}

const workApp = (connection = 'memory', options = {}) =>
  NestApp.start({
    locks: { connection, waitTimeout: '5s', ...options },
    controllers: [WorkController],
    providers: [Work],
  });

describe('An application that closes', () => {
  it.each(['decorated', 'intercepted'])(
    'lets the holder finish, answers waiting requests with 503 at once, then closes: /%s',
    async (path) => {
      await using redis = await RedisServer.start();
      await using app = await workApp(redis.url);
      const work = app.get(Work);
      const headers = { connection: 'close' };
      const holder = app.fetch(`/${path}/holder`, { headers });
      await eventually(() => work.started === 1);
      const waiting = Promise.all(['a', 'b'].map((id) => app.fetch(`/${path}/${id}`, { headers })));
      await eventually(async () => (await app.waiting('work')) === 1);

      let closed = false;
      const start = performance.now();
      const closing = app.app.close().then(() => {
        closed = true;
      });
      const refused = await waiting;
      expect(refused.map(({ status }) => status)).toEqual([503, 503]);
      expect(refused.map((response) => response.headers.get('retry-after'))).toEqual(['1', '1']);
      expect(performance.now() - start).toBeLessThan(1_000);
      expect([closed, work.done]).toEqual([false, []]);

      work.gate.open();
      expect(await (await holder).text()).toBe('holder');
      await closing;
      expect(work.done).toEqual(['holder']);
      const client = new Redis(redis.url);
      expect((await keysInUse(client)).filter((key) => key.includes('work'))).toEqual([]);
      client.disconnect();
    },
  );

  it('lets work finish that no request waits for', async () => {
    await using app = await workApp();
    const work = app.get(Work);
    const run = work.run('background');
    await eventually(() => work.started === 1);
    const closing = app.app.close();
    await expect(work.run('late')).rejects.toMatchObject({
      name: 'LockUnavailableError',
      reason: 'shutting-down',
    });
    work.gate.open();
    await closing;
    expect(work.done).toEqual(['background']);
    expect(await run).toBe('background');
  });

  it('takes the lock from a holder that is not done within drainTimeout', async () => {
    await using app = await workApp('memory', { drainTimeout: 100 });
    const work = app.get(Work);
    const run = work.run('stuck');
    await eventually(() => work.started === 1);
    await app.app.close();
    work.gate.open();
    await expect(run).rejects.toMatchObject({ name: 'LockLostError', reason: 'shutdown' });
  });

  it('closes every instance, also named ones and those of a factory', async () => {
    await using app = await NestApp.start({
      locks: inMemory(),
      imports: [RedisLockModule.forRootAsync({ name: 'other', useFactory: () => inMemory() })],
    });
    const services = [app.locks, app.app.get<RedisLockService>('RedisLockService(other)')];
    await app.app.close();
    for (const locks of services) {
      await expect(locks.acquire('key')).rejects.toMatchObject({ reason: 'shutting-down' });
    }
  });

  it('grants no lock to hooks that run after it', async () => {
    await using app = await NestApp.start({ providers: [LastWord] });
    const last = app.get(LastWord);
    await app.app.close();
    expect(last.held).toBe('LockUnavailableError');
  });
});
