/**
 * A process that the show has started, and that ends with it.
 *
 * It's in a process group of its own, for Ctrl-C goes to the whole group of the terminal, and we want to end our
 * processes in order: the replicas, then Redis. In case that we are killed ourselves, a shell waits at the far end of a
 * pipe, which closes with us, and ends the child by its pid.
 */
import { fork, spawn } from 'node:child_process';
import { rmSync } from 'node:fs';

const WATCH = 'read -r _; kill -KILL "$0" 2>/dev/null; [ -z "$1" ] || rm -rf "$1"';
const STOP_TIMEOUT = 8_000;
const KEPT_OUTPUT = 8_192;

export class Child {
  /** All that haven't ended, in the order of their start. */
  static #running = new Set();
  #child;
  #uses;
  #output = '';

  constructor(name, child, { folder = '', uses = false }) {
    this.name = name;
    this.#child = child;
    this.#uses = uses;
    Child.#running.add(this);
    const watchdog = watch(child.pid, folder);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => (this.#output = (this.#output + chunk).slice(-KEPT_OUTPUT)));
    }
    /** Ends when the process is gone. */
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#output += error.message;
        if (child.pid === undefined) child.emit('close');
      });
      child.once('close', () => {
        Child.#running.delete(this);
        watchdog?.kill('SIGKILL');
        if (folder !== '') rmSync(folder, { recursive: true, force: true });
        resolve();
      });
    });
  }

  /** Any program. `folder`: a temporary one of its own, which goes with it. */
  static program(name, path, args, folder) {
    const stdio = ['ignore', 'pipe', 'pipe'];
    return new Child(name, spawn(path, args, { stdio, detached: true }), { folder });
  }

  /** A Node program that sends messages, and that uses what was started before it. */
  static node(name, file, { env, execArgv = [] }) {
    const stdio = ['ignore', 'pipe', 'pipe', 'ipc'];
    const child = fork(file, [], { env, execArgv, stdio, detached: true });
    return new Child(name, child, { uses: true });
  }

  /** Ends whatever runs: those who use something first, and then what they used. */
  static async stopAll() {
    for (const uses of [true, false]) {
      const children = [...Child.#running].filter((child) => child.#uses === uses);
      await Promise.all(children.map((child) => child.stop()));
    }
  }

  get pid() {
    return this.#child.pid;
  }

  get hasEnded() {
    const { exitCode, signalCode, pid } = this.#child;
    return exitCode !== null || signalCode !== null || pid === undefined;
  }

  /** The end of what it has printed. */
  get output() {
    return this.#output;
  }

  onOutput(listener) {
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream.on('data', listener);
  }

  onMessage(listener) {
    this.#child.on('message', listener);
  }

  /** Waits for its end. @throws ChildError with what it printed, unless it went well. */
  async succeed() {
    await this.ended;
    if (this.#child.exitCode !== 0) throw this.error('failed');
  }

  /** Ends when `look` gives something for what was printed or sent so far. Fails if the process ends, or takes too long. */
  async until(what, look, timeout) {
    let timer;
    let listener;
    try {
      return await new Promise((resolve, reject) => {
        const fail = (how) => reject(this.error(how));
        listener = (message) => {
          const found = look(message, this.#output);
          if (found) resolve(found);
        };
        this.onMessage(listener);
        this.onOutput(() => listener(undefined));
        listener(undefined);
        timer = setTimeout(() => fail(`did not ${what} within ${timeout / 1_000} s`), timeout);
        void this.ended.then(() => fail(`ended before it could ${what}`));
      });
    } finally {
      clearTimeout(timer);
      this.#child.off('message', listener);
    }
  }

  /** Asks it to end, and insists after a while. */
  async stop() {
    if (this.hasEnded) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT);
    await this.ended;
    clearTimeout(timer);
  }

  /** `kill -9`: it has no time for anything any more. */
  async kill() {
    if (!this.hasEnded) this.#child.kill('SIGKILL');
    await this.ended;
  }

  /** What it did, and what it says itself. */
  error(how) {
    const said = this.#output.trim();
    return new ChildError(`${this.name} ${how}.${said && ` It says:\n\n${said}\n`}`);
  }
}

/** What a child could not do; its own words are in the message. */
export class ChildError extends Error {
  name = 'ChildError';
}

function watch(pid, folder) {
  if (pid === undefined || process.platform === 'win32') return undefined;
  const shell = spawn('/bin/sh', ['-c', WATCH, String(pid), folder], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  // It waits for us to end; we mustn't wait for it.
  shell.unref();
  shell.stdin.unref();
  return shell;
}
