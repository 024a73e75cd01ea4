/**
 * A user's application, as small as it gets: boots, locks by the decorator and by the service, closes. The process must
 * then end by itself. Prints what happened as one line of JSON.
 */
import 'reflect-metadata';
import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { DistributedLock, RedisLockModule, RedisLockService } from 'nestjs-redis-lock';

@Injectable()
class Orders {
  @DistributedLock((id: string) => `order:${id}`)
  async pay(id: string): Promise<string> {
    return `paid ${id}`;
  }
}

@Module({ imports: [RedisLockModule.forRoot({ connection: 'memory' })], providers: [Orders] })
class AppModule {}

async function main(): Promise<void> {
  const app = await NestFactory.createApplicationContext(AppModule, { logger: ['error', 'warn'] });
  const decorated: string = await app.get(Orders).pay('42');
  const fencingToken: number = await app
    .get(RedisLockService)
    .using('k', async (lock) => lock.fencingToken);
  await app.close();
  console.log(JSON.stringify({ decorated, fencingToken }));
}

void main();
