import type { Cluster, Redis } from 'ioredis';

import { ServerClock } from './server-clock.js';

/** How many commands leave in one write at most. */
const LONGEST_WRITE = 16;

/**
 * One server, as a connection for commands knows it: its client, its clock, when it was last heard of, and what is held
 * back to leave in one write.
 */
export class RedisNode<C extends Redis | Cluster = Redis> {
  readonly clock = new ServerClock();
  /** Monotonic. */
  heardAt = 0;
  /** Nothing was heard on its link, which was given up and isn't closed yet. */
  isDropped = false;
  /** Its clock is being asked for. */
  asking: Promise<void> | undefined;
  /** How often the source of a script was sent to it. */
  readonly #taught = new Map<object, number>();
  #corked: Corkable | undefined;
  /** How many commands were held back since the last write. */
  #held = 0;
  readonly #uncork = () => {
    this.#corked?.uncork();
    this.#corked = undefined;
  };

  constructor(readonly client: C) {}

  taught(script: object): number {
    return this.#taught.get(script) ?? 0;
  }

  teach(script: object): void {
    this.#taught.set(script, this.taught(script) + 1);
  }

  /**
   * What a step of the program sends is held back until the step ends, and leaves in one write; but not too many of them,
   * or the server would have nothing to do meanwhile, unless they're to leave together. `stream` is no documented property
   * of ioredis: without it each leaves by itself, which is slower and no more.
   */
  holdBack(together: boolean): void {
    if (this.#corked !== undefined) {
      this.#held += 1;
      if (this.#held < LONGEST_WRITE || together) return;
      this.#held = 0;
      this.#corked.uncork();
      this.#corked.cork();
      return;
    }
    const { stream } = this.client as { stream?: Partial<Corkable> };
    if (typeof stream?.cork !== 'function' || typeof stream.uncork !== 'function') return;
    stream.cork();
    this.#corked = stream as Corkable;
    this.#held = 0;
    process.nextTick(this.#uncork);
  }
}

/** A node of a Cluster as its slot map names it. */
export function nodeAddress({
  host,
  port,
}: {
  readonly host?: string | undefined;
  readonly port?: number | undefined;
}): string {
  return `${host}:${port}`;
}

interface Corkable {
  cork(): void;
  uncork(): void;
}
