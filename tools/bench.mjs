/**
 * `npm run bench`: makes sure that everything is there, then measures. Arguments go to the bench (see bench/README.md):
 *
 *     npm run bench -- --quick
 *
 * 1. the project's packages and a redis-server, as for `npm test`
 * 2. the rivals: packages of their own in bench/rivals, apart from the project's, by their own lock file
 * 3. the library and the bench, compiled into .cache/bench: what is measured is plain JavaScript, not a loader at work
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const rivals = join(root, 'bench/rivals');
const compiled = join(root, '.cache/bench');
const say = (text) => console.log(`[bench] ${text}`);

/** Installs the rivals unless they are what their lock file says. */
function ensureRivals() {
  const wanted = readFileSync(join(rivals, 'package-lock.json'), 'utf8');
  // Our own mark: npm's lock of what it has installed is written differently.
  const mark = join(rivals, 'node_modules/.installed-lock.json');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return;
  say('The libraries to compare with are missing: running "npm ci" in bench/rivals.');
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

async function compile() {
  // Only now: it may have been installed just before.
  const { transformFile } = await import('@swc/core');
  const { swcOptions } = await import('../test/support/swc-options.mjs');
  rmSync(compiled, { recursive: true, force: true });
  const sources = ['lib', 'bench', 'test/support'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((file) => file.endsWith('.ts') && !file.includes('node_modules'))
      .map((file) => join(folder, file)),
  );
  await Promise.all(
    sources.map(async (source) => {
      const { code } = await transformFile(join(root, source), {
        ...swcOptions,
        module: { type: 'es6' },
      });
      const target = join(compiled, source.replace(/\.ts$/, '.js'));
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, code);
    }),
  );
  writeFileSync(join(compiled, 'package.json'), '{ "type": "module" }\n');
}

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
  await compile();
  run(redisServer);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
