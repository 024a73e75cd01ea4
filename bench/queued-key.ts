import type { HeldToken, LockBackend } from '../lib/core/backend/lock-backend.js';
import { RedisBackend } from '../lib/core/backend/redis-backend.js';
import { systemClock } from '../lib/core/clock.js';
import { LockEmitter } from '../lib/core/events.js';
import { LockName } from '../lib/core/lock-name.js';

const TTL = 60_000;
const AT_ONCE = 200;
const WAKE_TIMEOUT = 5_000;

/**
 * One key with a holder and any number of waiters in Redis's queue. A process puts only its first waiter there, so
 * thousands of them would take thousands of processes; here one backend speaks for all.
 */
export class QueuedKey {
  readonly #backend: LockBackend;
  readonly #name: LockName;
  readonly #woken: string[] = [];
  #onWoken: (() => void) | undefined;
  #holder: HeldToken;
  #tokens = 0;

  private constructor(backend: LockBackend, key: string) {
    this.#backend = backend;
    this.#name = LockName.of('lock', key);
    this.#holder = this.#newToken();
  }

  static async open(url: string, key: string): Promise<QueuedKey> {
    const options = { connection: url, commandTimeout: 5_000, application: undefined };
    const backend = new RedisBackend(
      { ...options, prefix: 'lock', wakeUp: 'publish' },
      systemClock,
      new LockEmitter(),
    );
    await backend.connect();
    await backend.wakeUp.subscribe();
    const queued = new QueuedKey(backend, key);
    backend.wakeUp.onWake((message) => {
      // Others are only told when to look.
      if (message.kind !== 'woken' || message.within > 0) return;
      queued.#woken.push(message.token);
      queued.#onWoken?.();
    });
    await queued.#take(queued.#holder, false);
    return queued;
  }

  /** Adds so many waiters at the end of the queue. */
  async enqueue(count: number): Promise<void> {
    for (let left = count; left > 0; left -= AT_ONCE) {
      await Promise.all(
        Array.from({ length: Math.min(left, AT_ONCE) }, () => this.#take(this.#newToken(), true)),
      );
    }
  }

  /** What is measured: the holder gives the key back, and the first waiter is told. */
  async release(): Promise<void> {
    const outcome = await this.#backend.release({ ...this.#holder, lastFence: 0, keepFor: 0 });
    if (outcome.kind !== 'released') throw new Error(`The release was not: ${outcome.kind}.`);
  }

  /** The waiter that was told takes the key, and another comes to the end of the queue. */
  async succeed(): Promise<void> {
    const token = await this.#nextWoken();
    this.#holder = { name: this.#name, token, ttl: TTL };
    await this.#take(this.#holder, false);
    await this.enqueue(1);
  }

  close(): Promise<void> {
    return this.#backend.close();
  }

  #newToken(): HeldToken {
    this.#tokens += 1;
    return { name: this.#name, token: `token-${this.#tokens}`, ttl: TTL };
  }

  async #take(token: HeldToken, waits: boolean): Promise<void> {
    const outcome = await this.#backend.tryAcquire({
      ...token,
      notAfter: systemClock.now() + TTL,
      place: waits ? { aliveFor: TTL, sequence: undefined } : undefined,
    });
    const expected = waits ? 'busy' : 'granted';
    if (outcome.kind !== expected) throw new Error(`Expected ${expected}, got ${outcome.kind}.`);
  }

  async #nextWoken(): Promise<string> {
    if (this.#woken.length === 0) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('Nobody was woken.')), WAKE_TIMEOUT);
        this.#onWoken = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.#woken.shift() as string;
  }
}
