import 'reflect-metadata';

import type { INestApplication } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

import { AppModule } from './app.module.js';
import { Settings } from './settings.js';

/** Starts one replica and says where it listens. It ends on SIGTERM or SIGINT, when its callers have been answered. */
export async function startReplica(
  env: Readonly<Record<string, string | undefined>>,
): Promise<INestApplication> {
  const settings = new Settings(env);
  const app = await NestFactory.create(AppModule.for(settings), {
    logger: ['warn', 'error', 'fatal'],
    abortOnError: false,
  });
  app.enableShutdownHooks();
  await app.listen(settings.port, '127.0.0.1');
  const url = await app.getUrl();
  console.log(`Replica ${settings.replica} listens on ${url}`);
  // Whoever forked this process may have let the port be chosen.
  process.send?.({ type: 'listening', replica: settings.replica, url });
  return app;
}
