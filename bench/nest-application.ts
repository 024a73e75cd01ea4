import 'reflect-metadata';

import { type INestApplicationContext, Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

import { DistributedLock, RedisLockModule, RedisLockService } from '../lib/index.js';
import type { OpenOptions } from './adapters/adapter.js';
import { lockerOptions } from './adapters/ours.js';

type Work = () => void | Promise<void>;

/** A service with a guarded method: what the decorator is put on in an application. */
@Injectable()
class Guarded {
  @DistributedLock((key: string) => key)
  async run(_key: string, work: Work): Promise<void> {
    await work();
  }
}

/** A Nest application with our module, and both ways to lock in it. */
export class NestApplication {
  readonly locks: RedisLockService;
  readonly guarded: Guarded;
  readonly #application: INestApplicationContext;

  private constructor(application: INestApplicationContext) {
    this.#application = application;
    this.locks = application.get(RedisLockService);
    this.guarded = application.get(Guarded);
  }

  static async open(options: OpenOptions): Promise<NestApplication> {
    @Module({ imports: [RedisLockModule.forRoot(lockerOptions(options))], providers: [Guarded] })
    class BenchModule {}
    return new NestApplication(
      await NestFactory.createApplicationContext(BenchModule, { logger: false }),
    );
  }

  close(): Promise<void> {
    return this.#application.close();
  }
}
