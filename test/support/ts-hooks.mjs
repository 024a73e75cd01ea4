/**
 * Module hooks behind `register-ts.mjs`. They run in Node's hooks thread.
 * - `./x.js`, asked for by one of our own files, is `./x.ts` where that exists
 * - `nestjs-redis-lock` is the library's sources, so nothing has to be built first
 * - a `.ts` file is compiled by swc
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { transform } from '@swc/core';
import { swcOptions } from './swc-options.mjs';

const library = new URL('../../lib/index.ts', import.meta.url).href;

export async function resolve(specifier, context, next) {
  if (specifier === 'nestjs-redis-lock') {
    return { url: library, format: 'module', shortCircuit: true };
  }
  const { parentURL } = context;
  if (/^\.{1,2}\/.*\.js$/.test(specifier) && parentURL && !parentURL.includes('/node_modules/')) {
    const url = new URL(specifier.replace(/\.js$/, '.ts'), parentURL);
    if (existsSync(url)) return { url: url.href, format: 'module', shortCircuit: true };
  }
  // Node 20 doesn't know the extension and would refuse the entry file.
  if (specifier.startsWith('file:') && specifier.endsWith('.ts')) {
    return { url: specifier, format: 'module', shortCircuit: true };
  }
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return next(url, context);
  const { code } = await transform(await readFile(new URL(url), 'utf8'), {
    ...swcOptions,
    filename: fileURLToPath(url),
    module: { type: 'es6' },
    sourceMaps: 'inline',
  });
  return { format: 'module', source: code, shortCircuit: true };
}
