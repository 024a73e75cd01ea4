import { Redis, type RedisOptions } from 'ioredis';

const SWITCHED = '+switch-master';
const SENTINEL_PORT = 26_379;
const LONGEST_RECONNECT_DELAY = 5_000;

/**
 * Hears from the Sentinels that another master was elected, and has the connections that it follows go there.
 *
 * The old master may be well, and cut off from the others only; and even in a planned failover it's told last, some ten
 * seconds after the new one was. Who stayed with it until then would be granted locks that the new one knows nothing of.
 *
 * Each Sentinel tells it when it knows, not all at once, and a connection asks any of them for the address: so it's
 * looked at once more when the next one tells, and when it's there. (ioredis' own `failoverDetector` ends a connection for
 * good that is on its way at that moment, and does so for other masters' failovers as well.)
 */
export class FailoverWatch {
  readonly #name: string;
  readonly #sentinels: readonly Redis[];
  readonly #followed = new Set<Redis>();
  /** On their way, perhaps to the old master. */
  readonly #unsure = new Set<Redis>();
  #elected: Address | undefined;

  constructor(options: RedisOptions, timeout: number) {
    this.#name = options.name ?? '';
    this.#sentinels = (options.sentinels ?? []).map(({ host, port, family }) =>
      this.#listenTo({
        host: host ?? '127.0.0.1',
        port: port ?? SENTINEL_PORT,
        ...(family !== undefined && { family }),
        ...(options.sentinelUsername && { username: options.sentinelUsername }),
        ...(options.sentinelPassword && { password: options.sentinelPassword }),
        ...(options.sentinelTLS && { tls: options.sentinelTLS }),
        connectTimeout: timeout,
        commandTimeout: timeout,
      }),
    );
  }

  follow(client: Redis): void {
    this.#followed.add(client);
    client.on('ready', () => {
      if (this.#unsure.delete(client) && !this.#isAtMaster(client)) leave(client);
    });
    client.once('end', () => this.#followed.delete(client));
  }

  close(): void {
    for (const sentinel of this.#sentinels) {
      sentinel.removeAllListeners();
      sentinel.on('error', () => {});
      sentinel.disconnect();
    }
    this.#followed.clear();
  }

  #listenTo(options: RedisOptions): Redis {
    const sentinel = new Redis({
      ...options,
      enableReadyCheck: false,
      disconnectTimeout: 200,
      enableOfflineQueue: false,
      autoResubscribe: false,
      replyMapping: 'legacy',
      maxRetriesPerRequest: 0,
      retryStrategy: (times) => Math.min(100 * times, LONGEST_RECONNECT_DELAY),
    });
    // Whether it can be reached shows where it's asked for an address.
    sentinel.on('error', () => {});
    sentinel.on('ready', () => {
      sentinel.subscribe(SWITCHED).catch(() => {
        if (sentinel.status === 'ready') sentinel.disconnect(true);
      });
    });
    sentinel.on('message', (_channel: string, message: string) => this.#onSwitched(message));
    return sentinel;
  }

  /** `<name> <old host> <old port> <new host> <new port>` */
  #onSwitched(message: string): void {
    const [name, , , host = '', port = ''] = message.split(' ');
    if (name !== this.#name) return;
    this.#elected = { host, port: Number(port) };
    for (const client of this.#followed) {
      if (client.status === 'ready' || client.status === 'connect') {
        if (!this.#isAtMaster(client)) leave(client);
        continue;
      }
      this.#unsure.add(client);
      if (client.status === 'reconnecting') endPause(client);
    }
  }

  /** Not known where an address is mapped or is a name: then it seems not to be, which costs a reconnection. */
  #isAtMaster(client: Redis): boolean {
    const { stream } = client as { stream?: { remoteAddress?: string; remotePort?: number } };
    return (
      stream?.remotePort === this.#elected?.port && stream?.remoteAddress === this.#elected?.host
    );
  }
}

function leave(client: Redis): void {
  // Why, for whoever asks before the new one is reached.
  client.emit('error', new Error('The Sentinels have elected another master.'));
  client.disconnect(true);
}

/**
 * Has a connection tried again at once. Its timer is no documented property of ioredis: without it, it sits out its pause,
 * since a timer that is left would open the connection again after its end.
 */
function endPause(client: Redis): void {
  const inside = client as unknown as { reconnectTimeout?: NodeJS.Timeout | null };
  if (!inside.reconnectTimeout) return;
  clearTimeout(inside.reconnectTimeout);
  inside.reconnectTimeout = null;
  client.connect().catch(() => {});
}

interface Address {
  readonly host: string;
  readonly port: number;
}
