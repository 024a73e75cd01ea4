/**
 * Builds the library twice from the same sources: `dist/esm` and `dist/cjs`, each with its own types.
 *
 * Node decides by the nearest package.json whether a `.js` file is ESM or CommonJS, and so does TypeScript for the
 * `.d.ts` beside it. Hence each folder gets a package.json that holds nothing but its type.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

function run(script, args) {
  const { status, error } = spawnSync(
    process.execPath,
    [join(root, 'node_modules', script), ...args],
    {
      cwd: root,
      stdio: 'inherit',
    },
  );
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

function markAs(type, folder) {
  mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, folder, 'package.json'), `${JSON.stringify({ type }, null, 2)}\n`);
}

// A file that left the sources must leave the package too.
rmSync(join(root, 'dist'), { recursive: true, force: true });
run('@nestjs/cli/bin/nest.js', ['build', 'nestjs-redis-lock']);
markAs('module', 'dist/esm');
run('typescript/bin/tsc', ['-p', 'tsconfig.cjs.json']);
markAs('commonjs', 'dist/cjs');
console.log('Built dist/esm and dist/cjs.');
