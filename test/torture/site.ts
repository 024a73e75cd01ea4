/** The servers of a run, and the ways to them. Each topology has its own, with what can be done to it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { eventually } from '../support/eventually.js';
import { keysInUse } from '../support/lock-keys.js';
import { RedisServer, type RedisServerOptions } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { AppendOnlyFile } from './append-only-file.js';
import type { Where } from './where.js';

export interface Site extends AsyncDisposable {
  readonly topology: Where['kind'];
  /** Where the process at a place in the crew finds it. */
  whereOf(place: number): Where;
  /** Ends whatever a fault has left behind, so that all can finish. */
  heal(): Promise<void>;
  /** The keys that are still in use after so long, in ms. */
  remains(within: number): Promise<string[]>;
}

/** One server, and a proxy before it for each process. */
export class SingleSite implements Site {
  readonly topology = 'single';

  protected constructor(
    readonly server: RedisServer,
    readonly proxies: readonly TcpProxy[],
  ) {}

  static async open(processes: number, options: RedisServerOptions = {}): Promise<SingleSite> {
    return new SingleSite(...(await opened(processes, options)));
  }

  whereOf(place: number): Where {
    return { kind: 'single', url: this.proxy(place).url };
  }

  proxy(place: number): TcpProxy {
    const proxy = this.proxies[place];
    if (proxy === undefined) throw new Error(`There is no proxy for ${place}.`);
    return proxy;
  }

  async heal(): Promise<void> {
    for (const proxy of this.proxies) heal(proxy);
  }

  remains(within: number): Promise<string[]> {
    return remainsOf([this.server.url], within);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.proxies.map((proxy) => proxy.close()));
    await this.server.stop();
  }
}

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

async function opened(
  processes: number,
  options: RedisServerOptions,
): Promise<[server: RedisServer, proxies: TcpProxy[]]> {
  const server = await RedisServer.start(options);
  try {
    const ports = Array.from({ length: processes }, () => server.port);
    return [server, await Promise.all(ports.map((port) => TcpProxy.start(port)))];
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Lets everything through again. */
export function heal(proxy: TcpProxy): void {
  proxy.onRequest = () => 'pass';
  proxy.onReply = () => 'pass';
  proxy.deliverReplies();
  proxy.delay(0);
  proxy.accept();
  proxy.resume();
}

/** The keys that are still in use on any of the servers after so long. */
export async function remainsOf(urls: readonly string[], within: number): Promise<string[]> {
  const clients = urls.map((url) => new Redis(url));
  let last: string[] = [];
  try {
    await eventually(
      async () => {
        last = (await Promise.all(clients.map(keysInUse))).flat();
        return last.length === 0;
      },
      { timeout: within, interval: 50 },
    );
    return [];
  } catch {
    return last;
  } finally {
    for (const client of clients) client.disconnect();
  }
}
