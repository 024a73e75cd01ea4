import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';

import { Cluster } from 'ioredis';

import type { HolderState, LockState } from '../core/backend/lock-backend.js';
import type { LockUnavailableError } from '../core/errors.js';
import { type ForceReleased, Locker } from '../core/locker.js';
import type { LockConnection, LockerOptions, QuorumConnection } from '../core/options.js';
import { type Command, type CommandLine, EXIT, type ExitCode, UsageError } from './command-line.js';
import { diagnosisLines } from './diagnosis-view.js';
import { details, holderLine, listing } from './lock-view.js';
import { readableDuration } from './readable-duration.js';
import { readRedisUrl, type RedisUrl } from './redis-url.js';
import { cut, visible } from './terminal-text.js';

/** A person waits, and may be far away from the server. */
const COMMAND_TIMEOUT = 5_000;
const NAME = 'nestjs-redis-lock';
const CLEAR_LINE_END = '\u001b[K';
const CLEAR_BELOW = '\u001b[J';
const HOME = '\u001b[H';
const CLEAR = `${HOME}\u001b[2J`;

/** Where a console reads and writes: as a process has it. */
export interface Terminal {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/**
 * Runs one command against one Redis, or a quorum of several: what it finds goes to stdout, all else to stderr. Whatever it was, the connection
 * is closed when it ends.
 */
export class LockConsole {
  readonly #line: CommandLine;
  readonly #terminal: Terminal;
  readonly #locker: Locker;

  /** @throws LockConfigError for a prefix that can't be, UsageError. */
  constructor(line: CommandLine, terminal: Terminal) {
    const { command } = line;
    if ('confirmed' in command && !command.confirmed && terminal.stdin.isTTY !== true) {
      const what = command.kind === 'release' ? 'to release it' : 'no lock is held';
      throw new UsageError(`No terminal can answer whether ${what}: say so with --yes.`);
    }
    this.#line = line;
    this.#terminal = terminal;
    this.#locker = new Locker({
      connection: connectionOf(line),
      ...(line.prefix === undefined ? {} : { prefix: line.prefix }),
      // The doctor judges the application's settings, and what it isn't told is as in the library.
      ...(command.kind === 'doctor' ? applicationOf(command) : patienceWith(line)),
      ...(command.kind === 'init-guard' && { guard: true }),
      application: NAME,
    });
  }

  /** @throws LockUnavailableError, LockKeyError, LockConfigError. */
  async run(): Promise<ExitCode> {
    try {
      const { command } = this.#line;
      switch (command.kind) {
        case 'list':
          return await this.#list(command);
        case 'inspect':
          return await this.#inspect(command);
        case 'release':
          return await this.#release(command);
        case 'watch':
          return await this.#watch(command);
        case 'doctor':
          return await this.#diagnose();
        case 'init-guard':
          return await this.#initializeGuard(command);
      }
    } finally {
      await this.#locker.close();
    }
  }

  async #list({ pattern }: Command & { kind: 'list' }): Promise<ExitCode> {
    const states = await this.#locker.query(pattern);
    if (this.#line.json) this.#printJson(states);
    else if (states.length > 0) this.#print(listing(states, Date.now(), this.#room));
    else this.#say(this.#nothing(pattern));
    return states.length > 0 ? EXIT.done : EXIT.nothing;
  }

  /** Those who were shown, by their fencing tokens: one that has come since isn't meant. */
  async #forceRelease(
    { key, held }: LockState,
    reason: string | undefined,
  ): Promise<ForceReleased> {
    const taken: HolderState[] = [];
    // Where nobody holds it, of nobody: the reason is checked there all the same.
    const tokens = held.length > 0 ? held.map((holder) => holder.fencingToken) : [1];
    for (const fencingToken of tokens) {
      const options = { fencingToken, ...(reason !== undefined && { reason }) };
      const outcome = await this.#locker.forceRelease(key, options);
      if (outcome.kind === 'released') taken.push(...outcome.held);
    }
    return taken.length > 0 ? { kind: 'released', held: taken } : { kind: 'not-held' };
  }

  async #inspect({ key }: Command & { kind: 'inspect' }): Promise<ExitCode> {
    const state = await this.#locker.inspect(key);
    if (this.#line.json) this.#printJson(state);
    else this.#print(details(state, Date.now()));
    return isInUse(state) ? EXIT.done : EXIT.nothing;
  }

  async #release({ key, reason, confirmed }: Command & { kind: 'release' }): Promise<ExitCode> {
    const state = await this.#locker.inspect(key);
    if (!confirmed && state.held.length > 0) {
      this.#say(...details(state, Date.now()));
      if (!(await this.#agrees('Release it by force? [y/N] '))) {
        this.#say('Nothing was released.');
        return EXIT.nothing;
      }
    }
    const outcome = await this.#forceRelease(state, reason);
    if (this.#line.json) this.#printJson(outcome);
    if (outcome.kind === 'not-held') {
      if (!this.#line.json) this.#say(`Nobody holds ${quoted(key)}.`);
      return EXIT.nothing;
    }
    if (!this.#line.json) {
      const now = Date.now();
      this.#print([
        `Released ${quoted(key)}:`,
        ...outcome.held.map((holder) => `  ${holderLine(holder, now)}`),
      ]);
    }
    return EXIT.done;
  }

  async #initializeGuard({ confirmed }: Command & { kind: 'init-guard' }): Promise<ExitCode> {
    if (!confirmed) {
      this.#say(
        `A server that lost its data looks like a new one. There must be no process that holds a lock, or believes that it does.`,
      );
      if (!(await this.#agrees('Is this a new installation? [y/N] '))) {
        this.#say('Nothing was done.');
        return EXIT.nothing;
      }
    }
    try {
      const outcome = await this.#locker.initializeGuard({ noLockIsHeld: true });
      if (this.#line.json) this.#printJson({ kind: outcome });
      else if (outcome === 'present') this.#print(['There was a guard already; nothing was done.']);
      else this.#print(['The guard is initialized: locks are granted from now on.']);
      return EXIT.done;
    } catch (error) {
      // Of all that can be wrong with it, only that there are locks.
      if ((error as { code?: unknown }).code !== 'LOCK_CONFIG') throw error;
      this.#say((error as Error).message);
      return EXIT.nothing;
    }
  }

  async #watch({ pattern, interval }: Command & { kind: 'watch' }): Promise<ExitCode> {
    const stopping = new AbortController();
    const stop = () => stopping.abort();
    // A second signal ends it the hard way.
    process.once('SIGINT', stop);
    process.once('SIGTERM', stop);
    try {
      for (let looks = 0; !stopping.signal.aborted; looks += 1) {
        const look = await this.#look(pattern, looks > 0);
        if (stopping.signal.aborted) break;
        this.#show(look, pattern, interval, looks === 0);
        await sleep(interval, undefined, { signal: stopping.signal }).catch(() => {});
      }
    } finally {
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
    }
    return EXIT.done;
  }

  async #diagnose(): Promise<ExitCode> {
    const diagnosis = await this.#locker.diagnose();
    if (this.#line.json) this.#printJson(diagnosis);
    else this.#print(diagnosisLines(diagnosis, this.#room));
    switch (diagnosis.level) {
      case 'strict':
        return EXIT.done;
      case 'unknown':
        return EXIT.unsure;
      default:
        return EXIT.unsafe;
    }
  }

  /** An outage that comes while it's watched is shown and waited out; to begin with, it's an error. */
  async #look(pattern: string | undefined, goesOn: boolean): Promise<Look> {
    try {
      return { locks: await this.#locker.query(pattern) };
    } catch (error) {
      if (!goesOn || (error as { code?: unknown }).code !== 'LOCK_UNAVAILABLE') throw error;
      return { trouble: unavailability(error as LockUnavailableError, this.#line) };
    }
  }

  #show(look: Look, pattern: string | undefined, interval: number, first: boolean): void {
    const { stdout } = this.#terminal;
    const at = new Date();
    if (this.#line.json) {
      stdout.write(`${JSON.stringify({ at, ...look })}\n`);
      return;
    }
    const head = `${at.toISOString()}  ${serverOf(this.#line)}, every ${readableDuration(interval)}`;
    const lines =
      'trouble' in look
        ? [look.trouble]
        : look.locks.length === 0
          ? [this.#nothing(pattern)]
          : listing(look.locks, at.getTime(), this.#room);
    if (stdout.isTTY !== true) {
      this.#print([head, ...lines, '']);
      return;
    }
    // Over what was there, which doesn't flicker; and no more than there's room for.
    const rows = Math.max(2, (stdout.rows || 24) - 3);
    const hidden = lines.length - rows;
    const shown = hidden > 0 ? [...lines.slice(0, rows), `… and ${hidden} more`] : lines;
    const frame = [cut(`${head}, Ctrl-C ends`, this.#room), ...shown].map(
      (line) => `${line}${CLEAR_LINE_END}\n`,
    );
    stdout.write(`${first ? CLEAR : HOME}${frame.join('')}${CLEAR_BELOW}`);
  }

  async #agrees(question: string): Promise<boolean> {
    const { stdin, stderr } = this.#terminal;
    const leaving = new AbortController();
    const asked = createInterface({ input: stdin, output: stderr });
    // Ctrl-C and Ctrl-D are a no.
    asked.once('SIGINT', () => leaving.abort());
    asked.once('close', () => leaving.abort());
    try {
      const answer = await asked.question(question, { signal: leaving.signal });
      return /^y(es)?$/i.test(answer.trim());
    } catch (error) {
      if (!leaving.signal.aborted) throw error;
      stderr.write('\n');
      return false;
    } finally {
      asked.close();
    }
  }

  #nothing(pattern: string | undefined): string {
    const which = pattern === undefined ? 'No lock' : `No lock like ${quoted(pattern)}`;
    const prefix =
      this.#line.prefix === undefined ? '' : ` under the prefix ${quoted(this.#line.prefix)}`;
    return `${which} is held or waited for${prefix}.`;
  }

  /** How many cells a line may take: what isn't shown on a terminal isn't cut, unless COLUMNS says so. */
  get #room(): number {
    const { stdout, env } = this.#terminal;
    const columns = stdout.isTTY === true ? stdout.columns : Number(env['COLUMNS']);
    return columns > 0 ? columns : Number.POSITIVE_INFINITY;
  }

  #print(lines: readonly string[]): void {
    this.#terminal.stdout.write(`${lines.join('\n')}\n`);
  }

  #printJson(value: unknown): void {
    this.#terminal.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
  }

  #say(...lines: readonly string[]): void {
    this.#terminal.stderr.write(`${lines.join('\n')}\n`);
  }
}

type Look = { readonly locks: readonly LockState[] } | { readonly trouble: string };

/** Why Redis can't be asked, and what to look at. */
export function unavailability(error: LockUnavailableError, line: CommandLine): string {
  const { reason, nodes = [] } = error;
  if (reason === 'quorum') {
    const each = nodes.map(
      (told) => `${told.node}: ${[told.answer, causeOf(told)].filter(Boolean).join(', ')}`,
    );
    return `Too few of the nodes of ${serverOf(line)} could be asked: ${visible(each.join('; '))}. Check those that did not answer, and each --url.`;
  }
  const message = causeOf(error);
  const why = visible(message);
  const server = serverOf(line);
  const because = why === '' ? '' : `: ${why.replace(/\.$/, '')}`;
  switch (reason) {
    case 'refused':
      return /^(MOVED|CLUSTERDOWN)/.test(message) && !line.cluster
        ? `Redis at ${server} is a node of a Cluster${because}. Add --cluster.`
        : `Redis at ${server} refused the command${because}. Check the user's permissions, and that the key holds a lock.`;
    case 'no-answer':
      return `Redis at ${server} did not answer in time${because}. Check its load and the network.`;
    default:
      return `Redis at ${server} can't be reached${because}. Check that it runs, and that --url or REDIS_URL is right.`;
  }
}

function causeOf({ cause }: { readonly cause?: unknown }): string {
  const { message = '', code = '' } = (cause ?? {}) as { message?: string; code?: string };
  return message || code;
}

function patienceWith({ urls }: CommandLine): Partial<LockerOptions> {
  return {
    commandTimeout: COMMAND_TIMEOUT,
    ...(urls.length > 1 && { nodeTimeout: COMMAND_TIMEOUT }),
  };
}

function applicationOf({
  guard,
  replicas,
  ttl,
}: Command & { kind: 'doctor' }): Partial<LockerOptions> {
  return {
    ...(guard && { guard }),
    ...(replicas !== undefined && { replicas: { atLeast: replicas } }),
    ...(ttl !== undefined && { ttl }),
  };
}

function connectionOf({ urls, cluster }: CommandLine): LockConnection | QuorumConnection {
  const [url] = urls as [string];
  if (urls.length > 1) return urls;
  if (!cluster) return url;
  const { host, port, username, password, tls } = knownUrl(url);
  // Only duplicated, and never connected itself.
  return new Cluster([{ host, port }], {
    lazyConnect: true,
    redisOptions: {
      ...(username !== '' && { username }),
      ...(password !== '' && { password }),
      ...(tls && { tls: {} }),
    },
  });
}

/** Without what a URL has of secrets. */
function serverOf({ urls }: CommandLine): string {
  return urls.map((url) => knownUrl(url).server).join(', ');
}

/** Of a command line, which was read before: there's nothing wrong with it. */
function knownUrl(url: string): RedisUrl {
  return readRedisUrl(url) as RedisUrl;
}

function isInUse({ held, pending }: LockState): boolean {
  return held.length > 0 || pending.length > 0;
}

function quoted(text: string): string {
  return `'${visible(text)}'`;
}
