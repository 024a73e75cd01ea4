/** What the specs on faults have in common: options with short bounds, and looking at the server from beside. */
import { connect } from 'node:net';
import { Redis } from 'ioredis';
import type { LockerOptions } from '../../../lib/core/options.js';
import { keysInUse, recordOf } from '../../support/lock-keys.js';

export const COMMAND_TIMEOUT = 600;
export const WAIT_TIMEOUT = 1_000;
export const TTL = 1_500;
/** What a loaded machine may add to a bound: timers that are late, messages between processes. */
export const SLACK = 400;
/** How long a reserved key waits for the waiter that was woken (lib/core/backend/redis-backend.ts). */
export const CLAIM_WINDOW = 1_000;
/** A connection that was lost is tried again at least this often (lib/core/redis/connection.ts). */
export const LONGEST_RECONNECT = 1_000;

/** `drainTimeout` is short, so that a test may end with locks held. */
export function lockerOptions(url: string, more: Partial<LockerOptions> = {}): LockerOptions {
  return {
    connection: url,
    commandTimeout: COMMAND_TIMEOUT,
    waitTimeout: WAIT_TIMEOUT,
    ttl: TTL,
    drainTimeout: 1,
    ...more,
  };
}

/** A plain connection that looks at the server from beside, and is closed with the test. */
export class Observer implements Disposable {
  readonly redis: Redis;

  constructor(url: string) {
    this.redis = new Redis(url);
    // The server is killed in some tests.
    this.redis.on('error', () => {});
  }

  async isTaken(key: string): Promise<boolean> {
    return (await recordOf(this.redis, `lock:{${key}}`))?.ended === false;
  }

  /** How many processes wait for a key. */
  async waiting(key: string): Promise<number> {
    return this.redis.zcard(`lock:{${key}}:q`);
  }

  /** All keys but what remembers the fencing token of one that's free. */
  remains(): Promise<string[]> {
    return keysInUse(this.redis);
  }

  /** How often a command was called since `CONFIG RESETSTAT`. */
  async calls(command: string): Promise<number> {
    const stats = await this.redis.info('commandstats');
    return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
  }

  [Symbol.dispose](): void {
    this.redis.disconnect();
  }
}

/** Sends bytes to the server as they are; its first reply. */
export function sendRaw(port: number, bytes: Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    socket.once('error', reject);
    socket.once('data', (reply) => {
      resolve(reply.toString());
      socket.destroy();
    });
  });
}
