#!/usr/bin/env node
import { existsSync, readFileSync } from 'node:fs';

import { LockError } from '../core/errors.js';
import type { LockUnavailableError } from '../core/errors.js';
import { type CommandLine, EXIT, HELP, readCommandLine, UsageError } from './command-line.js';
import { LockConsole, unavailability } from './lock-console.js';

/** What `npx nestjs-redis-lock` runs. */
async function main(): Promise<number> {
  let line: CommandLine | undefined;
  try {
    const read = readCommandLine(process.argv.slice(2), process.env);
    if (typeof read === 'string') {
      process.stdout.write(read === 'help' ? HELP : `${version()}\n`);
      return EXIT.done;
    }
    line = read;
    return await new LockConsole(line, process).run();
  } catch (error) {
    if (error instanceof UsageError) return complain(`${error.message} See --help.`, EXIT.usage);
    if (!LockError.is(error)) return complain((error as Error).stack ?? String(error), EXIT.bug);
    return error.code === 'LOCK_UNAVAILABLE' && line !== undefined
      ? complain(unavailability(error as LockUnavailableError, line), EXIT.unavailable)
      : complain(error.message, EXIT.usage);
  }
}

function complain(message: string, exitCode: number): number {
  process.stderr.write(`nestjs-redis-lock: ${message}\n`);
  return exitCode;
}

/** That of the package this file is in, which is further up than the build's own package.json. */
function version(): string {
  for (let folder = new URL('./', import.meta.url); ; folder = new URL('../', folder)) {
    const file = new URL('package.json', folder);
    if (existsSync(file)) {
      const found = JSON.parse(readFileSync(file, 'utf8')) as { name?: string; version?: string };
      if (found.name === 'nestjs-redis-lock') return found.version ?? 'unknown';
    }
    if (folder.pathname === '/') return 'unknown';
  }
}

// Whoever reads us may have had enough, as `head` has.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(EXIT.done);
});
process.exitCode = await main();
