import { RedisServer, type RedisServerOptions } from '../../support/redis-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import type { Where } from '../where.js';
import { heal, remainsOf, type Site } from './site.js';

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

/** What a site of one server is made of. */
export async function opened(
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
