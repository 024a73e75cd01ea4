import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../../support/eventually.js';
import type { RedisServer } from '../../support/redis-server.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import { opened, SingleSite } from './single.js';
import { remainsOf } from './site.js';

/**
 * One server whose clock can be moved while it runs: libfaketime reads by how much from a file.
 *
 * Before its own, the server is given the C library's allocator: jemalloc asks for the time while it allocates, and
 * libfaketime allocates while it tells it.
 */
export class ClockSite extends SingleSite {
  readonly #folder: string;
  #offset = 0;

  private constructor(server: RedisServer, proxies: readonly TcpProxy[], folder: string) {
    super(server, proxies);
    this.#folder = folder;
  }

  /** Why there's none here. */
  static unavailable(): string | undefined {
    if (process.env['TORTURE_FAKETIME'] !== undefined) return undefined;
    return process.env['TORTURE_NO_FAKETIME'] ?? 'TORTURE_FAKETIME is not set: use npm run torture';
  }

  static override async open(processes: number): Promise<ClockSite> {
    const folder = mkdtempSync(join(tmpdir(), 'redis-lock-torture-'));
    try {
      write(folder, 0);
      const env = {
        LD_PRELOAD: `${process.env['TORTURE_FAKETIME']}:libc.so.6`,
        FAKETIME_TIMESTAMP_FILE: fileIn(folder),
        FAKETIME_NO_CACHE: '1',
        // Its timers must not jump with it.
        FAKETIME_DONT_FAKE_MONOTONIC: '1',
      };
      return new ClockSite(...(await opened(processes, { env })), folder);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Moves the clock by so much from where it stands, in ms. */
  async moveClock(by: number): Promise<void> {
    this.#offset += by;
    write(this.#folder, this.#offset);
    await eventually(async () => Math.abs((await this.#time()) - Date.now() - this.#offset) < 500, {
      message: "the server's clock has moved",
    });
  }

  override remains(within: number): Promise<string[]> {
    return remainsOf([this.server.url], within, () => Date.now() + this.#offset);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** By its clock, in ms. */
  async #time(): Promise<number> {
    const [, , seconds] = (await this.server.order('TIME')).split('\r\n');
    return Number(seconds) * 1_000 + 500;
  }
}

function fileIn(folder: string): string {
  return join(folder, 'offset');
}

/** In one step, since the server may read it at any time. */
function write(folder: string, offset: number): void {
  const file = fileIn(folder);
  const seconds = (offset / 1_000).toFixed(3);
  writeFileSync(`${file}.new`, `${offset < 0 ? '' : '+'}${seconds}\n`);
  renameSync(`${file}.new`, file);
}
