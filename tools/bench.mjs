/**
 * `npm run bench`: makes sure that everything is there, then measures. Arguments go to the bench (see bench/README.md):
 *
 *     npm run bench -- --quick
 *
 * 1. the project's packages and a redis-server, as for `npm test`
 * 2. the rivals: packages of their own in bench/rivals, apart from the project's, by their own lock file
 * 3. the library and the bench, compiled into .cache/bench: what is measured is plain JavaScript, not a loader at work
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compile } from './compile.mjs';
import { ensureRivals, rivals } from './rivals.mjs';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiled = join(root, '.cache/bench');

function run(redisServer) {
  const bench = spawn(
    process.execPath,
    [join(compiled, 'bench/main.js'), ...process.argv.slice(2)],
    { stdio: 'inherit', env: { ...process.env, REDIS_SERVER: redisServer, BENCH_RIVALS: rivals } },
  );
  // Ctrl-C reaches the bench by itself; we only have to stay and pass on its exit code.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => bench.kill('SIGTERM'));
  bench.on('exit', (code, signal) => {
    process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
  });
}

try {
  ensureDependencies();
  ensureRivals();
  const redisServer = await ensureRedisServer();
  await compile(['lib', 'bench', 'test/support'], compiled);
  run(redisServer);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
