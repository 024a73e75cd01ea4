import type { Redis } from 'ioredis';

import { type ClientSpending, clientSpending, spentSince } from './client-meter.js';
import { type ServerSpending, serverSpending } from './server-meter.js';

/** What a phase of a workload cost, here and at the server. */
export interface Reading {
  /** In ms. */
  readonly elapsed: number;
  readonly commands: number;
  /** In µs. */
  readonly clientCpu: number;
  /** In µs. */
  readonly serverCpu: number;
  readonly publishes: number;
}

/**
 * Reads what is spent over a phase. The server is asked outside of it, so its own question isn't counted here.
 *
 *     const phase = await meter.begin();  …  const reading = await phase.end();
 */
export class Meter {
  readonly #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  async begin(): Promise<Phase> {
    const server = await serverSpending(this.#redis);
    return new Phase(this.#redis, server);
  }
}

export class Phase {
  readonly #redis: Redis;
  readonly #server: ServerSpending;
  readonly #client: ClientSpending;
  readonly #since: number;

  constructor(redis: Redis, server: ServerSpending) {
    this.#redis = redis;
    this.#server = server;
    this.#client = clientSpending();
    this.#since = performance.now();
  }

  async end(): Promise<Reading> {
    const elapsed = performance.now() - this.#since;
    const client = spentSince(this.#client);
    const server = await serverSpending(this.#redis);
    return {
      elapsed,
      commands: client.commands,
      clientCpu: client.cpu,
      serverCpu: server.cpu - this.#server.cpu,
      publishes: server.publishes - this.#server.publishes,
    };
  }
}
