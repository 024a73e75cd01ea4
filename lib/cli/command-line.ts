import { parseArgs } from 'node:util';

import { LONGEST_DURATION, millisecondsOf } from '../core/duration.js';
import { SHORTEST_TTL } from '../core/options.js';
import { readRedisUrl } from './redis-url.js';

/** What the command line asks for, checked as far as it can be without asking Redis. */
export interface CommandLine {
  readonly command: Command;
  /** Of one Redis, or of all nodes of a quorum. */
  readonly urls: readonly string[];
  /** Whether the URL is that of one node of a Cluster. */
  readonly cluster: boolean;
  /** @default that of the library */
  readonly prefix: string | undefined;
  readonly json: boolean;
}

export type Command =
  | { readonly kind: 'list'; readonly pattern: string | undefined }
  | { readonly kind: 'inspect'; readonly key: string }
  | {
      readonly kind: 'release';
      readonly key: string;
      readonly reason: string | undefined;
      /** Whether nobody is to be asked. */
      readonly confirmed: boolean;
    }
  | { readonly kind: 'watch'; readonly pattern: string | undefined; readonly interval: number }
  | { readonly kind: 'init-guard'; readonly confirmed: boolean }
  /** With the application's options that the diagnosis depends on; `undefined`: that of the library. */
  | {
      readonly kind: 'doctor';
      readonly guard: boolean;
      readonly replicas: number | undefined;
      readonly ttl: number | undefined;
    };

/** Exit codes, as `--help` and the README tell them. */
export const EXIT = {
  done: 0,
  nothing: 1,
  usage: 2,
  unavailable: 3,
  unsafe: 4,
  unsure: 5,
  bug: 70,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const HELP = `Usage: nestjs-redis-lock <command> [options]

Shows the locks that processes hold and wait for, and takes one from a holder that is stuck.

Commands:
  list [PATTERN]     the locks that are held or waited for; PATTERN with * and ?, as 'order:*'
  inspect KEY        who holds a lock, and who waits for it
  release KEY        takes a lock from its holder by force: its signal aborts, and the next
                     who waits gets it; what the holder still writes may overlap with that
  watch [PATTERN]    the list again and again, until Ctrl-C
  doctor             what the servers are set up to keep: which promise holds under which fault,
                     and what to change
  init-guard         once, on a new installation: no process holds a lock, so that the option
                     \`guard\` needn't keep the servers from granting at first

Options:
  --url URL          where Redis is; default: REDIS_URL, or redis://127.0.0.1:6379; for several
                     independent nodes, once for each of them: --url URL --url URL --url URL
  --cluster          the URL is that of one node of a Cluster: asks all of its masters
  --prefix PREFIX    the option \`prefix\` of the application; default: lock
  --json             JSON instead of text; with watch, one line each time
  --reason TEXT      release: why, as the holder and the events are told
  --yes, -y          release, init-guard: don't ask; needed where no terminal can answer
  --interval TIME    watch: how often, as '500ms' or '5s'; default: 2s
  --guard            doctor: the application has the option \`guard\`
  --replicas N       doctor: the option \`replicas: { atLeast: N }\` of the application
  --ttl TIME         doctor: the option \`ttl\` of the application; default: 10s
  --help, -h         this text
  --version          the version

Exit codes:
  0  done
  1  nothing found, or not held, or not done because the answer was no or there are locks
  2  the command line is wrong
  3  Redis can't be asked
  4  doctor: a promise of P1 to P3 is weakened, or no lock can be had
  5  doctor: whether they hold can't be found out
  70 a bug of this program
`;

const DEFAULT_URL = 'redis://127.0.0.1:6379';
const DEFAULT_INTERVAL = '2s';
const SHORTEST_INTERVAL = 100;

/** The command line is wrong; the message says how, and what to write instead. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const OPTIONS = {
  url: { type: 'string', multiple: true },
  cluster: { type: 'boolean' },
  prefix: { type: 'string' },
  json: { type: 'boolean' },
  reason: { type: 'string' },
  yes: { type: 'boolean', short: 'y' },
  interval: { type: 'string' },
  guard: { type: 'boolean' },
  replicas: { type: 'string' },
  ttl: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean' },
} as const;

/** Options that only one command has. */
const ONLY_OF = {
  reason: 'release',
  interval: 'watch',
  guard: 'doctor',
  replicas: 'doctor',
  ttl: 'doctor',
} as const;

/** The commands that ask before they do anything. */
const ASKING: readonly Command['kind'][] = ['release', 'init-guard'];

/** @throws UsageError */
export function readCommandLine(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): CommandLine | 'help' | 'version' {
  const { values, positionals } = parsed(args);
  if (values.help === true) return 'help';
  if (values.version === true) return 'version';
  const [name, ...operands] = positionals;
  const command = commandOf(name, operands, values);
  for (const [option, only] of Object.entries(ONLY_OF)) {
    if (values[option as keyof typeof ONLY_OF] !== undefined && command.kind !== only) {
      throw new UsageError(`--${option} is an option of ${only}, not of ${command.kind}.`);
    }
  }
  if (values.yes !== undefined && !ASKING.includes(command.kind)) {
    throw new UsageError(`--yes is an option of ${ASKING.join(' and ')}, not of ${command.kind}.`);
  }
  const urls = urlsOf(values.url, env['REDIS_URL']);
  const cluster = values.cluster ?? false;
  if (urls.length === 2 || (cluster && urls.length > 1)) {
    const why = cluster
      ? 'of a Cluster, one node tells the others'
      : 'a quorum has 3 nodes or more';
    throw new UsageError(`--url is given ${urls.length} times, but ${why}.`);
  }
  return {
    command,
    urls,
    cluster,
    prefix: values.prefix,
    json: values.json ?? false,
  };
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true, strict: true });
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string };
    if (!String(code).startsWith('ERR_PARSE_ARGS')) throw error;
    throw new UsageError(message);
  }
}

type Values = ReturnType<typeof parsed>['values'];

function commandOf(
  name: string | undefined,
  operands: readonly string[],
  { reason, yes, interval, guard, replicas, ttl }: Values,
): Command {
  switch (name) {
    case 'list':
      return { kind: name, pattern: atMostOne(name, operands) };
    case 'inspect':
      return { kind: name, key: exactlyOne(name, operands) };
    case 'release':
      return { kind: name, key: exactlyOne(name, operands), reason, confirmed: yes ?? false };
    case 'watch':
      return {
        kind: name,
        pattern: atMostOne(name, operands),
        interval: durationOf('interval', interval ?? DEFAULT_INTERVAL, SHORTEST_INTERVAL),
      };
    case 'doctor':
      none(name, operands);
      return {
        kind: name,
        guard: guard ?? false,
        replicas: replicas === undefined ? undefined : replicasOf(replicas),
        ttl: ttl === undefined ? undefined : durationOf('ttl', ttl, SHORTEST_TTL),
      };
    case 'init-guard':
      none(name, operands);
      return { kind: name, confirmed: yes ?? false };
    case undefined:
      throw new UsageError(
        'A command is missing: list, inspect, release, watch, doctor or init-guard.',
      );
    default:
      throw new UsageError(
        `There is no command '${name}', but list, inspect, release, watch, doctor and init-guard.`,
      );
  }
}

function atMostOne(command: string, operands: readonly string[]): string | undefined {
  if (operands.length <= 1) return operands[0];
  // What an unquoted * becomes.
  throw new UsageError(
    `${command} takes one pattern, got ${operands.length}. Write it in quotes, so that the shell leaves it alone: '${operands[0]}'.`,
  );
}

function exactlyOne(command: string, operands: readonly string[]): string {
  const [key] = operands;
  if (key !== undefined && operands.length === 1) return key;
  throw new UsageError(
    `${command} takes one key, got ${operands.length === 0 ? 'none' : operands.length}. Write a key with spaces in quotes, and one that begins with - behind --.`,
  );
}

function none(command: string, operands: readonly string[]): void {
  if (operands.length === 0) return;
  throw new UsageError(`${command} takes no '${operands[0]}'.`);
}

function durationOf(option: string, text: string, shortest: number): number {
  const duration = millisecondsOf(text);
  if (duration === undefined || duration < shortest || duration > LONGEST_DURATION) {
    throw new UsageError(
      `--${option} is a time of at least ${shortest} ms such as '500ms' or '5s', got '${text}'.`,
    );
  }
  return duration;
}

function replicasOf(text: string): number {
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  throw new UsageError(`--replicas is a whole number from 1 to 999, got '${text}'.`);
}

function urlsOf(
  options: readonly string[] | undefined,
  variable: string | undefined,
): readonly string[] {
  const source = options === undefined ? 'REDIS_URL' : '--url';
  const urls = options ?? [variable || DEFAULT_URL];
  for (const url of urls) {
    const read = readRedisUrl(url);
    if ('wrong' in read) throw new UsageError(`${source} ${read.wrong}.`);
  }
  return urls;
}
