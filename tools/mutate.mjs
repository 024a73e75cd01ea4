/**
 * `npm run mutate`: takes each safety line of the list in test/mutation/mutations.mjs out of the library, one at a time, and
 * looks whether a test fails. A line whose absence no test sees, is a promise that nobody keeps watch over.
 *
 *     npm run mutate                       all of the list
 *     npm run mutate -- --only 'P6'        those whose name contains this
 *     npm run mutate -- --list             names them
 *
 * Works on a copy of the sources in a temporary folder. Each set of tests is run once without a mutation first, where it
 * must pass. The exit code is 0 only if every mutation was seen.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { mutations, mutated } from '../test/mutation/mutations.mjs';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const COPIED = ['lib', 'test', 'sample-app', 'tools', 'jest.config.js', 'package.json'];
/** A test that hangs has seen the mutation as well. */
const LONGEST_RUN = 240_000;
const say = (text) => console.log(`[mutate] ${text}`);

/** Whether the tests pass in the copy. */
function passes(copy, redisServer, tests) {
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/jest/bin/jest.js', '--bail', '--silent', '--runInBand', ...tests],
    {
      cwd: copy,
      stdio: 'ignore',
      timeout: LONGEST_RUN,
      env: {
        ...process.env,
        NODE_OPTIONS: '--experimental-vm-modules --disable-warning=ExperimentalWarning',
        REDIS_SERVER: redisServer,
      },
    },
  );
  return status === 0;
}

function embedScripts(copy) {
  const { status } = spawnSync(process.execPath, ['tools/embed-scripts.mjs'], {
    cwd: copy,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) throw new Error('The scripts could not be embedded.');
}

/** Runs the tests of a mutation with the mutation in place. */
function survives(copy, redisServer, mutation) {
  const path = join(copy, mutation.file);
  const original = readFileSync(path, 'utf8');
  const isScript = mutation.file.endsWith('.lua');
  writeFileSync(path, mutated(mutation, original));
  try {
    if (isScript) embedScripts(copy);
    return passes(copy, redisServer, mutation.tests);
  } finally {
    writeFileSync(path, original);
    if (isScript) embedScripts(copy);
  }
}

function chosen(args) {
  const at = args.indexOf('--only');
  const only = at < 0 ? '' : (args[at + 1] ?? '');
  const unknown = args.find((arg, i) => arg !== '--list' && i !== at && (at < 0 || i !== at + 1));
  if (unknown !== undefined) {
    throw new SetupError(
      `Unknown argument "${unknown}". Usage: npm run mutate [-- --only TEXT | --list]`,
    );
  }
  const some = mutations.filter(({ name }) => name.includes(only));
  if (some.length === 0) throw new SetupError(`No mutation's name contains "${only}": see --list.`);
  return some;
}

async function main() {
  const args = process.argv.slice(2);
  const some = chosen(args);
  if (args.includes('--list')) {
    for (const { name } of some) console.log(name);
    return;
  }
  ensureDependencies();
  const redisServer = await ensureRedisServer();
  const copy = mkdtempSync(join(tmpdir(), 'redis-lock-mutated-'));
  const failed = [];
  try {
    for (const each of COPIED) cpSync(join(root, each), join(copy, each), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'), 'junction');
    for (const tests of new Set(some.map((mutation) => mutation.tests.join(' ')))) {
      if (!passes(copy, redisServer, tests.split(' '))) {
        throw new SetupError(`Without any mutation, this fails already: npm test -- ${tests}`);
      }
    }
    say(`Their tests pass without a mutation. ${some.length} mutations follow.`);
    for (const mutation of some) {
      const survived = survives(copy, redisServer, mutation);
      say(`${survived ? 'NOT SEEN' : 'seen    '}  ${mutation.name}`);
      if (survived) failed.push(mutation.name);
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
  say(`${some.length - failed.length} of ${some.length} were seen by a test.`);
  if (failed.length > 0) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
