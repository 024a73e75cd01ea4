/** A redis-server of the show's own: on a free port of this machine, for nobody else, with nothing on disk. */
import { mkdtempSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Child, ChildError } from './child.mjs';

const START_TIMEOUT = 10_000;
const PORT_TRIES = 5;

/** Starts a server of our own; gives its URL. */
export async function startRedis(program) {
  // Between our look for a free port and the server's bind, somebody else may take it.
  for (let tries = 1; ; tries += 1) {
    try {
      return await startOn(await freePort(), program);
    } catch (error) {
      const taken = error instanceof ChildError && /address already in use/i.test(error.message);
      if (!taken || tries === PORT_TRIES) throw error;
    }
  }
}

async function startOn(port, program) {
  const folder = mkdtempSync(join(tmpdir(), 'ticket-shop-'));
  const where = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder];
  const args = [...where, '--save', '', '--appendonly', 'no', '--daemonize', 'no'];
  const server = Child.program('redis-server', program, args, folder);
  try {
    const isReady = (_message, output) => /ready to accept connections/i.test(output);
    await server.until('start', isReady, START_TIMEOUT);
    return { url: `redis://127.0.0.1:${port}`, child: server };
  } catch (error) {
    await server.stop();
    throw error;
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
