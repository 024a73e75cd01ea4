/**
 * A child process that runs one TypeScript file: another replica, as far as a lock can tell.
 *
 *     await using worker = spawnWorker<FromWorker, ToWorker>(new URL('./holder.ts', import.meta.url), { args: [url] });
 *     await worker.next((message) => message.type === 'held');
 *     worker.kill();
 *
 * Messages go over IPC: `process.send({...})` and `process.on('message', ...)` in the worker's file. What has arrived is
 * kept until `next` asks for it, so no message is missed between two waits. What the worker prints stands in the error
 * of a wait that fails. No worker outlives this process: see `watchdog.ts`.
 */
import { type ChildProcess, type Serializable, fork } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Watchdog } from './watchdog.js';

export interface WorkerOptions {
  args?: string[];
  /** Added to this process's environment. */
  env?: Record<string, string>;
}

export interface WorkerExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

const NEXT_TIMEOUT = 10_000;
const STOP_TIMEOUT = 5_000;
/** Compiled ahead (by `npm run torture`), a worker's file needs no loader, and starts in a tenth of the time. */
const compiled = import.meta.url.endsWith('.js');
const loader = compiled ? [] : ['--import', new URL('./register-ts.mjs', import.meta.url).href];

export function spawnWorker<Received = unknown, Sent = unknown>(
  file: URL | string,
  options: WorkerOptions = {},
): TestWorker<Received, Sent> {
  const path = typeof file === 'string' ? file : fileURLToPath(file);
  return new TestWorker(compiled ? path.replace(/\.ts$/, '.js') : path, options);
}

export class TestWorker<Received = unknown, Sent = unknown> {
  /** Resolves when the process is gone. */
  readonly exited: Promise<WorkerExit>;
  readonly #child: ChildProcess;
  readonly #received: Received[] = [];
  readonly #waits = new Set<Wait<Received>>();
  #output = '';
  #exit: WorkerExit | undefined;

  constructor(file: string, { args = [], env = {} }: WorkerOptions) {
    const child = fork(file, args, {
      // Options of the test runner's own process (inspector, vm modules) are none of the worker's.
      execArgv: loader,
      env: { ...process.env, NODE_OPTIONS: '', ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    this.#child = child;
    const watchdog = child.pid === undefined ? undefined : new Watchdog(child.pid);
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#output = (this.#output + chunk.toString()).slice(-16_384);
      });
      (stream as Socket | null)?.unref();
    }
    child.on('message', (message) => this.#onMessage(message as Received));
    this.exited = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#output += error.message;
      });
      child.once('close', (code, signal) => {
        watchdog?.dismiss();
        this.#exit = { code, signal };
        for (const wait of this.#waits) wait.fail(this.#ended());
        resolve(this.#exit);
      });
    });
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error(`The worker did not start: ${this.#output}`);
    return pid;
  }

  /** The end of what the worker has printed so far. */
  get output(): string {
    return this.#output;
  }

  send(message: Sent): void {
    // A worker that has just ended is found by the next wait, with a better message.
    this.#child.send(message as Serializable, () => {});
  }

  /**
   * The first message that matches, of those that arrived and weren't taken yet, or that arrives in time. It's taken
   * out; the others stay for later calls.
   */
  next<M extends Received = Received>(
    matches: ((message: Received) => message is M) | ((message: Received) => boolean) = () => true,
    timeout = NEXT_TIMEOUT,
  ): Promise<M> {
    const at = this.#received.findIndex(matches);
    if (at !== -1) return Promise.resolve(this.#received.splice(at, 1)[0] as M);
    if (this.#exit) return Promise.reject(this.#ended());
    return new Promise<M>((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.#waits.delete(wait);
      };
      const wait: Wait<Received> = {
        matches,
        succeed: (message) => {
          settle();
          resolve(message as M);
        },
        fail: (error) => {
          settle();
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        wait.fail(
          new Error(`No such message from the worker within ${timeout} ms.${this.#said()}`),
        );
      }, timeout);
      this.#waits.add(wait);
    });
  }

  /** Asks the worker to end (SIGTERM), also if it's paused; insists after a while. */
  async stop(): Promise<WorkerExit> {
    if (this.#exit) return this.#exit;
    this.#child.kill('SIGTERM');
    this.#child.kill('SIGCONT');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the worker as a crash would. */
  async kill(): Promise<WorkerExit> {
    if (!this.#exit) this.#child.kill('SIGKILL');
    return this.exited;
  }

  /** Freezes the worker: its connections stay open, its timers stand still. */
  pause(): void {
    this.#child.kill('SIGSTOP');
  }

  resume(): void {
    this.#child.kill('SIGCONT');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #onMessage(message: Received): void {
    for (const wait of this.#waits) {
      if (wait.matches(message)) return wait.succeed(message);
    }
    this.#received.push(message);
  }

  #ended(): Error {
    const how = this.#exit?.signal ?? `code ${this.#exit?.code}`;
    return new Error(`The worker ended (${how}) without such a message.${this.#said()}`);
  }

  #said(): string {
    const kept = this.#received.length > 0 ? ` Not taken: ${JSON.stringify(this.#received)}.` : '';
    return `${kept}${this.#output ? ` It printed:\n${this.#output}` : ''}`;
  }
}

interface Wait<Received> {
  matches(message: Received): boolean;
  succeed(message: Received): void;
  fail(error: Error): void;
}
