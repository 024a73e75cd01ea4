/** The libraries to compare with: packages of their own in bench/rivals, apart from the project's, by their own lock file. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SetupError } from './setup.mjs';

export const rivals = fileURLToPath(new URL('../bench/rivals', import.meta.url));

/** Installs them unless they are what their lock file says. */
export function ensureRivals() {
  const wanted = readFileSync(join(rivals, 'package-lock.json'), 'utf8');
  // Our own mark: npm's lock of what it has installed is written differently.
  const mark = join(rivals, 'node_modules/.installed-lock.json');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return;
  console.log(
    '[setup] The libraries to compare with are missing: running "npm ci" in bench/rivals.',
  );
  const { status, error } = spawnSync(
    'npm',
    // One of them asks for a newer Node than the project does; it's left out of the run there.
    ['ci', '--no-audit', '--no-fund', '--loglevel=error', '--ignore-scripts'],
    { cwd: rivals, stdio: ['ignore', 'inherit', 'inherit'], shell: process.platform === 'win32' },
  );
  if (error || status !== 0) {
    throw new SetupError('"npm ci" in bench/rivals failed. Run it by hand to see.');
  }
  writeFileSync(mark, wanted);
}
