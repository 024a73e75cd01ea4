/**
 * A Nest application on a free loopback port, for tests of what only a running one shows. Leaving its block closes it.
 */
import 'reflect-metadata';

import type { Server } from 'node:http';

import { type INestApplication, type ModuleMetadata, type Type } from '@nestjs/common';
import type { AbstractHttpAdapter } from '@nestjs/core';
import { Test } from '@nestjs/testing';

import { RedisLockModule, type RedisLockModuleOptions, RedisLockService } from '../../lib/index.js';

export interface NestAppOptions extends ModuleMetadata {
  /** Options of the default instance; `false`: none is imported. @default in memory, waiting up to 5 s */
  locks?: RedisLockModuleOptions | false;
  adapter?: AbstractHttpAdapter;
  /** What is done before the application is initialised. */
  prepare?: (app: INestApplication) => void;
}

export class NestApp implements AsyncDisposable {
  private constructor(
    readonly app: INestApplication,
    readonly url: string,
  ) {}

  static async start({
    locks = inMemory(),
    adapter,
    prepare,
    ...module
  }: NestAppOptions): Promise<NestApp> {
    const testing = await Test.createTestingModule({
      ...module,
      imports: [
        ...(locks === false ? [] : [RedisLockModule.forRoot(locks)]),
        ...(module.imports ?? []),
      ],
    }).compile();
    const app =
      adapter === undefined
        ? testing.createNestApplication({ logger: false })
        : testing.createNestApplication(adapter, { logger: false });
    prepare?.(app);
    await app.listen(0, '127.0.0.1');
    return new NestApp(app, (await app.getUrl()).replace('[::1]', '127.0.0.1'));
  }

  get locks(): RedisLockService {
    return this.app.get(RedisLockService);
  }

  /** Whether somebody holds a key at this moment. */
  async isHeld(key: string): Promise<boolean> {
    return (await this.locks.inspect(key)).held.length > 0;
  }

  /** How many wait for a key. */
  async waiting(key: string): Promise<number> {
    return (await this.locks.inspect(key)).pending.length;
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`${this.url}${path}`, init);
  }

  get<T>(type: Type<T>): T {
    return this.app.get(type);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A connection that fetch opened ahead and never used would hold the server up for seconds.
    (this.app.getHttpServer() as Server).closeAllConnections();
    await this.app.close();
  }
}

export function inMemory(options: Partial<RedisLockModuleOptions> = {}): RedisLockModuleOptions {
  return { connection: 'memory', waitTimeout: '5s', ...options };
}

/** Something that a test opens: what waits for it goes on then. */
export class Gate {
  readonly opened: Promise<void>;
  open!: () => void;

  constructor() {
    this.opened = new Promise((resolve) => {
      this.open = resolve;
    });
  }
}
