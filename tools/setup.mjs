/**
 * Provides what this project needs beyond Node: its npm packages, and a redis-server to test against.
 *
 * Nothing is changed without saying so first. What lies in the project's folder (node_modules, .cache) is changed
 * unasked; what lies outside is asked about where a person sits at a terminal, and on CI it's simply done.
 *
 * A redis-server is looked for, in this order:
 *   1. REDIS_SERVER, a path; it must work, for whoever set it wants that one and no other
 *   2. redis-server or valkey-server on the PATH
 *   3. what an earlier run has put into .cache/redis
 *   4. the system's package manager, see `sources` below
 *
 * This file depends on nothing, for it runs before anything is installed.
 *
 * Usage: node tools/setup.mjs [deps] [redis]    both by default; prints the server's path on stdout
 */
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, join, relative, resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const cache = join(root, '.cache/redis');
const cachedServer = join(cache, 'redis-server');
const unpacked = join(cache, 'root');

const OLDEST = [6, 2];
const SERVER_NAMES = ['redis-server', 'valkey-server'];

const HOW_TO_INSTALL = `Install Redis ${OLDEST.join('.')} or newer (or Valkey) and run this again:
  Debian, Ubuntu    sudo apt-get install redis-server
  Fedora, RHEL      sudo dnf install redis      (or: valkey)
  Alpine            sudo apk add redis          (or: valkey)
  Arch              sudo pacman -S valkey
  macOS             brew install redis
  Windows           use WSL, and there one of the above
  other             build it from https://redis.io/downloads/
or set REDIS_SERVER to the path of a redis-server program.`;

/** Something that only the person at the machine can put right; its message says how. */
export class SetupError extends Error {
  name = 'SetupError';
}

/** Runs `npm ci` unless node_modules is what package-lock.json describes. */
export function ensureDependencies() {
  const reason = whyDependenciesDiffer();
  if (reason === undefined) return;
  say(`${reason}: running "npm ci" (changes node_modules only).`);
  const { status, error } = spawnSync(
    'npm',
    ['ci', '--no-audit', '--no-fund', '--loglevel=error'],
    {
      cwd: root,
      // stdout belongs to the result of whoever called us.
      stdio: ['ignore', process.stderr, process.stderr],
      shell: process.platform === 'win32',
    },
  );
  if (error || status !== 0) {
    throw new SetupError(
      `"npm ci" failed${error ? ` (${error.message})` : ''}. Without a network? Run it by hand to see.`,
    );
  }
}

/** Why node_modules isn't what package-lock.json describes; `undefined` if it is. */
function whyDependenciesDiffer() {
  const wanted = readLock(join(root, 'package-lock.json'));
  // npm keeps a lock of what it has installed in there.
  const installed = readLock(join(root, 'node_modules/.package-lock.json'));
  if (!wanted) throw new SetupError('package-lock.json is missing or broken: restore it from git.');
  if (!installed) return 'node_modules is missing';
  for (const [path, { version, integrity, optional, link }] of Object.entries(wanted)) {
    if (path === '' || link) continue;
    const found = installed[path];
    // Optional packages are for one platform each, and most are for another than this.
    if (!found && optional) continue;
    // Not every registry has the packages of all platforms; the lock holds no integrity for those it lacked.
    const isOther = found && integrity !== undefined && found.integrity !== integrity;
    if (!found || found.version !== version || isOther) {
      return `node_modules differs from package-lock.json (${path.replace('node_modules/', '')})`;
    }
    if (!existsSync(join(root, path))) return `${path} is missing`;
  }
  return undefined;
}

function readLock(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

/** The path of a usable server that is there already, or `undefined`. Changes nothing. */
export function findRedisServer() {
  const explicit = process.env.REDIS_SERVER;
  if (explicit) {
    const problem = whyUnusable(explicit);
    if (problem === undefined) return resolve(explicit);
    throw new SetupError(
      `REDIS_SERVER is "${explicit}", and ${problem}. Set it to the path of a redis-server >= ${OLDEST.join('.')}, or unset it to have one found.`,
    );
  }
  for (const path of [...SERVER_NAMES.flatMap(onPath), cachedServer]) {
    const problem = existsSync(path) ? whyUnusable(path) : 'absent';
    if (problem === undefined) return path;
    if (problem !== 'absent') say(`Not using ${path}: ${problem}.`);
  }
  return undefined;
}

/** The path of a usable server, provided by the system's package manager if need be. */
export async function ensureRedisServer() {
  const found = findRedisServer();
  if (found !== undefined) return found;
  const failures = [];
  for (const source of sources) {
    if (!source.applies()) continue;
    if (source.outside && !(await isAllowed(source))) {
      failures.push(`${source.name}: not wanted`);
      continue;
    }
    say(`No usable redis-server found. ${source.says}`);
    try {
      source.provide();
      const provided = findRedisServer();
      if (provided !== undefined) return provided;
      failures.push(`${source.name}: it brought no usable server`);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      failures.push(`${source.name}: ${error.message}`);
    }
  }
  const tried = failures.length > 0 ? `\nTried:\n  ${failures.join('\n  ')}` : '';
  throw new SetupError(
    `No redis-server was found or could be provided.${tried}\n${HOW_TO_INSTALL}`,
  );
}

/**
 * Where a server can come from. `says` is printed before `provide` runs; `outside` marks what changes the system
 * rather than the project's folder.
 */
const sources = [
  {
    name: 'apt-get install',
    outside: true,
    says: 'Installing the package "redis-tools" with apt-get; it holds the server but starts no service.',
    applies: () => isRoot() && hasCommand('apt-get'),
    provide() {
      const env = { DEBIAN_FRONTEND: 'noninteractive' };
      const install = ['install', '-y', '--no-install-recommends', 'redis-tools'];
      run('apt-get', ['update'], { env });
      run('apt-get', install, { env });
      // The server and redis-check-rdb are one program, told apart by its name; the package "redis-server" adds a
      // link of that name, and the system service that we don't want beside the developer's own.
      linkServer('/usr/bin/redis-check-rdb');
    },
  },
  {
    name: 'apt-get download',
    outside: false,
    says: `Unpacking the packages "redis-server" and "redis-tools" into ${relative(root, cache)} (nothing is installed).`,
    applies: () => hasCommand('apt-get') && hasCommand('dpkg-deb'),
    provide: unpackDebianPackages,
  },
  {
    name: 'brew install',
    outside: true,
    says: 'Installing the formula "redis" with brew; it starts no service.',
    applies: () => hasCommand('brew'),
    provide: () => run('brew', ['install', 'redis']),
  },
  {
    name: 'apk add',
    outside: true,
    says: 'Installing the package "redis" with apk; it starts no service.',
    applies: () => isRoot() && hasCommand('apk'),
    provide: () => runFirst(['apk', 'add', '--no-cache'], ['redis', 'valkey']),
  },
  {
    name: 'dnf install',
    outside: true,
    says: 'Installing the package "redis" or "valkey" with dnf; it starts no service.',
    applies: () => isRoot() && hasCommand('dnf'),
    provide: () => runFirst(['dnf', 'install', '-y'], ['redis', 'valkey']),
  },
];

/** Whether a change outside the project's folder may be made: by the person at the terminal, or because nobody is. */
async function isAllowed({ name, says }) {
  if (!process.stdin.isTTY || !process.stdout.isTTY || process.env.CI) return true;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(
      `No usable redis-server found.\n${says}\nThis changes the system (${name}). Go on? [y/N] `,
    );
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

/**
 * Gets a server from Debian's packages without being root: downloads them, and those shared libraries that this
 * system lacks, unpacks all into one folder, and puts a script beside it that runs the server with these libraries.
 */
function unpackDebianPackages() {
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, 'unpacking-'));
  try {
    const tree = join(work, 'root');
    const apt = aptFor(work);
    const wanted = ['redis-server', 'redis-tools'];
    const had = new Set();
    for (let missing = true; missing && wanted.length > 0;) {
      const batch = wanted.splice(0);
      for (const name of batch) had.add(name);
      apt.download(batch);
      for (const file of readdirSync(work).filter((each) => each.endsWith('.deb'))) {
        run('dpkg-deb', ['-x', join(work, file), tree]);
        rmSync(join(work, file));
      }
      missing = lacksLibraries(join(tree, 'usr/bin/redis-server'), tree);
      if (missing) wanted.push(...apt.libraries(batch).filter((name) => !had.has(name)));
    }
    writeFileSync(join(work, 'redis-server'), serverScript(tree), { mode: 0o755 });
    rmSync(unpacked, { recursive: true, force: true });
    rmSync(cachedServer, { force: true });
    renameSync(tree, unpacked);
    // Last of all: while it isn't there, nothing half done is taken for a server.
    renameSync(join(work, 'redis-server'), cachedServer);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** apt-get as anybody may use it: with the system's package lists, or, where they are empty, with lists of our own. */
function aptFor(work) {
  let options = ['-o', 'APT::Sandbox::User='];
  const download = (names) => run('apt-get', [...options, 'download', ...names], { cwd: work });
  return {
    download(names) {
      try {
        download(names);
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        // A slim image has no lists, and old lists name packages that have been replaced since.
        for (const folder of ['lists/partial', 'archives/partial']) {
          mkdirSync(join(work, folder), { recursive: true });
        }
        options = [
          ...['-o', 'APT::Sandbox::User='],
          ...['-o', `Dir::State::Lists=${join(work, 'lists')}`],
          ...['-o', `Dir::Cache=${work}`],
        ];
        run('apt-get', [...options, 'update']);
        download(names);
      }
    },
    /** The libraries that these packages depend on directly and that aren't installed. */
    libraries(names) {
      const listing = capture('apt-cache', [...options, 'depends', '--important', ...names]);
      const depends = [...listing.matchAll(/^ *\|?(?:Pre)?Depends: ((?:lib|lua-)\S+)$/gm)];
      return [...new Set(depends.map(([, name]) => name))].filter((name) => !isInstalled(name));
    },
  };
}

function isInstalled(name) {
  const { stdout } = spawnSync('dpkg-query', ['-W', '-f', '${Status}', name], { encoding: 'utf8' });
  return stdout.includes('install ok installed');
}

function lacksLibraries(server, tree) {
  const env = { LD_LIBRARY_PATH: libraryFolders(tree).join(':') };
  return capture('ldd', [server], { env }).includes('not found');
}

function libraryFolders(tree) {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => /\.so(\.\d+)*$/.test(entry.name))
    .map((entry) => entry.parentPath ?? entry.path)
    .filter((folder, at, all) => all.indexOf(folder) === at);
}

/** Paths are relative to the script, so that the project's folder may move. */
function serverScript(tree) {
  const folders = libraryFolders(tree).map((folder) => `$here/root/${relative(tree, folder)}`);
  return `#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="${folders.join(':')}\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$here/root/usr/bin/redis-server" "$@"
`;
}

/** Makes a program that acts as the server under that name known as our cached server. */
function linkServer(program) {
  mkdirSync(cache, { recursive: true });
  rmSync(cachedServer, { force: true });
  symlinkSync(program, cachedServer);
}

/** Why a program can't serve; `undefined` if it can. */
function whyUnusable(path) {
  try {
    accessSync(path, constants.X_OK);
    if (!statSync(path).isFile()) return 'it is not a file';
  } catch (error) {
    return error.code === 'ENOENT' ? 'it does not exist' : 'it cannot be executed';
  }
  const { stdout, stderr, error, status } = spawnSync(path, ['--version'], {
    encoding: 'utf8',
    timeout: 10_000,
  });
  if (error) return `it does not run (${error.message})`;
  // "Redis server v=7.0.15 sha=..." or "Valkey server v=8.1.1 sha=..."
  const version = /\bserver v=(\d+)\.(\d+)/i.exec(stdout);
  if (!version) {
    const [firstLine = ''] = `${stdout}${stderr}`.trim().split('\n');
    return `"--version" does not answer as a server does (exit code ${status}${firstLine && `: ${firstLine}`})`;
  }
  const [major, minor] = [Number(version[1]), Number(version[2])];
  const isNewEnough = major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
  return isNewEnough
    ? undefined
    : `it is version ${major}.${minor}, older than ${OLDEST.join('.')}`;
}

function onPath(name) {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name)).filter((path) => existsSync(path));
}

const hasCommand = (name) => onPath(name).length > 0;
const isRoot = () => process.getuid?.() === 0;

/** A command of a source that failed: a reason to try the next source. */
class CommandError extends Error {
  name = 'CommandError';
}

/** Runs a command and shows its output if it fails: package managers say much when they succeed. */
function run(command, args, options = {}) {
  capture(command, args, options);
}

function capture(command, args, { env = {}, cwd = root } = {}) {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    cwd,
    env: { ...process.env, LC_ALL: 'C', ...env },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 * 1024 * 1024,
  });
  if (!error && status === 0) return stdout;
  const output = `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n').slice(-5).join('\n    ');
  throw new CommandError(
    `"${[command, ...args].join(' ')}" failed (${error?.message ?? `exit code ${status}`})\n    ${output}`,
  );
}

/** The first of several packages that the distribution has. */
function runFirst([command, ...args], names) {
  for (const [at, name] of names.entries()) {
    try {
      return run(command, [...args, name]);
    } catch (error) {
      if (!(error instanceof CommandError) || at === names.length - 1) throw error;
    }
  }
}

function say(text) {
  console.error(`[setup] ${text}`);
}

async function main() {
  const parts = process.argv.slice(2);
  const unknown = parts.find((part) => part !== 'deps' && part !== 'redis');
  if (unknown !== undefined) {
    throw new SetupError(`Unknown part "${unknown}". Usage: node tools/setup.mjs [deps] [redis]`);
  }
  if (parts.length === 0 || parts.includes('deps')) ensureDependencies();
  if (parts.length === 0 || parts.includes('redis')) console.log(await ensureRedisServer());
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}
