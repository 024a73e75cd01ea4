import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RedisServer } from '../../support/redis-server.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import { AppendOnlyFile } from './append-only-file.js';
import { opened, SingleSite } from './single.js';

/** One server that keeps an append-only file, on a machine that may lose its power. */
export class DurableSite extends SingleSite {
  readonly #folder: string;
  readonly #file: AppendOnlyFile;

  private constructor(server: RedisServer, proxies: readonly TcpProxy[], folder: string) {
    super(server, proxies);
    this.#folder = folder;
    this.#file = new AppendOnlyFile(folder);
  }

  static async openDurable(processes: number, sync: 'everysec' | 'always'): Promise<DurableSite> {
    const dir = mkdtempSync(join(tmpdir(), 'redis-lock-torture-'));
    try {
      const args = ['--appendonly', 'yes', '--appendfsync', sync];
      return new DurableSite(...(await opened(processes, { dir, args })), dir);
    } catch (error) {
      rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }

  /** The server is killed, and comes back without what it wrote within the last `ms`. */
  async losePower(ms: number): Promise<void> {
    await this.server.kill();
    this.#file.lose(ms);
    await this.server.restart();
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#file[Symbol.dispose]();
    await super[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
