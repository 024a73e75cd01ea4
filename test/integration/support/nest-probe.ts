/** A process of `leaks.spec.ts`: a Nest application that holds and waits for locks, closes, and must then end by itself. */
import 'reflect-metadata';

import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

import { RedisLockModule, RedisLockService } from '../../../lib/index.js';

@Module({
  imports: [
    RedisLockModule.forRoot({
      connection: process.argv[2] as string,
      drainTimeout: 200,
      commandTimeout: 500,
    }),
  ],
})
class App {}

const app = await NestFactory.createApplicationContext(App, { logger: false });
const locks = app.get(RedisLockService);
// One that is done, one that is stuck, one that waits: whatever Redis says to them.
await locks.using('done', () => {}).catch(() => {});
const stuck = locks.acquire('stuck').catch(() => {});
await stuck;
const waiting = locks.acquire('stuck').catch((error: Error) => error.name);
await app.close();
process.send?.(await waiting);
process.disconnect();
