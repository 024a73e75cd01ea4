/**
 * A real redis-server as a child process, on a free loopback port, with its data in a temporary folder of its own. The
 * same program is a node of a Cluster, or a Sentinel; groups of them are in the files beside this one.
 *
 *     running --pause()--> paused --resume()--> running
 *     running | paused --stop() | kill()--> stopped --restart()--> running (same port)
 *
 * By default it persists nothing: a restart is an empty server. `persistence: 'aof'` writes every command to disk
 * before its reply, so `restart()` finds what was acknowledged.
 *
 * No server outlives the process that started it: see `watchdog.ts`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { type Socket, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { eventually } from './eventually.js';
import { Watchdog } from './watchdog.js';

export interface RedisServerOptions {
  /** @default a free one */
  port?: number;
  /** More arguments of redis-server; they come last, so they win. */
  args?: string[];
  /** `false`: memory only. `'aof'`: append-only file, synced on every write. @default false */
  persistence?: false | 'aof';
  /** Added to this process's environment, for the server. */
  env?: Record<string, string>;
  /** Where the server keeps its files. @default a temporary folder that `stop` removes */
  dir?: string;
  /** What the program runs as. A node of a Cluster listens on its port + 10000 as well. @default 'server' */
  kind?: 'server' | 'cluster-node' | 'sentinel';
  /**
   * The settings stand in a file that the server rewrites (CONFIG REWRITE, which a Sentinel sends with each change), so
   * that a restart finds what was changed. A Sentinel always has one. @default false
   */
  keepsSettings?: boolean;
  /** As whom `command` logs in and `url` does; `args` must make the user known. @default nobody */
  user?: RedisUser;
}

export interface RedisUser {
  readonly name: string;
  readonly password: string;
}

const START_TIMEOUT = 10_000;
const STOP_TIMEOUT = 5_000;
const PORT_ATTEMPTS = 5;
/** How far a node's port on the Cluster's bus is from that for clients. */
const BUS_OFFSET = 10_000;

export class RedisServer {
  readonly port: number;
  readonly #options: RedisServerOptions;
  readonly #dir: string;
  readonly #ownsDir: boolean;
  #process: RedisProcess | undefined;

  private constructor(port: number, options: RedisServerOptions) {
    this.port = port;
    this.#options = options;
    this.#ownsDir = options.dir === undefined;
    this.#dir = options.dir ?? mkdtempSync(join(tmpdir(), 'redis-lock-test-'));
  }

  static async start(options: RedisServerOptions = {}): Promise<RedisServer> {
    if (options.port !== undefined) return RedisServer.#startOn(options.port, options);
    // Between our look for a free port and the server's bind, somebody else may take it.
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await RedisServer.#startOn(await freePort(options.kind), options);
      } catch (error) {
        if (!(error instanceof PortTakenError) || attempt === PORT_ATTEMPTS) throw error;
      }
    }
  }

  /** Independent servers, started together: for quorums. */
  static async startMany(count: number, options: RedisServerOptions = {}): Promise<RedisServer[]> {
    const started = await Promise.allSettled(
      Array.from({ length: count }, () => RedisServer.start(options)),
    );
    const failed = started.find((result) => result.status === 'rejected');
    const servers = started.flatMap((result) =>
      result.status === 'fulfilled' ? [result.value] : [],
    );
    if (!failed) return servers;
    await Promise.all(servers.map((server) => server.stop()));
    throw failed.reason;
  }

  static async #startOn(port: number, options: RedisServerOptions): Promise<RedisServer> {
    const server = new RedisServer(port, options);
    try {
      await server.#launch();
    } catch (error) {
      server.#removeDir();
      throw error;
    }
    return server;
  }

  get url(): string {
    const { user } = this.#options;
    return `redis://${user ? `${user.name}:${user.password}@` : ''}127.0.0.1:${this.port}`;
  }

  /** Whether it was started and neither stopped nor killed since. A paused one runs. */
  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  get pid(): number {
    return this.#running().pid;
  }

  /** Ends the server as an operator would (SIGTERM), also if it's paused, and waits until it's gone. */
  async stop(): Promise<void> {
    await this.#process?.end();
    this.#process = undefined;
    this.#removeDir();
  }

  /** Ends the server as a crash would (SIGKILL) and waits until it's gone. It can be started again. */
  async kill(): Promise<void> {
    await this.#process?.kill();
    this.#process = undefined;
  }

  /** Freezes the server: connections stay open, nothing answers. */
  pause(): void {
    process.kill(this.pid, 'SIGSTOP');
  }

  resume(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  /**
   * Crashes the server if it runs, and starts it again on the same port. With `keepData: false` it comes back empty,
   * whatever its persistence. @default keepData: true
   */
  async restart({ keepData = true }: { keepData?: boolean } = {}): Promise<void> {
    await this.kill();
    if (!keepData) {
      for (const file of ['dump.rdb', 'appendonlydir', 'appendonly.aof']) {
        rmSync(join(this.#dir, file), { recursive: true, force: true });
      }
    }
    await this.#launch();
  }

  /** Sends one command and answers with the first bytes of the reply: enough for PING, SET or DEBUG in a test. */
  async command(...words: string[]): Promise<string> {
    return askOnce(this.port, words, this.#options.user);
  }

  /** Like `command`, for one that must succeed: an error reply is thrown. */
  async order(...words: string[]): Promise<string> {
    const reply = await this.command(...words);
    if (!reply.startsWith('-')) return reply;
    throw new Error(`${words.join(' ')}, at port ${this.port}: ${reply.slice(1).trim()}`);
  }

  /** The fields of a section of INFO. */
  async info(section: string): Promise<Readonly<Record<string, string>>> {
    return fieldsOf(await this.order('INFO', section));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #running(): RedisProcess {
    if (!this.#process) throw new Error(`The redis-server on port ${this.port} isn't running.`);
    return this.#process;
  }

  async #launch(): Promise<void> {
    const { kind = 'server', keepsSettings = false, user, env = {} } = this.#options;
    // `stop` has removed it.
    mkdirSync(this.#dir, { recursive: true });
    const args =
      keepsSettings || kind === 'sentinel'
        ? [this.#settingsFile(), ...(kind === 'sentinel' ? ['--sentinel'] : [])]
        : this.#settings();
    const ownedDir = this.#ownsDir ? this.#dir : undefined;
    this.#process = await RedisProcess.launch(
      await redisBinary(),
      this.port,
      args,
      env,
      ownedDir,
      user,
    );
  }

  #settings(): string[] {
    const { persistence = false, kind = 'server', args = [] } = this.#options;
    return [
      ...['--port', String(this.port), '--bind', '127.0.0.1', '--protected-mode', 'no'],
      ...['--dir', this.#dir, '--daemonize', 'no', '--save', ''],
      ...(persistence === 'aof'
        ? ['--appendonly', 'yes', '--appendfsync', 'always']
        : ['--appendonly', 'no']),
      ...(kind === 'cluster-node'
        ? ['--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1']
        : []),
      ...args,
    ];
  }

  /** Written once: from then on it's the server's. */
  #settingsFile(): string {
    const file = join(this.#dir, 'redis.conf');
    if (!existsSync(file)) writeFileSync(file, linesOf(this.#settings()));
    return file;
  }

  #removeDir(): void {
    if (!this.#ownsDir) return;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** One run of the server program, from spawn to exit. */
class RedisProcess {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #output = '';

  private constructor(
    binary: string,
    args: string[],
    env: Record<string, string>,
    ownedDir: string | undefined,
  ) {
    const child = spawn(binary, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    this.#child = child;
    const watchdog = child.pid === undefined ? undefined : new Watchdog(child.pid, ownedDir);
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-4_096);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    this.#exited = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#output += error.message;
      });
      child.once('close', () => {
        watchdog?.dismiss();
        resolve();
      });
    });
    // A server that a failed test forgot must not keep the test process from ending; the watchdog ends it then.
    child.unref();
    for (const stream of [child.stdout, child.stderr]) (stream as Socket).unref();
  }

  static async launch(
    binary: string,
    port: number,
    args: string[],
    env: Record<string, string>,
    ownedDir: string | undefined,
    user: RedisUser | undefined,
  ): Promise<RedisProcess> {
    const server = new RedisProcess(binary, args, env, ownedDir);
    try {
      await eventually(async () => server.#hasExited() || (await isReady(port, server.pid, user)), {
        timeout: START_TIMEOUT,
        interval: 5,
        message: `redis-server on port ${port} takes commands`,
      });
    } catch (error) {
      await server.kill();
      throw error;
    }
    if (server.#hasExited()) {
      await server.#exited;
      if (/address already in use/i.test(server.#output)) throw new PortTakenError(port);
      throw new Error(`redis-server (${binary}) did not start:\n${server.#output}`);
    }
    return server;
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined || this.#hasExited()) throw new Error('This redis-server has ended.');
    return pid;
  }

  async end(): Promise<void> {
    this.#child.ref();
    if (this.#hasExited()) return this.#exited;
    this.#child.kill('SIGTERM');
    // A stopped process gets its SIGTERM only once it goes on.
    this.#child.kill('SIGCONT');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT);
    await this.#exited;
    clearTimeout(timer);
  }

  async kill(): Promise<void> {
    this.#child.ref();
    if (!this.#hasExited()) this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #hasExited(): boolean {
    const { exitCode, signalCode, pid } = this.#child;
    return exitCode !== null || signalCode !== null || pid === undefined;
  }
}

class PortTakenError extends Error {
  override readonly name = 'PortTakenError';

  constructor(port: number) {
    super(`Port ${port} is taken.`);
  }
}

async function redisBinary(): Promise<string> {
  const explicit = process.env['REDIS_SERVER'];
  if (explicit) return explicit;
  for (const name of ['redis-server', 'valkey-server']) {
    for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
      const path = join(folder, name);
      try {
        await access(path, constants.X_OK);
        return path;
      } catch {
        // Not in this folder.
      }
    }
  }
  throw new Error('No redis-server found: run the tests by `npm test`, or set REDIS_SERVER.');
}

async function freePort(kind: RedisServerOptions['kind']): Promise<number> {
  if (kind !== 'cluster-node') return bindOnce(0);
  // The system assigns ports up to 60999 or so; the bus must fit above.
  for (;;) {
    const bus = await bindOnce(0);
    const port = bus - BUS_OFFSET;
    if (port >= 1_024 && (await bindOnce(port).catch(() => 0)) === port) return port;
  }
}

/** Takes a port (0: any) and gives it back: it was free just now. */
async function bindOnce(wanted: number): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(wanted, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('No port was assigned.');
  return address.port;
}

/** Arguments as the lines of a file of settings. */
function linesOf(args: readonly string[]): string {
  const lines: string[] = [];
  for (const word of args) {
    if (word.startsWith('--')) lines.push(word.slice(2));
    else
      lines.push(`${lines.pop() ?? ''} ${/^[^\s"'#]+$/.test(word) ? word : JSON.stringify(word)}`);
  }
  return `${lines.join('\n')}\n`;
}

/** Whether the server on `port` takes commands, and is the one we started: the port may be another's. */
async function isReady(port: number, pid: number, user: RedisUser | undefined): Promise<boolean> {
  try {
    if (!(await askOnce(port, ['PING'], user)).startsWith('+PONG')) return false;
    return (await askOnce(port, ['INFO', 'server'], user)).includes(`process_id:${pid}\r\n`);
  } catch {
    return false;
  }
}

/** What stands in the lines `field:value` of a reply. */
export function fieldsOf(reply: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    [...reply.matchAll(/^([^#\s:][^:\r\n]*):(.*?)\r?$/gm)].map(([, field, value]) => [
      field,
      value,
    ]),
  ) as Record<string, string>;
}

/** One command over a socket of its own: a client library would reconnect, retry and hide what we look for. */
function askOnce(port: number, words: string[], user?: RedisUser): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    socket.setTimeout(2_000, () => socket.destroy(new Error('The server gave no reply in 2 s.')));
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('The server closed the connection.')));
    let toLogin = user ? LOGGED_IN : '';
    let reply = '';
    socket.on('data', (bytes) => {
      reply += bytes.toString();
      if (toLogin !== '' && reply.startsWith(toLogin)) {
        reply = reply.slice(toLogin.length);
        toLogin = '';
      }
      if (reply === '') return;
      resolve(reply);
      socket.destroy();
    });
    const login = user ? encoded(['AUTH', user.name, user.password]) : '';
    socket.write(login + encoded(words));
  });
}

const LOGGED_IN = '+OK\r\n';

function encoded(words: readonly string[]): string {
  return [
    `*${words.length}`,
    ...words.flatMap((word) => [`$${Buffer.byteLength(word)}`, word]),
    '',
  ].join('\r\n');
}
