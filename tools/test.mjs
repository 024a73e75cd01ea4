/**
 * `npm test`: makes sure that everything is there, then runs jest. Arguments go to jest:
 *
 *     npm test                                     all
 *     npm test -- test/unit/duration.spec.ts       one file
 *     npm test -- -t 'takes turns'                 by name
 */
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const say = (text) => console.log(`[test] ${text}`);

/** Stale scripts would be tested as they were, not as they are. */
function checkScripts() {
  const { status } = spawnSync(process.execPath, ['tools/embed-scripts.mjs', '--check'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) process.exit(1);
}

function runJest(redisServer) {
  const args = process.argv.slice(2);
  say(`jest ${args.join(' ')}`.trim());
  const nodeOptions = [
    process.env.NODE_OPTIONS,
    '--experimental-vm-modules',
    // jest's ES modules need the flag above, and Node would say so in every worker.
    '--disable-warning=ExperimentalWarning',
  ];
  const jest = spawn(process.execPath, [join(root, 'node_modules/jest/bin/jest.js'), ...args], {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      NODE_OPTIONS: nodeOptions.filter(Boolean).join(' '),
      REDIS_SERVER: redisServer,
    },
  });
  // Ctrl-C reaches jest by itself; we only have to stay and pass on its exit code.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => jest.kill('SIGTERM'));
  jest.on('exit', (code, signal) => {
    process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
  });
}

try {
  ensureDependencies();
  const redisServer = await ensureRedisServer();
  say(`redis-server: ${redisServer}`);
  checkScripts();
  runJest(redisServer);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
