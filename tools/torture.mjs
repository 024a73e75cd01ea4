/**
 * `npm run torture`: makes sure that everything is there, then lets our library and its rivals fail in every way that we
 * know of. Arguments go to the run (see test/torture/main.ts):
 *
 *     npm run torture -- --minutes 5 --only restart-empty,flushall
 *
 * 1. the project's packages and a redis-server, as for `npm test`
 * 2. the rivals, as for `npm run bench`
 * 3. libfaketime, which moves a server's clock: from Debian's packages, where it isn't there. Without it the scenarios of
 *    clocks are left out, and say so.
 * 4. the sources, compiled into .cache/torture: processes are started by the hundred
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compile } from './compile.mjs';
import { ensureFaketime } from './faketime.mjs';
import { ensureRivals, rivals } from './rivals.mjs';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiled = join(root, '.cache/torture');
const sources = ['lib', 'bench', 'test/support', 'test/integration/support', 'test/torture'];

function run(redisServer, faketime) {
  const torture = spawn(
    process.execPath,
    [join(compiled, 'test/torture/main.js'), ...process.argv.slice(2)],
    {
      stdio: 'inherit',
      env: {
        ...process.env,
        REDIS_SERVER: redisServer,
        BENCH_RIVALS: rivals,
        TORTURE_RESULTS: join(root, 'test/torture/RESULTS.md'),
        ...(faketime.library === undefined
          ? { TORTURE_NO_FAKETIME: faketime.reason }
          : { TORTURE_FAKETIME: faketime.library }),
      },
    },
  );
  // Ctrl-C reaches it by itself; we only have to stay and pass on its exit code.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => torture.kill('SIGTERM'));
  torture.on('exit', (code, signal) => {
    process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
  });
}

try {
  ensureDependencies();
  ensureRivals();
  const redisServer = await ensureRedisServer();
  const faketime = ensureFaketime();
  await compile(sources, compiled);
  run(redisServer, faketime);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
