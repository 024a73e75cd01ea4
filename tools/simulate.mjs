/**
 * `npm run simulate`: makes sure that the project's packages are there, then runs the seeded simulation. Arguments go to it
 * (see test/simulation/README.md):
 *
 *     npm run simulate -- --seeds 100000
 *     npm run simulate -- --seed 4711
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { SetupError, ensureDependencies } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

try {
  ensureDependencies();
  const simulation = spawn(
    process.execPath,
    [
      ...['--import', './test/support/register-ts.mjs', 'test/simulation/main.ts'],
      ...process.argv.slice(2),
    ],
    { cwd: root, stdio: 'inherit' },
  );
  // Ctrl-C reaches it by itself; we only have to stay and pass on its exit code.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => simulation.kill('SIGTERM'));
  simulation.on('exit', (code, signal) => {
    process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
  });
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
