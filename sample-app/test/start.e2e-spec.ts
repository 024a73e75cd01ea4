/**
 * `npm start` as a program: what it prints, how it exits, and that nothing of it is left. The whole show on a real Redis
 * is run by `.ci/run`; here is what that doesn't reach.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { eventually } from '../../test/support/eventually.js';
import { Watchdog } from '../../test/support/watchdog.js';

const program = fileURLToPath(new URL('../../tools/start.mjs', import.meta.url));
/** It may have to build first. */
const TIMEOUT = 120_000;

describe('npm start', () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'start-test-'));
  });

  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it(
    'shows the same without Redis, in one process, and says so',
    async () => {
      const show = new Show(['--once'], { TMPDIR: folder, REDIS_SERVER: '/there/is/none' });
      expect(await show.ended).toEqual({ code: 0, signal: null });
      expect(show.output).toContain('all three replicas run in ONE process');
      expect(show.output).toMatch(/│ Oversold +│ +40 │ +0 │/);
      expect(show.output).toMatch(/written by │ [ABC]( {2}[ABC]){5} /);
      expect(show.output).toContain('The lock did what it promises.');
    },
    TIMEOUT,
  );

  it(
    'ends all that it has started when it is asked to end (SIGTERM)',
    async () => {
      const show = new Show([], { TMPDIR: folder });
      await eventually(() => show.hasEnded || show.output.includes('Three replicas:'), {
        timeout: TIMEOUT,
      });
      const urls = show.output.match(/(?:redis|http):\/\/127\.0\.0\.1:\d+/g) ?? [];
      // The output tells why, if there are fewer.
      expect({ urls, output: show.output }).toMatchObject({ urls: { length: 4 } });
      expect(readdirSync(folder)).toHaveLength(1);

      show.process.kill('SIGTERM');
      expect(await show.ended).toEqual({ code: 143, signal: null });
      for (const url of urls) {
        await expect(fetch(url.replace('redis:', 'http:'))).rejects.toMatchObject({
          cause: { code: 'ECONNREFUSED' },
        });
      }
      expect(readdirSync(folder)).toEqual([]);
    },
    TIMEOUT,
  );

  it(
    'says why a replica does not come up, and leaves nothing',
    async () => {
      const other = createServer();
      await new Promise<void>((resolve) => {
        other.listen(0, '127.0.0.1', resolve);
      });
      const { port } = other.address() as AddressInfo;
      const show = new Show(['--once'], { TMPDIR: folder, PORT: String(port) });
      expect(await show.ended).toEqual({ code: 1, signal: null });
      expect(show.output).toContain(`Replica A ended before it could listen`);
      expect(show.output).toContain(`address already in use 127.0.0.1:${port}`);
      expect(readdirSync(folder)).toEqual([]);
      await new Promise((resolve) => other.close(resolve));
    },
    TIMEOUT,
  );
});

/** One run of it. */
class Show {
  readonly process: ChildProcess;
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  #output = '';

  constructor(args: string[], env: Record<string, string>) {
    // What is meant for the test runner is none of its business.
    const { NODE_OPTIONS: _options, REDIS_URL: _url, PORT: _port, ...inherited } = process.env;
    this.process = spawn(process.execPath, [program, ...args], { env: { ...inherited, ...env } });
    const watchdog = this.process.pid === undefined ? undefined : new Watchdog(this.process.pid);
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#output += chunk.toString();
      });
    }
    this.ended = new Promise((resolve) => {
      this.process.once('close', (code, signal) => {
        watchdog?.dismiss();
        resolve({ code, signal });
      });
    });
  }

  get hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  get output(): string {
    return this.#output;
  }
}
