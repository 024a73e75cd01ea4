import { createRequire } from 'node:module';
import { join } from 'node:path';

/**
 * A library out of `bench/rivals`, which has its own lock file and is installed by `npm run bench`. What an adapter uses
 * of it, it declares itself: the project is type-checked without the rivals.
 */
export function rival<T>(name: string): T {
  const folder = process.env['BENCH_RIVALS'];
  if (folder === undefined) throw new Error('BENCH_RIVALS is not set: run by `npm run bench`.');
  return createRequire(join(folder, 'package.json'))(name) as T;
}
