/** Compiles sources ahead of a run, so that its processes are plain JavaScript, and start without a loader. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** `folders`: of the project; each file keeps its path below `target`. */
export async function compile(folders, target) {
  // Only now: it may have been installed just before.
  const { transformFile } = await import('@swc/core');
  const { swcOptions } = await import('../test/support/swc-options.mjs');
  rmSync(target, { recursive: true, force: true });
  const sources = folders.flatMap((folder) =>
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
      const file = join(target, source.replace(/\.ts$/, '.js'));
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, code);
    }),
  );
  writeFileSync(join(target, 'package.json'), '{ "type": "module" }\n');
}
