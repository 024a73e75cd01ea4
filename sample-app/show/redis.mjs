/**
 * Where the show's replicas meet: the Redis of REDIS_URL, or a server of our own on a free port of this machine, with
 * nothing on disk; or none, if there's none to be had.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Child, ChildError } from './child.mjs';

const START_TIMEOUT = 10_000;
const PORT_TRIES = 5;

export class OwnRedis {
  #server;
  #folder;

  constructor(server, folder, port) {
    this.#server = server;
    this.#folder = folder;
    this.url = `redis://127.0.0.1:${port}`;
  }

  static async start(program) {
    // Between our look for a free port and the server's bind, somebody else may take it.
    for (let tries = 1; ; tries += 1) {
      try {
        return await OwnRedis.#startOn(await freePort(), program);
      } catch (error) {
        const taken = error instanceof ChildError && /address already in use/i.test(error.message);
        if (!taken || tries === PORT_TRIES) throw error;
      }
    }
  }

  static async #startOn(port, program) {
    const folder = mkdtempSync(join(tmpdir(), 'ticket-shop-'));
    const where = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder];
    const args = [...where, '--save', '', '--appendonly', 'no', '--daemonize', 'no'];
    const redis = new OwnRedis(Child.program('redis-server', program, args, folder), folder, port);
    try {
      const isReady = (_, output) => /ready to accept connections/i.test(output);
      await redis.#server.until('start', isReady, START_TIMEOUT);
      return redis;
    } catch (error) {
      await redis.stop();
      throw error;
    }
  }

  get child() {
    return this.#server;
  }

  async stop() {
    await this.#server.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
