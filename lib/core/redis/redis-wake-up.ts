import type { Clock } from '../clock.js';
import type { WakeListener, WakeMessage, WakeUp } from '../wake-up.js';
import type { ConnectionSource, RedisClient } from './connection.js';

/** A timeout that comes so many ms late came to a blocked event loop, and says nothing of the server. */
const BLOCKED = 50;

/**
 * Wake-ups over a subscriber connection of its own, opened when the first caller has to wait and kept from then on:
 * one channel for the whole process, on which a release publishes the token of the waiter that it woke, and the first
 * waiter of a key tells its holder.
 */
export class RedisWakeUp implements WakeUp {
  readonly channel: string;
  #client: RedisClient | undefined;
  #listening = false;
  /** The server won't let us subscribe or publish (ACL): there's only polling. */
  #refused = false;
  #closed = false;
  #checking = false;
  #listener: WakeListener = () => {};
  readonly #subscribers = new Set<() => void>();

  constructor(
    private readonly source: ConnectionSource,
    channel: string,
    private readonly clock: Clock,
    private readonly timeout: number,
    /** A user who may not publish can't be woken by its like either: they share their permissions. */
    private readonly mayPublish: () => Promise<boolean>,
  ) {
    this.channel = channel;
  }

  get listening(): boolean {
    return this.#listening;
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  subscribe(): Promise<void> {
    if (this.#listening || this.#refused || this.#closed) return Promise.resolve();
    this.#client ??= this.#open();
    return new Promise((resolve) => {
      const done = () => {
        timer.cancel();
        this.#subscribers.delete(done);
        resolve();
      };
      const timer = this.clock.after(this.timeout, done);
      this.#subscribers.add(done);
    });
  }

  check(): void {
    const client = this.#client;
    // Connections to a Cluster's nodes are its client's own affair.
    if (!this.#listening || this.#checking || client === undefined || client.isCluster) return;
    this.#checking = true;
    const askedAt = this.clock.now();
    const isSilent = () => this.clock.now() - askedAt < this.timeout + BLOCKED;
    client
      .ping()
      .catch(() => {
        // Late only because our own event loop was blocked: the next check tells.
        if (this.#closed || client.status !== 'ready' || !isSilent()) return;
        this.#listening = false;
        client.disconnect(true);
      })
      .finally(() => {
        this.#checking = false;
      });
  }

  close(): void {
    this.#closed = true;
    this.#listening = false;
    this.#settle();
    this.#client?.removeAllListeners();
    // After removing all listeners: an error without one would be printed.
    this.#client?.on('error', () => {});
    this.#client?.disconnect();
  }

  #open(): RedisClient {
    const client = this.source.open();
    client.on('ready', () => void this.#listen(client));
    client.on('close', () => (this.#listening = false));
    client.on('error', () => {});
    client.on('message', (_channel: string, message: string) => {
      const told = this.#read(message);
      if (told !== undefined) this.#listener(told);
    });
    return client;
  }

  async #listen(client: RedisClient): Promise<void> {
    try {
      await client.subscribe(this.channel);
    } catch (error) {
      if (this.#closed) return;
      // Refused: who waits must know that nobody will tell. Else cut off, which reconnects by itself, or not answered in
      // time, after which nobody knows what the server thinks: only a new connection does.
      if ((error as Partial<Error>).message?.includes('NOPERM')) this.#refuse();
      else if (client.status === 'ready') client.disconnect(true);
      return;
    }
    if (!(await this.mayPublish())) {
      this.#refuse();
      return;
    }
    if (this.#closed || client.status !== 'ready') return;
    this.#listening = true;
    this.#settle();
    // What was published while nobody listened is lost: let everybody look.
    this.#listener({ kind: 'listening' });
  }

  /** `<token>`, `<token> <ms>`, or `+<owner key>`; anything else isn't ours. */
  #read(message: string): WakeMessage | undefined {
    if (message.startsWith('+')) {
      return { kind: 'othersWait', owner: message.slice(1 + this.source.keyPrefix.length) };
    }
    const [token, within = '0'] = message.split(' ');
    return token ? { kind: 'woken', token, within: Number(within) } : undefined;
  }

  #refuse(): void {
    this.#refused = true;
    this.#settle();
  }

  #settle(): void {
    for (const done of [...this.#subscribers]) done();
  }
}
