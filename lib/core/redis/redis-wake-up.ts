import type { Redis } from 'ioredis';

import type { Clock } from '../clock.js';
import type { LockName } from '../lock-name.js';
import type { WakeListener, WakeUp } from '../wake-up.js';
import type { ConnectionSource, RedisClient } from './connection.js';
import { LinkCheck } from './link-check.js';
import { readWakeMessage } from './wake-message.js';

/**
 * Wake-ups over a subscriber connection of its own, opened with the first lease or when the first caller has to wait, and
 * kept from then on: one channel for the whole process, on which a release publishes the token of the waiter that it
 * woke, the first waiter of a key tells its holder, and who takes a lease by force tells whose it was.
 */
export class RedisWakeUp implements WakeUp {
  readonly channel: string;
  #client: RedisClient | undefined;
  /** Subscribed. */
  #hears = false;
  /** Somebody has waited, or is about to. */
  #wanted = false;
  /** The server won't let us subscribe or publish (ACL): there's only polling. */
  #refused = false;
  #closed = false;
  readonly #linkCheck: LinkCheck;
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
    this.#linkCheck = new LinkCheck(clock, timeout);
  }

  get listening(): boolean {
    return this.#hears && this.#wanted;
  }

  /** Whether it's subscribed, whoever for. */
  get hears(): boolean {
    return this.#hears;
  }

  listensTo(): boolean {
    return this.listening;
  }

  /** Where a holder is to be told. */
  get holderChannel(): string {
    return this.channel;
  }

  /** Where a waiter for the name is to be told; empty: nowhere, it polls. */
  channelFor(_name: LockName): string {
    return this.listening ? this.channel : '';
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  attend(): void {
    if (!this.#closed) this.#client ??= this.#open();
  }

  subscribe(): Promise<void> {
    this.#wanted = true;
    if (this.#hears || this.#refused || this.#closed) return Promise.resolve();
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

  /** One subscription serves all names, and stays. */
  unsubscribe(): void {}

  check(): void {
    const client = this.#client;
    // Connections to a Cluster's nodes are its client's own affair.
    if (!this.#hears || client === undefined || client.isCluster) return;
    this.#linkCheck.ask(client as Redis, () => {
      if (this.#closed || client.status !== 'ready') return;
      this.#hears = false;
      client.disconnect(true);
    });
  }

  close(): void {
    this.#closed = true;
    this.#hears = false;
    this.#settle();
    this.#client?.removeAllListeners();
    // After removing all listeners: an error without one would be printed.
    this.#client?.on('error', () => {});
    this.#client?.disconnect();
  }

  #open(): RedisClient {
    const client = this.source.open();
    client.on('ready', () => void this.#listen(client));
    client.on('close', () => (this.#hears = false));
    client.on('error', () => {});
    client.on('message', (_channel: string, message: string) => {
      const told = readWakeMessage(message, this.source.keyPrefix);
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
    this.#hears = true;
    this.#settle();
    // What was published while nobody listened is lost: let everybody look.
    this.#listener({ kind: 'listening' });
  }

  #refuse(): void {
    this.#refused = true;
    this.#settle();
  }

  #settle(): void {
    for (const done of [...this.#subscribers]) done();
  }
}
