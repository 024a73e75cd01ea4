/**
 * Three replicas in one process, for a machine without Redis: they share this process's memory, and the memory backend
 * keeps them apart by the same rules as Redis would.
 */
import { startReplica } from './replica.js';

const port = Number(process.env['PORT'] ?? 3000);
const { REDIS_URL: _unused, ...env } = process.env;

for (const [at, replica] of ['A', 'B', 'C'].entries()) {
  await startReplica({ ...env, REPLICA: replica, PORT: String(port === 0 ? 0 : port + at) });
}
