/**
 * Checks what users get: the packed tarball, not the source tree.
 *   1. it holds the files it should and no others, and imports only what it declares
 *   2. publint and "are the types wrong?" find nothing
 *   3. installed in an empty project, it passes the type check, and an application on it boots, locks, closes and
 *      ends: as ESM and as CommonJS, on each major version of Nest; and its command line runs
 *
 * The projects live in a temporary folder and get everything from the registry, as a user's would.
 *
 * Usage: node tools/check-package.mjs [--keep]    --keep leaves the projects there to look at
 */
import { spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

/** Nest 12 is ESM alone, so the CommonJS project on it also shows that `require` of an ES module is enough. */
const projects = [
  { name: 'ESM on Nest 12, ioredis 6', type: 'module', nest: '^12', ioredis: '^6' },
  { name: 'CommonJS on Nest 11, ioredis 5', type: 'commonjs', nest: '^11', ioredis: '^5' },
  { name: 'CommonJS on Nest 12, ioredis 6', type: 'commonjs', nest: '^12', ioredis: '^6' },
];

/** How long the application may take from start to the end of its process. */
const RUN_TIMEOUT = 30_000;

/** What a user would suffer from; told by its message alone. */
class PackageProblem extends Error {
  name = 'PackageProblem';
}

async function main() {
  const work = mkdtempSync(join(tmpdir(), 'nestjs-redis-lock-package-'));
  try {
    await execute('building', process.execPath, ['tools/build.mjs']);
    const tarball = await pack(work);
    await step('file list', () => checkFiles(tarball.files));
    await step('imports', () => checkImports(tarball.files));
    await step('publint', () =>
      execute('publint', process.execPath, [
        bin('publint/src/cli.js'),
        'run',
        '--strict',
        tarball.path,
      ]),
    );
    await step('are the types wrong?', () =>
      execute('attw', process.execPath, [
        bin('@arethetypeswrong/cli/dist/index.js'),
        ...['--no-definitely-typed', '--no-emoji', '--format', 'ascii', tarball.path],
      ]),
    );
    for (const [at, project] of projects.entries()) {
      await step(project.name, () => checkProject(project, join(work, `project-${at}`), tarball));
    }
  } finally {
    if (process.argv.includes('--keep')) console.log(`Kept ${work}`);
    else rmSync(work, { recursive: true, force: true });
  }
}

async function step(name, check) {
  const begin = performance.now();
  await check();
  console.log(`ok  ${name} (${((performance.now() - begin) / 1_000).toFixed(1)} s)`);
}

async function pack(folder) {
  const output = await execute('npm pack', 'npm', ['pack', '--json', '--pack-destination', folder]);
  const [report] = Object.values(JSON.parse(output));
  return { path: join(folder, report.filename), files: report.files.map(({ path }) => path) };
}

function checkFiles(files) {
  const allowed =
    /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|dist\/(esm|cjs)\/(package\.json|.+\.js|.+\.d\.ts))$/;
  const strangers = files.filter((file) => !allowed.test(file));
  if (strangers.length > 0) throw new PackageProblem(`must not be in it: ${strangers.join(', ')}`);

  // The command line is a program and no module, hence in one format.
  const formats = ['esm', 'cjs'].map((format) =>
    files
      .filter((file) => file.startsWith(`dist/${format}/`) && !file.startsWith('dist/esm/cli/'))
      .map((file) => file.slice(9)),
  );
  const [esm, cjs] = formats.map((list) => list.toSorted().join('\n'));
  if (esm !== cjs) throw new PackageProblem('dist/esm and dist/cjs do not hold the same files');

  const required = [
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    ...entryFiles(manifest.exports),
    ...entryFiles(manifest.bin),
  ];
  const missing = required.filter((file) => !files.includes(file));
  if (missing.length > 0) throw new PackageProblem(`is missing in it: ${missing.join(', ')}`);
}

/** All files that the `exports` of package.json name. */
function entryFiles(target) {
  if (typeof target === 'string') return [target.replace('./', '')];
  return Object.values(target).flatMap(entryFiles);
}

/** A type that comes from a development dependency breaks the build of every user who lacks it. */
function checkImports(files) {
  const declared = new Set([
    ...Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }),
    ...builtinModules.map((name) => `node:${name}`),
  ]);
  for (const file of files.filter((each) => /\.(js|d\.ts)$/.test(each))) {
    const text = readFileSync(join(root, file), 'utf8').replace(/^\s*(\*|\/\/|\/\*).*$/gm, '');
    const imports = text.matchAll(/(?:\bfrom|\bimport|\brequire\(|\bimport\()\s*["']([^"']+)["']/g);
    for (const [, specifier] of imports) {
      const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
      if (!specifier.startsWith('.') && !declared.has(specifier) && !declared.has(name)) {
        throw new PackageProblem(
          `${file} imports ${specifier}, which package.json doesn't declare`,
        );
      }
    }
  }
}

async function checkProject({ type, nest, ioredis }, folder, tarball) {
  mkdirSync(folder);
  copyFileSync(join(root, 'test/package/app.ts'), join(folder, 'app.ts'));
  writeJson(join(folder, 'package.json'), {
    name: 'a-user-of-the-package',
    private: true,
    type,
    dependencies: {
      '@nestjs/common': nest,
      '@nestjs/core': nest,
      ioredis,
      [manifest.name]: `file:${tarball.path}`,
      'reflect-metadata': manifest.devDependencies['reflect-metadata'],
      rxjs: manifest.devDependencies['rxjs'],
    },
    devDependencies: { '@types/node': manifest.devDependencies['@types/node'] },
  });
  writeJson(join(folder, 'tsconfig.json'), {
    compilerOptions: {
      target: 'es2023',
      module: 'nodenext',
      types: ['node'],
      strict: true,
      experimentalDecorators: true,
      emitDecoratorMetadata: true,
      rootDir: '.',
      outDir: 'dist',
      // Declarations of ours that don't compile are what we look for.
      skipLibCheck: false,
    },
    files: ['app.ts'],
  });
  const install = ['install', '--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline'];
  await execute('npm install', 'npm', install, { cwd: folder });
  await execute('type check', process.execPath, [bin('typescript/bin/tsc'), '-p', folder]);
  await checkCommandLine(folder);
  const output = await execute('application', process.execPath, ['dist/app.js'], {
    cwd: folder,
    timeout: RUN_TIMEOUT,
  });
  checkOutput(output.trim().split('\n').at(-1));
}

/** As a user runs it, by the link that npm has made. */
async function checkCommandLine(folder) {
  const [name] = Object.keys(manifest.bin);
  const output = await execute(name, 'npx', ['--no-install', name, '--version'], {
    cwd: folder,
    timeout: RUN_TIMEOUT,
  });
  if (output.trim() !== manifest.version) {
    throw new PackageProblem(`${name} --version printed "${output.trim()}"`);
  }
}

function checkOutput(line) {
  let result;
  try {
    result = JSON.parse(line);
  } catch {
    throw new PackageProblem(`the application printed "${line}" in place of its result`);
  }
  if (result.decorated !== 'paid 42' || !Number.isSafeInteger(result.fencingToken)) {
    throw new PackageProblem(`the application's result is wrong: ${line}`);
  }
}

/** Runs a command to its end and answers with its stdout; its whole output tells why it failed. */
function execute(what, command, args, { cwd = root, timeout = 600_000 } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      timeout,
      killSignal: 'SIGKILL',
      stdio: ['ignore', 'pipe', 'pipe'],
      shell: process.platform === 'win32' && (command === 'npm' || command === 'npx'),
    });
    let stdout = '';
    let all = '';
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
      all += chunk;
    });
    child.stderr.on('data', (chunk) => (all += chunk));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) return resolve(stdout);
      const how = signal
        ? `did not end by itself within ${timeout / 1_000} s`
        : `exit code ${code}`;
      reject(new PackageProblem(`${what}: ${how}\n${all.trim()}`));
    });
  });
}

function bin(path) {
  return join(root, 'node_modules', path);
}

function writeJson(path, value) {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof PackageProblem)) throw error;
  console.error(`The package is not fit to publish: ${error.message}`);
  process.exitCode = 1;
}
