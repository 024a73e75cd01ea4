import { RedisServer } from '../../support/redis-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import type { Where } from '../where.js';
import { heal, remainsOf, type Site } from './site.js';

const NODES = 5;

/** Five independent servers, and for each process a proxy before each of them. */
export class NodesSite implements Site {
  readonly topology = 'nodes';

  private constructor(
    readonly servers: readonly RedisServer[],
    /** By process, then by server. */
    private readonly proxies: readonly (readonly TcpProxy[])[],
  ) {}

  static async open(processes: number): Promise<NodesSite> {
    const servers = await RedisServer.startMany(NODES);
    try {
      const proxies = await Promise.all(
        Array.from({ length: processes }, () =>
          Promise.all(servers.map(({ port }) => TcpProxy.start(port))),
        ),
      );
      return new NodesSite(servers, proxies);
    } catch (error) {
      await Promise.all(servers.map((server) => server.stop()));
      throw error;
    }
  }

  whereOf(place: number): Where {
    return { kind: 'nodes', urls: this.#of(place).map(({ url }) => url) };
  }

  /** The way of a process to a server. */
  proxy(place: number, server: number): TcpProxy {
    return this.#of(place)[server] as TcpProxy;
  }

  async heal(): Promise<void> {
    for (const proxy of this.proxies.flat()) heal(proxy);
  }

  remains(within: number): Promise<string[]> {
    return remainsOf(
      this.servers.map(({ url }) => url),
      within,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.proxies.flat().map((proxy) => proxy.close()));
    await Promise.all(this.servers.map((server) => server.stop()));
  }

  #of(place: number): readonly TcpProxy[] {
    const proxies = this.proxies[place];
    if (proxies === undefined) throw new Error(`There are no proxies for ${place}.`);
    return proxies;
  }
}
