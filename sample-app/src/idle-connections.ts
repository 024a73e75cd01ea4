import type { Server } from 'node:http';

import {
  type BeforeApplicationShutdown,
  Injectable,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';

const LOOK_EVERY_MS = 50;

/**
 * Closes, during the shutdown, the connections on which nothing is asked any more. Node's server does so only at the
 * moment of its `close()`; one that is answered later is kept for its client for five seconds, and the process with it.
 */
@Injectable()
export class IdleConnections implements BeforeApplicationShutdown, OnApplicationShutdown {
  #timer: NodeJS.Timeout | undefined;

  constructor(private readonly host: HttpAdapterHost) {}

  beforeApplicationShutdown(): void {
    const server: Server = this.host.httpAdapter.getHttpServer();
    this.#timer = setInterval(() => server.closeIdleConnections(), LOOK_EVERY_MS);
  }

  /** The server is closed. */
  onApplicationShutdown(): void {
    clearInterval(this.#timer);
  }
}
