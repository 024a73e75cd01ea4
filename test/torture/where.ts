/** Where a process finds Redis, as it's told on its command line, and how a user of ioredis connects to that. */
import { Cluster, Redis } from 'ioredis';
import type { LockerOptions } from '../../lib/core/options.js';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export type Where =
  | { readonly kind: 'single'; readonly url: string }
  | SentinelWhere
  | { readonly kind: 'cluster'; readonly nodes: readonly Address[] }
  /** Independent servers: a quorum. */
  | { readonly kind: 'nodes'; readonly urls: readonly string[] };

interface SentinelWhere {
  readonly kind: 'sentinel';
  readonly sentinels: readonly Address[];
  readonly name: string;
  readonly username: string;
  readonly password: string;
}

/** Clients with ioredis' defaults, as a library's users pass them in: one, or one for each independent node. */
export function clientsOf(where: Where): (Redis | Cluster)[] {
  const clients = opened(where);
  // A server is killed in most scenarios; without a listener ioredis prints every failed try to connect.
  for (const client of clients) client.on('error', () => {});
  return clients;
}

function opened(where: Where): (Redis | Cluster)[] {
  switch (where.kind) {
    case 'single':
      return [new Redis(where.url)];
    case 'sentinel':
      return [new Redis(sentinelOptions(where))];
    case 'cluster':
      return [new Cluster([...where.nodes])];
    case 'nodes':
      return where.urls.map((url) => new Redis(url));
  }
}

function sentinelOptions({ sentinels, name, username, password }: SentinelWhere) {
  return { sentinels: [...sentinels], name, username, password };
}

/** The same as our option `connection`. */
export function connectionOf(where: Where): LockerOptions['connection'] {
  switch (where.kind) {
    case 'single':
      return where.url;
    case 'sentinel':
      return sentinelOptions(where);
    case 'cluster': {
      // It's duplicated, never used: so it need not connect.
      return new Cluster([...where.nodes], { lazyConnect: true });
    }
    case 'nodes':
      return [...where.urls];
  }
}
