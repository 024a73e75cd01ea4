/** What the URL of a Redis says. */
export interface RedisUrl {
  /** Without the brackets that an IPv6 address has in a URL. */
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly tls: boolean;
  /** `host:port` as a URL has it, without secrets. */
  readonly server: string;
}

const DEFAULT_PORT = 6_379;

/** Reads a URL; or says what is wrong with it, without showing it: it may have a password in it. */
export function readRedisUrl(text: string): RedisUrl | { readonly wrong: string } {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^rediss?:$/.test(url.protocol) || url.hostname === '') {
    return {
      wrong:
        'is not the URL of a Redis. Write redis://host:port, or rediss:// for TLS, with user:password@ before the host where it has one',
    };
  }
  const { hostname, protocol } = url;
  const port = url.port === '' ? DEFAULT_PORT : Number(url.port);
  try {
    return {
      host: hostname.replace(/^\[(.*)\]$/, '$1'),
      port,
      username: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      tls: protocol === 'rediss:',
      server: `${hostname}:${port}`,
    };
  } catch {
    return {
      wrong:
        'is a URL with a % in its user or password that encodes nothing. Write %25 for a %, %40 for an @, %3A for a colon, %2F for a slash',
    };
  }
}
