import type { Cluster, Redis } from 'ioredis';

/** A script as `tools/embed-scripts.mjs` writes it. */
export interface EmbeddedScript {
  readonly name: string;
  readonly source: string;
  readonly sha1: string;
}

/**
 * A Lua script with the types of its keys, arguments and reply; its file says what they mean. Run by its digest; the
 * source is sent only to a server that doesn't know it (a new one, a restarted one, after SCRIPT FLUSH, another node
 * of a Cluster).
 */
export class Script<
  Keys extends readonly string[],
  Args extends readonly (string | number)[],
  Reply,
> {
  constructor(private readonly script: EmbeddedScript) {}

  async run(client: Redis | Cluster, keys: Keys, args: Args): Promise<Reply> {
    try {
      return (await client.evalsha(this.script.sha1, keys.length, ...keys, ...args)) as Reply;
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error;
      return (await client.eval(this.script.source, keys.length, ...keys, ...args)) as Reply;
    }
  }
}
