import type { Redis, RedisOptions } from 'ioredis';

const DEFAULT_PORT = 6379;

/**
 * Where a connection is to go, as it was given: `host:port`, a socket's path, or a master's name behind its Sentinels; without
 * user, password and database, so that it can be shown, and that two connections to one server look alike. Two names of one
 * host don't.
 */
export function givenAddress(where: string | RedisOptions | Redis): string {
  if (typeof where === 'string') {
    const { hostname, port } = new URL(where);
    return joined(hostname, port === '' ? DEFAULT_PORT : Number(port));
  }
  // By shape, since the application may bring another copy of ioredis than ours.
  const options = 'duplicate' in where ? (where as Redis).options : (where as RedisOptions);
  if (options.sentinels) {
    const [first] = options.sentinels;
    return `${options.name} at ${joined(first?.host, first?.port ?? 26_379)}`;
  }
  return options.path ?? joined(options.host, Number(options.port ?? DEFAULT_PORT));
}

/** Where an open connection goes: behind Sentinel, what was given doesn't say. */
export function reachedAddress(client: Redis): string {
  const { host, port, path, sentinels } = client.options;
  if (path !== undefined) return path;
  const { remoteAddress, remotePort } = (client as { stream?: RemoteEnd }).stream ?? {};
  const isFound = (sentinels?.length ?? 0) > 0 && remoteAddress !== undefined;
  return isFound
    ? `${remoteAddress}:${remotePort}`
    : `${host ?? 'localhost'}:${port ?? DEFAULT_PORT}`;
}

interface RemoteEnd {
  readonly remoteAddress?: string;
  readonly remotePort?: number;
}

function joined(host = 'localhost', port: number): string {
  const known = host === '' || host === '127.0.0.1' || host === '[::1]' || host === '::1';
  return `${known ? 'localhost' : host.toLowerCase()}:${port}`;
}
