import { type ChildProcess, fork, type Serializable } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { Watchdog } from '../../test/support/watchdog.js';

/**
 * A Node process of ours, spoken to in messages. It never outlives us; what it prints stands in the error if it ends
 * before it has said what was waited for.
 */
export class WatchedProcess {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #received: unknown[] = [];
  #onNews: (() => void) | undefined;
  #output = '';
  #ended: string | undefined;

  constructor(file: URL, args: string[], nodeOptions: string[] = []) {
    const child = fork(fileURLToPath(file), args, {
      execArgv: nodeOptions,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    const watchdog = child.pid === undefined ? undefined : new Watchdog(child.pid);
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#output = (this.#output + chunk.toString()).slice(-4_096);
      });
    }
    child.on('message', (message) => {
      this.#received.push(message);
      this.#onNews?.();
    });
    this.#exited = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#output += error.message;
      });
      child.once('close', (code, signal) => {
        watchdog?.dismiss();
        this.#ended = signal ?? `code ${code}`;
        this.#onNews?.();
        resolve();
      });
    });
  }

  send(message: unknown): void {
    // One that has just ended is found by the next wait, with a better message.
    this.#child.send(message as Serializable, () => {});
  }

  /** The next message; at most one caller waits at a time. */
  async next<M>(timeout: number): Promise<M> {
    const end = performance.now() + timeout;
    while (this.#received.length === 0) {
      if (this.#ended !== undefined) {
        throw new Error(`The process ended (${this.#ended}). It printed:\n${this.#output}`);
      }
      const left = end - performance.now();
      if (left <= 0) {
        throw new Error(`The process said nothing for ${timeout} ms. It printed:\n${this.#output}`);
      }
      await this.#news(left);
    }
    return this.#received.shift() as M;
  }

  /** Waits until it has ended, or ends it. */
  async end(patience: number): Promise<void> {
    const timer = setTimeout(() => this.kill(), patience);
    await this.#exited;
    clearTimeout(timer);
  }

  kill(): void {
    if (this.#ended === undefined) this.#child.kill('SIGKILL');
  }

  async #news(timeout: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeout);
      this.#onNews = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#onNews = undefined;
  }
}
