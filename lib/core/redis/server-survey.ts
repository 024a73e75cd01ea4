import type { Redis } from 'ioredis';

import type { Known, ReplicaFacts, ServerFacts, ServerSurvey } from '../survey.js';
import type { Connection } from './connection.js';
import { reachedAddress } from './server-address.js';

/** A clock is asked so often; the quickest answer says most. */
const CLOCK_SAMPLES = 3;
/** Our own clock is cut to whole ones. */
const WHOLE_MILLISECOND = 1;
/** Sentinels meet on this channel of each server that they watch. */
const SENTINEL_CHANNEL = '__sentinel__:hello';
/** No script has this digest. */
const UNKNOWN_DIGEST = '0'.repeat(40);
/** As the guard asks for it. */
const INFO_IN_SCRIPT = "return type(redis.pcall('INFO', 'server')) == 'string' and 1 or 0";

const SETTINGS = [
  'appendfsync',
  'no-appendfsync-on-rewrite',
  'save',
  'min-replicas-to-write',
  'min-replicas-max-lag',
  'cluster-node-timeout',
] as const;

/**
 * Asks one server for all that decides what a lock on it is worth. It changes nothing there but its statistics.
 *
 * A refusal makes single facts unknown; a server that doesn't answer is unreachable as a whole. `channel`: one that this
 * process may publish on, if it may at all.
 */
export async function surveyServer(
  connection: Connection,
  node: Redis,
  channel: string,
): Promise<ServerSurvey> {
  const inquiry = new Inquiry(connection, node);
  const [info, settings, sentinels, mayPublish, digest, source, infoInScript] = await Promise.all([
    inquiry.info(),
    inquiry.settings(),
    inquiry.ask('PUBSUB', 'NUMSUB', SENTINEL_CHANNEL),
    inquiry.may('PUBLISH', channel, ''),
    inquiry.may('EVALSHA', UNKNOWN_DIGEST, '0'),
    inquiry.may('EVAL', 'return 1', '0'),
    inquiry.ask('EVAL', INFO_IN_SCRIPT, '0'),
  ]);
  const mode = modeOf(info.text('redis_mode'), info.text('server_mode'));
  const clusterState = mode === 'cluster' ? await inquiry.clusterState() : undefined;
  const clock = await inquiry.clock();
  const address = reachedAddress(node);
  const { failure, denied } = inquiry;
  if (failure !== undefined) return { kind: 'unreachable', address, message: failure };
  return {
    kind: 'surveyed',
    address,
    ...productOf(info),
    mode,
    sentinels: Array.isArray(sentinels) ? Number(sentinels[1]) : 'unknown',
    role: roleOf(info.text('role')),
    runId: info.text('run_id'),
    uptime: info.number('uptime_in_seconds'),
    maxmemory: info.number('maxmemory'),
    maxmemoryPolicy: info.text('maxmemory_policy'),
    evictedKeys: info.number('evicted_keys'),
    appendfsync: appendfsyncOf(info.text('aof_enabled'), settings.text('appendfsync')),
    noAppendfsyncOnRewrite: flagOf(settings.text('no-appendfsync-on-rewrite')),
    snapshots: snapshotsOf(settings.text('save')),
    replicas: replicasOf(info),
    minReplicasToWrite: settings.number('min-replicas-to-write'),
    minReplicasMaxLag: settings.number('min-replicas-max-lag'),
    ...(clusterState !== undefined && {
      clusterState,
      clusterNodeTimeout: settings.number('cluster-node-timeout'),
    }),
    clock,
    mayPublish,
    mayRunScripts: both(digest, source),
    mayAskInfoInScripts: source === false ? false : infoInScriptsOf(infoInScript),
    denied,
  };
}

/** The questions to one server: what it refuses is remembered, and whether it stopped answering. */
class Inquiry {
  readonly denied: { command: string; message: string }[] = [];
  /** Why there's no answer, once there was none. */
  failure: string | undefined;

  constructor(
    private readonly connection: Connection,
    private readonly node: Redis,
  ) {}

  /** `undefined`: it was refused, or there's no answer. */
  async ask(command: string, ...args: string[]): Promise<unknown> {
    const answer = await this.#ask(command, args);
    if (answer.kind === 'error') this.#deny(command, args, answer.message);
    return answer.kind === 'reply' ? answer.reply : undefined;
  }

  /** Whether this user may send it. An error of the command itself comes only where it may. */
  async may(command: string, ...args: string[]): Promise<Known<boolean>> {
    const answer = await this.#ask(command, args);
    if (answer.kind === 'reply' || answer.message.startsWith('NOSCRIPT')) return true;
    if (answer.kind === 'none') return 'unknown';
    this.#deny(command, args, answer.message);
    return isForbidden(answer.message) ? false : 'unknown';
  }

  async info(): Promise<Fields> {
    const reply = await this.ask('INFO');
    return Fields.ofLines(typeof reply === 'string' ? reply : '');
  }

  /** One at a time: CONFIG GET takes several only from Redis 7 on. */
  async settings(): Promise<Fields> {
    const replies = await Promise.all(SETTINGS.map((name) => this.ask('CONFIG', 'GET', name)));
    return new Fields(
      new Map(
        replies.flatMap((reply) =>
          Array.isArray(reply) && reply.length === 2
            ? [[String(reply[0]), String(reply[1])] as const]
            : [],
        ),
      ),
    );
  }

  async clusterState(): Promise<Known<string>> {
    const reply = await this.ask('CLUSTER', 'INFO');
    return Fields.ofLines(typeof reply === 'string' ? reply : '').text('cluster_state');
  }

  /**
   * Between our question and its answer the server read its clock; the middle is wrong by half of that time at most.
   * @see Flaviu Cristian: Probabilistic Clock Synchronization (1989)
   */
  async clock(): Promise<ServerFacts['clock']> {
    let best: ServerFacts['clock'] = 'unknown';
    for (let sample = 0; sample < CLOCK_SAMPLES; sample += 1) {
      const answer = await this.#ask('TIME', []);
      const wallTime = Date.now();
      if (answer.kind === 'error') this.#deny('TIME', [], answer.message);
      if (answer.kind !== 'reply') break;
      const half = (answer.receivedAt - answer.sentAt) / 2;
      const uncertainty = half + WHOLE_MILLISECOND / 2;
      if (best !== 'unknown' && best.uncertainty <= uncertainty) continue;
      const [seconds, microseconds] = answer.reply as [string, string];
      const serverTime = Number(seconds) * 1_000 + Number(microseconds) / 1_000;
      best = { offset: serverTime - (wallTime + WHOLE_MILLISECOND / 2 - half), uncertainty };
    }
    return best;
  }

  async #ask(command: string, args: readonly string[]): Promise<Answer> {
    const outcome = await this.connection.ask(this.node, command, args);
    if (outcome.kind === 'reply') return outcome;
    const message = (outcome.cause as Partial<Error> | undefined)?.message ?? outcome.reason;
    if (outcome.reason === 'refused') return { kind: 'error', message };
    this.failure ??= message;
    return { kind: 'none', message };
  }

  #deny(command: string, args: readonly string[], message: string): void {
    const named = SUBCOMMANDS.has(command) ? `${command} ${args[0]}` : command;
    // Once is enough for all of its arguments.
    if (this.denied.some((one) => one.command === named)) return;
    this.denied.push({ command: named, message });
  }
}

type Answer =
  | {
      readonly kind: 'reply';
      readonly reply: unknown;
      readonly sentAt: number;
      readonly receivedAt: number;
    }
  | { readonly kind: 'error' | 'none'; readonly message: string };

const SUBCOMMANDS = new Set(['CONFIG', 'CLUSTER', 'PUBSUB']);

/** Names with values, as INFO and CONFIG GET tell them. */
class Fields {
  constructor(private readonly values: ReadonlyMap<string, string>) {}

  static ofLines(text: string): Fields {
    const pairs = [...text.matchAll(/^([^#:\r\n]+):([^\r\n]*)/gm)];
    return new Fields(new Map(pairs.map(([, name, value]) => [name as string, value as string])));
  }

  text(name: string): Known<string> {
    return this.values.get(name) ?? 'unknown';
  }

  number(name: string): Known<number> {
    const text = this.values.get(name);
    const value = Number(text);
    return text === undefined || text === '' || !Number.isFinite(value) ? 'unknown' : value;
  }
}

/** Where it may not be asked, by an ACL or because the command was renamed or taken away; other errors pass. */
function isForbidden(message: string): boolean {
  return /^NOPERM|unknown command|not allowed|disabled/i.test(message);
}

function productOf(info: Fields): Pick<ServerFacts, 'product' | 'version'> {
  const redis = info.text('redis_version');
  const valkey = info.text('valkey_version');
  const dragonfly = info.text('dragonfly_version');
  if (valkey !== 'unknown') return { product: 'valkey', version: valkey };
  if (dragonfly !== 'unknown') return { product: 'dragonfly', version: dragonfly };
  if (redis === 'unknown') return { product: 'unknown', version: 'unknown' };
  const isKeyDb = /keydb/i.test(info.text('executable'));
  return { product: isKeyDb ? 'keydb' : 'redis', version: redis };
}

/** Valkey has renamed the field. */
function modeOf(redisMode: string, serverMode: string): ServerFacts['mode'] {
  const mode = redisMode === 'unknown' ? serverMode : redisMode;
  return mode === 'standalone' || mode === 'cluster' ? mode : 'unknown';
}

function roleOf(role: string): ServerFacts['role'] {
  if (role === 'master') return 'master';
  return role === 'slave' || role === 'replica' ? 'replica' : 'unknown';
}

function appendfsyncOf(enabled: string, fsync: string): ServerFacts['appendfsync'] {
  if (enabled === '0') return 'off';
  const isPolicy = fsync === 'no' || fsync === 'everysec' || fsync === 'always';
  return enabled === '1' && isPolicy ? fsync : 'unknown';
}

function flagOf(text: string): Known<boolean> {
  return text === 'unknown' ? text : text === 'yes';
}

function snapshotsOf(save: string): Known<boolean> {
  return save === 'unknown' ? save : save !== '';
}

function both(one: Known<boolean>, other: Known<boolean>): Known<boolean> {
  if (one === false || other === false) return false;
  return one === true && other === true ? true : 'unknown';
}

function infoInScriptsOf(reply: unknown): Known<boolean> {
  return reply === undefined ? 'unknown' : reply === 1;
}

function replicasOf(info: Fields): ServerFacts['replicas'] {
  const count = info.number('connected_slaves');
  if (count === 'unknown') return count;
  return Array.from({ length: count }, (_, index): ReplicaFacts => {
    const facts = new Map(
      info
        .text(`slave${index}`)
        .split(',')
        .map((pair) => pair.split('=') as [string, string]),
    );
    const lag = facts.get('lag');
    return {
      address: `${facts.get('ip') ?? 'unknown'}:${facts.get('port') ?? 'unknown'}`,
      state: facts.get('state') ?? 'unknown',
      lag: lag === undefined ? 'unknown' : Number(lag),
    };
  });
}
