/**
 * libfaketime, by which a server started with it can be given another time. Looked for where distributions put it, and
 * else unpacked from Debian's package into .cache, without being installed.
 *
 * @see https://github.com/wolfcw/libfaketime
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const cache = fileURLToPath(new URL('../.cache', import.meta.url));
const unpacked = join(cache, 'faketime');
/** A server has several threads. */
const NAME = 'libfaketimeMT.so.1';

/** `{ library }`, or the `reason` why there's none. */
export function ensureFaketime() {
  const found = find();
  if (found !== undefined) return { library: found };
  console.log(
    "[setup] No libfaketime found: unpacking Debian's package into .cache (nothing is installed).",
  );
  const problem = unpack();
  const library = find();
  if (library !== undefined) return { library };
  return {
    reason: `there is no ${NAME} (${problem ?? 'the package has none'}): install libfaketime`,
  };
}

function find() {
  for (const folder of ['/usr/lib', '/usr/local/lib', '/usr/lib64', unpacked]) {
    const library = within(folder);
    if (library !== undefined) return library;
  }
  return undefined;
}

/** Distributions put it into a folder `faketime`, some below one of the architecture. */
function within(folder) {
  const subfolders = existsSync(folder) ? readdirSync(folder) : [];
  return [
    join(folder, NAME),
    join(folder, 'faketime', NAME),
    ...subfolders.map((each) => join(folder, each, 'faketime', NAME)),
    join(folder, 'usr/lib', NAME),
  ].find((path) => existsSync(path));
}

function unpack() {
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, 'unpacking-'));
  const run = (command, args) => {
    const { status, error, stderr } = spawnSync(command, args, { cwd: work, encoding: 'utf8' });
    if (!error && status === 0) return undefined;
    return `${command}: ${error?.message ?? stderr.trim().split('\n').at(-1)}`;
  };
  try {
    const download = () => run('apt-get', ['-o', 'APT::Sandbox::User=', 'download', 'libfaketime']);
    // A slim image has no lists of packages.
    let problem = download();
    if (problem !== undefined) problem = run('apt-get', ['update']) ?? download();
    if (problem !== undefined) return problem;
    const file = readdirSync(work).find((each) => each.endsWith('.deb'));
    const tree = join(work, 'root');
    problem = run('dpkg-deb', ['-x', join(work, file), tree]);
    if (problem !== undefined) return problem;
    const [library] = readdirSync(tree, { recursive: true }).filter((path) => path.endsWith(NAME));
    if (library === undefined) return 'the package has none';
    mkdirSync(unpacked, { recursive: true });
    renameSync(join(tree, library), join(unpacked, NAME));
    return undefined;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
