/**
 * Sees in Redis' own stream of commands (MONITOR) who enters and leaves the queues, and what is logged: all in the one
 * order in which the server did it, without a part of what it watches.
 *
 * A script's commands follow the client's command that ran it; so a place is that of the process whose connection ran
 * the script. A command on a queue that isn't known here ends the test: it would be seen wrongly.
 */
import type { OrderEvent } from './order-judge.js';
import type { LogEntry } from './order-taker.js';
import { type MonitoredCommand, RedisMonitor, words } from './redis-monitor.js';

export interface QueueMonitorOptions {
  readonly port: number;
  /** The name of the connection at an address (`127.0.0.1:1234`). */
  readonly processAt: (address: string) => string | undefined;
  readonly onEvent: (event: OrderEvent) => void;
}

const QUEUE = /^lock:\{(.*)\}:q$/;
/** What changes nothing in a queue. */
const HARMLESS = new Set([
  ...['EXISTS', 'TYPE', 'TTL', 'PTTL', 'EXPIRE', 'PEXPIRE', 'ZCARD', 'ZCOUNT', 'ZSCORE'],
  ...['ZRANK', 'ZRANGE', 'ZRANGEBYSCORE'],
]);

export class QueueMonitor {
  readonly #options: QueueMonitorOptions;
  #monitor: RedisMonitor | undefined;
  readonly #marks = new Map<string, () => void>();
  /** The queues as they are now, by key: token to sequence. */
  readonly #queues = new Map<string, Map<string, number>>();

  private constructor(options: QueueMonitorOptions) {
    this.#options = options;
  }

  static async start(options: QueueMonitorOptions): Promise<QueueMonitor> {
    const monitor = new QueueMonitor(options);
    monitor.#monitor = await RedisMonitor.start(options.port, (command) => monitor.#see(command));
    return monitor;
  }

  get error(): unknown {
    return this.#monitor?.error;
  }

  /** Resolves when this was seen in the stream, and so all that came before it. */
  seen(mark: string): Promise<void> {
    return new Promise((resolve) => this.#marks.set(mark, resolve));
  }

  close(): void {
    this.#monitor?.close();
  }

  #see({ address, ofScript, text }: MonitoredCommand): void {
    if (ofScript ? text.includes(':q"') : text.startsWith('"rpush" "log"')) {
      const [name = '', key = '', ...args] = words(text);
      if (ofScript) this.#onQueueCommand(address, name.toUpperCase(), key, args);
      else this.#onLogged(args[0] as string);
    }
  }

  #onLogged(entry: string): void {
    const mark = this.#marks.get(entry);
    if (mark !== undefined) return mark();
    const [what, key, process, fence] = JSON.parse(entry) as LogEntry;
    this.#options.onEvent({ what, key, process, fence });
  }

  #onQueueCommand(address: string, name: string, redisKey: string, args: readonly string[]): void {
    const key = QUEUE.exec(redisKey)?.[1];
    if (key === undefined || HARMLESS.has(name)) return;
    let queue = this.#queues.get(key);
    if (queue === undefined) this.#queues.set(key, (queue = new Map()));
    switch (name) {
      case 'ZADD':
        for (let i = args.findIndex((arg) => /^\d/.test(arg)); i + 1 < args.length; i += 2) {
          this.#queued(address, key, queue, args[i + 1] as string, Number(args[i]));
        }
        break;
      case 'ZREM':
        for (const token of args) this.#unqueued(key, queue, token);
        break;
      case 'ZPOPMIN':
        for (const [token] of [...queue]
          .toSorted((a, b) => a[1] - b[1])
          .slice(0, Number(args[0] ?? 1))) {
          this.#unqueued(key, queue, token);
        }
        break;
      case 'DEL':
      case 'UNLINK':
        for (const token of [...queue.keys()]) this.#unqueued(key, queue, token);
        break;
      default:
        throw new Error(`The monitor doesn't know what ${name} does to a queue.`);
    }
  }

  #queued(
    address: string,
    key: string,
    queue: Map<string, number>,
    token: string,
    sequence: number,
  ): void {
    const process = this.#options.processAt(address);
    if (process === undefined) throw new Error(`Nobody is known at ${address}.`);
    queue.set(token, sequence);
    this.#options.onEvent({ what: 'queued', key, process, token, sequence });
  }

  #unqueued(key: string, queue: Map<string, number>, token: string): void {
    if (queue.delete(token)) this.#options.onEvent({ what: 'unqueued', key, token });
  }
}
