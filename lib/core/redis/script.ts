import { type Cluster, Command, Redis } from 'ioredis';

import type { ServerClock } from './server-clock.js';

/** A script as `tools/embed-scripts.mjs` writes it. */
export interface EmbeddedScript {
  readonly name: string;
  /** Which argument, from 0, is a deadline in the time of the server that runs it. */
  readonly deadlineAt: number | null;
  readonly source: string;
  readonly sha1: string;
}

/**
 * A Lua script with the types of its keys, arguments and reply; its file says what they mean. Run by its digest; the
 * source is sent only to a server that doesn't know it (a new one, a restarted one, after SCRIPT FLUSH, another node
 * of a Cluster), which the caller sees by the error.
 */
export class Script<
  Keys extends readonly string[],
  Args extends readonly (string | number)[],
  Reply,
> {
  constructor(private readonly script: EmbeddedScript) {}

  get name(): string {
    return this.script.name;
  }

  /** Whether it has a deadline that only makes sense to one server. */
  get isTimed(): boolean {
    return this.script.deadlineAt !== null;
  }

  /** Its arguments for a server whose clock this is: with the local deadline in its time. */
  timed(args: Args, deadline: number, clock: ServerClock): Args {
    const { deadlineAt } = this.script;
    if (deadlineAt === null) return args;
    return args.with(deadlineAt, Math.floor(clock.notAfter(deadline))) as readonly (
      string | number
    )[] as Args;
  }

  runByDigest(client: Redis | Cluster, keys: Keys, args: Args): Promise<Reply> {
    return run(client, 'evalsha', [this.script.sha1, keys.length, ...keys, ...args]);
  }

  runBySource(client: Redis | Cluster, keys: Keys, args: Args): Promise<Reply> {
    return run(client, 'eval', [this.script.source, keys.length, ...keys, ...args]);
  }
}

export function isUnknownScript(error: unknown): boolean {
  return (error as Partial<Error> | undefined)?.message?.startsWith('NOSCRIPT') === true;
}

function run<R>(
  client: Redis | Cluster,
  name: 'evalsha' | 'eval',
  args: (string | number)[],
): Promise<R> {
  // A client of another copy of ioredis, which the application brought, understands its own commands only.
  if (client instanceof Redis) {
    return client.sendCommand(new ScriptCommand(name, args, REPLY_AS_TEXT)) as Promise<R>;
  }
  return client[name](...(args as [string, number, ...string[]])) as Promise<R>;
}

const REPLY_AS_TEXT = { replyEncoding: 'utf8' } as const;

/**
 * A command that ioredis doesn't time by a timer of its own: whoever runs a script times it, with one timer for all.
 * (Were the method called otherwise in another version, there'd be both.)
 */
class ScriptCommand extends Command {
  override setTimeout(): void {}
}
