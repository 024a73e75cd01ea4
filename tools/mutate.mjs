/**
 * `npm run mutate`: takes each safety line of the list in test/mutation/mutations.mjs out of the library, one at a time, and
 * looks whether the test fails that is meant to keep watch over it. A line whose absence no test sees, is a promise that nobody
 * keeps watch over.
 *
 *     npm run mutate                       all of the list
 *     npm run mutate -- --only 'P6'        those whose name contains this
 *     npm run mutate -- --list             names them
 *
 * Works on copies of the sources in a temporary folder. All of the tests are run once without a mutation first, where they
 * must pass. The exit code is 0 only if every mutation was seen.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { mutations, mutated } from '../test/mutation/mutations.mjs';
import { SetupError, ensureDependencies, ensureRedisServer } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const COPIED = ['lib', 'test', 'sample-app', 'tools', 'jest.config.js', 'package.json'];
/** A test that hangs has seen the mutation as well. */
const LONGEST_RUN = 240_000;
/** Copies that are worked on at the same time: most tests wait for something most of the time. */
const COPIES = 2;
const USAGE = `Usage: npm run mutate -- [options]
  --only text  those whose name contains this
  --list       names them, and runs nothing
  --help       this`;
const say = (text) => console.log(`[mutate] ${text}`);

/** A copy of the sources, in which tests are run. */
class Copy {
  constructor(redisServer) {
    this.redisServer = redisServer;
    this.folder = mkdtempSync(join(tmpdir(), 'redis-lock-mutated-'));
    for (const each of COPIED) {
      cpSync(join(root, each), join(this.folder, each), { recursive: true });
    }
    symlinkSync(join(root, 'node_modules'), join(this.folder, 'node_modules'), 'junction');
  }

  /**
   * Runs those tests of a file whose full names contain one of the given texts. Which of them `passed` and which `failed`, by
   * full name; `broken` where the file could not even be loaded.
   */
  async run(file, names) {
    const report = join(this.folder, 'report.json');
    rmSync(report, { force: true });
    const status = await this.#start([
      ...['node_modules/jest/bin/jest.js', '--silent', '--runInBand', '--forceExit', file],
      ...['-t', names.map(literally).join('|'), '--json', `--outputFile=${report}`],
    ]);
    if (status === null || !existsSync(report)) return { passed: [], failed: ['(it hangs)'] };
    const { testResults } = JSON.parse(readFileSync(report, 'utf8'));
    const results = testResults.flatMap(({ assertionResults }) => assertionResults);
    const of = (kind) =>
      results.filter((each) => each.status === kind).map((each) => each.fullName);
    const [passed, failed] = [of('passed'), of('failed')];
    const broken = passed.length + failed.length === 0 ? testResults[0]?.message : undefined;
    return { passed, failed, broken };
  }

  /** Whether the test of a mutation fails with the mutation in place: its name, or nothing. */
  async seenBy({ file, test: { spec, name }, ...mutation }) {
    const path = join(this.folder, file);
    const original = readFileSync(path, 'utf8');
    writeFileSync(path, mutated({ file, ...mutation }, original));
    if (file.endsWith('.lua')) this.#embedScripts();
    try {
      const { failed, broken } = await this.run(spec, [name]);
      if (broken) throw new Error(`'${mutation.name}': ${broken}`);
      if (failed.length === 0) return undefined;
      // What fails by chance sees nothing: once more, and it must be the same.
      const again = await this.run(spec, [name]);
      return again.failed.find((one) => failed.includes(one));
    } finally {
      writeFileSync(path, original);
      if (file.endsWith('.lua')) this.#embedScripts();
    }
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }

  #start(args) {
    const jest = spawn(process.execPath, args, {
      cwd: this.folder,
      stdio: 'ignore',
      timeout: LONGEST_RUN,
      env: {
        ...process.env,
        NODE_OPTIONS: '--experimental-vm-modules --disable-warning=ExperimentalWarning',
        REDIS_SERVER: this.redisServer,
      },
    });
    return new Promise((resolve, reject) => {
      jest.on('error', reject);
      jest.on('exit', resolve);
    });
  }

  #embedScripts() {
    const { status } = spawnSync(process.execPath, ['tools/embed-scripts.mjs'], {
      cwd: this.folder,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status !== 0) throw new Error('The scripts could not be embedded.');
  }
}

/** As jest's -t takes it. */
function literally(text) {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

/** Has each of the jobs done by one of the copies. */
async function share(copies, jobs, work) {
  const left = jobs[Symbol.iterator]();
  // One iterator for all: each takes the next.
  await Promise.all(
    copies.map(async (copy) => {
      for (const job of left) await work(copy, job);
    }),
  );
}

/** Without a mutation: each test is there, and passes. */
async function checkTests(copies, some) {
  const names = new Map();
  for (const { test } of some) {
    names.set(test.spec, (names.get(test.spec) ?? new Set()).add(test.name));
  }
  const wrong = [];
  await share(copies, [...names], async (copy, [spec, ofSpec]) => {
    const { passed, failed, broken } = await copy.run(spec, [...ofSpec]);
    if (broken) wrong.push(`${spec} can't be loaded: ${broken}`);
    for (const name of failed) wrong.push(`${spec}, without any mutation, fails: ${name}`);
    for (const name of ofSpec) {
      if (![...passed, ...failed].some((full) => full.includes(name))) {
        wrong.push(`${spec} has no test whose name contains: ${name}`);
      }
    }
  });
  if (wrong.length > 0) throw new SetupError(wrong.join('\n'));
}

function readOptions() {
  try {
    const options = {
      only: { type: 'string', default: '' },
      list: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    };
    return parseArgs({ options }).values;
  } catch (error) {
    if (!String(error.code).startsWith('ERR_PARSE_ARGS')) throw error;
    throw new SetupError(`${error.message}\n\n${USAGE}`);
  }
}

async function main() {
  const { only, list, help } = readOptions();
  if (help) return console.log(USAGE);
  const some = mutations.filter(({ name }) => name.includes(only));
  if (some.length === 0) throw new SetupError(`No mutation's name contains "${only}": see --list.`);
  if (list) {
    for (const { name } of some) console.log(name);
    return;
  }
  ensureDependencies();
  const redisServer = await ensureRedisServer();
  const copies = Array.from({ length: Math.min(COPIES, some.length) }, () => new Copy(redisServer));
  const notSeen = [];
  try {
    await checkTests(copies, some);
    say(`Their tests pass without a mutation. ${some.length} mutations follow.`);
    await share(copies, some, async (copy, mutation) => {
      const { name, test } = mutation;
      const by = await copy.seenBy(mutation);
      if (by === undefined) notSeen.push(`${name} (${test.spec}: ${test.name})`);
      say(
        by === undefined ? `NOT SEEN  ${name}` : `seen      ${name}\n                   by: ${by}`,
      );
    });
  } finally {
    for (const copy of copies) copy.remove();
  }
  say(`${some.length - notSeen.length} of ${some.length} were seen by their test.`);
  for (const one of notSeen) say(`not seen: ${one}`);
  if (notSeen.length > 0) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
