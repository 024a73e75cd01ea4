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

  /** `bounded` puts a bound on the second command, where one is needed: the first has used time already. */
  async run(
    client: Redis | Cluster,
    keys: Keys,
    args: Args,
    bounded: <T>(retry: Promise<T>) => Promise<T> = (retry) => retry,
  ): Promise<Reply> {
    try {
      return (await client.evalsha(this.script.sha1, keys.length, ...keys, ...args)) as Reply;
    } catch (error) {
      if (!(error as Partial<Error>).message?.startsWith('NOSCRIPT')) throw error;
      return (await bounded(
        client.eval(this.script.source, keys.length, ...keys, ...args),
      )) as Reply;
    }
  }
}
