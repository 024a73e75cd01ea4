/**
 * The process of the resource that the locks protect: accepts a write only if its fencing token isn't smaller than the
 * largest it has seen for the key. It believes nothing but that; who sends no token is let through.
 *
 * Besides it sees what got through: a write of a hold after one of a later hold is stale, whoever let it through.
 */
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import type { Write, WriteCounts } from './resource.js';

class ProtectedKey {
  #fence = 0;
  #hold = '';
  readonly #superseded = new Set<string>();

  take({ fence, id }: Write): 'fresh' | 'stale' | 'rejected' {
    if (fence !== undefined) {
      if (fence < this.#fence) return 'rejected';
      this.#fence = fence;
    }
    if (this.#superseded.has(id)) return 'stale';
    if (id !== this.#hold) {
      this.#superseded.add(this.#hold);
      this.#hold = id;
    }
    return 'fresh';
  }
}

const keys = new Map<string, ProtectedKey>();
const counts = { accepted: 0, stale: 0, rejected: 0 };

const server = createServer((socket) => {
  // A writer that was killed.
  socket.on('error', () => {});
  const lines = createInterface({ input: socket });
  lines.on('error', () => {});
  lines.on('line', (line) => {
    const write = JSON.parse(line) as Write;
    let key = keys.get(write.key);
    if (key === undefined) keys.set(write.key, (key = new ProtectedKey()));
    const outcome = key.take(write);
    if (outcome === 'rejected') counts.rejected += 1;
    else counts.accepted += 1;
    if (outcome === 'stale') counts.stale += 1;
    socket.write(outcome === 'rejected' ? '0\n' : '1\n');
  });
});
server.listen(0, '127.0.0.1', () => {
  process.send?.({ port: (server.address() as AddressInfo).port });
});
process.on('message', () => process.send?.(counts satisfies WriteCounts));
