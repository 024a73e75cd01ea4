import { randomBytes } from 'node:crypto';

import type { LockBackend } from './backend/lock-backend.js';
import type { Clock, Timer } from './clock.js';
import { LockDeadlockError } from './errors.js';
import type { Lease } from './lease.js';
import type { LockName } from './lock-name.js';
import type { LockRequest } from './lock-request.js';

/** A caller that waits for so long, in ms, is looked at; and again each time so much more has passed. */
const PATIENCE = 1_000;
/** How long a note outlives its last refresh, in ms: those of a process that was killed mislead nobody for longer. */
const NOTE_LIFE = 2_500;
/** A circle of more processes than this isn't looked for. */
const LONGEST_CIRCLE = 32;

/**
 * Finds circles of callers in several processes that wait for each other's keys, which `WaitGraph` can't see.
 *
 *     waits ──a second──▶ noted at the keys it holds ⟲ each second: follow from key to holder to the key that one waits for
 *       └──────────────────────┴──granted, refused, given up──▶ the notes are taken back, then the caller learns it
 *
 * Sound: each key of a circle is held, by its record, by the very token under which its holder's note was written, so a
 * holder that has got what it waited for is in no circle; one that has given up has taken its note back before it went on;
 * and the circle is walked twice with the same notes, so that all of them stood at one moment in between. Who was noted last
 * is refused, and the others go on. What can't be seen is whether a holder awaits a call that it has started: it's taken to do so.
 *
 * Only exclusive locks count. Kept by `Locker`, which asks for callers that hold something while they wait.
 *
 * @see Mukesh Singhal: Deadlock Detection in Distributed Systems (1989), on edge chasing
 */
export class DeadlockWatch {
  constructor(
    private readonly backend: LockBackend,
    private readonly clock: Clock,
    private readonly commandTimeout: number,
  ) {}

  /** Watches a caller that begins to wait, until the function that's returned has been called, and has resolved. */
  watch(
    name: LockName,
    request: LockRequest,
    refuse: (error: LockDeadlockError) => void,
  ): () => Promise<void> {
    const caller = new BlockedCaller(this.backend, name, request, refuse);
    let timer: Timer | undefined;
    let looking = Promise.resolve();
    let ended = false;
    const lookLater = () => {
      timer = this.clock.after(
        PATIENCE,
        () => {
          // It never rejects: the backend answers with tagged values.
          looking = caller.look().then(() => {
            if (!ended) lookLater();
          });
        },
        'background',
      );
    };
    lookLater();
    return async () => {
      ended = true;
      timer?.cancel();
      if (!caller.noted) return;
      // The caller isn't held up for longer than one command may take: by then the note says nothing for long.
      let patience: Timer | undefined;
      const givenUp = new Promise<void>((resolve) => {
        patience = this.clock.after(this.commandTimeout / 2, resolve);
      });
      await Promise.race([looking.then(() => caller.takeBack()), givenUp]);
      patience?.cancel();
    };
  }
}

class BlockedCaller {
  readonly #mark = randomBytes(12).toString('base64url');
  readonly #notedAt = new Set<Lease>();
  /** Server time of the first note, in µs. */
  #since: number | undefined;

  constructor(
    private readonly backend: LockBackend,
    private readonly name: LockName,
    private readonly request: LockRequest,
    private readonly refuse: (error: LockDeadlockError) => void,
  ) {}

  /** Whether others may have read of it. */
  get noted(): boolean {
    return this.#notedAt.size > 0;
  }

  async look(): Promise<void> {
    const held = new Set(
      this.request.blocks
        .filter(({ isHeld, access }) => isHeld && access === 'exclusive')
        .map(({ lease }) => lease),
    );
    await this.#note(held);
    if (this.#since === undefined) return;
    const own = new Set([...held].map(({ name, token }) => `${token} ${name.owner}`));
    const circle = await this.#follow(own);
    if (circle === undefined || this.#isYounger(circle)) return;
    const again = await this.#follow(own);
    if (again === undefined || textOf(again) !== textOf(circle)) return;
    // Granted meanwhile, or gone.
    if (this.request.line === undefined) return;
    const keys = circle.map(({ key }) => key);
    const all = [keys.at(-1) as string, ...keys];
    this.refuse(LockDeadlockError.ofCircle(this.name.key, all));
  }

  async takeBack(): Promise<void> {
    await Promise.all(
      [...this.#notedAt].map(({ name }) => this.backend.unmarkBlocked({ name, mark: this.#mark })),
    );
  }

  async #note(held: ReadonlySet<Lease>): Promise<void> {
    for (const lease of held) {
      const { name, token } = lease;
      // Also where the answer is lost: it may have been written.
      this.#notedAt.add(lease);
      lease.noted = true;
      const outcome = await this.backend.markBlocked({
        ...{ name, token, mark: this.#mark, waitsFor: this.name },
        ...{ since: this.#since, lasts: NOTE_LIFE },
      });
      // One time for all: by it, everybody in a circle finds the same one to be the youngest.
      if (outcome.kind === 'marked') this.#since ??= outcome.since;
    }
  }

  /** From the key that's waited for to one of our own. */
  async #follow(own: ReadonlySet<string>): Promise<readonly Hop[] | undefined> {
    const hops: Hop[] = [];
    const seen = new Set<string>();
    let at = this.name;
    while (hops.length < LONGEST_CIRCLE && !seen.has(at.owner)) {
      seen.add(at.owner);
      const holder = await this.backend.holderOf(at);
      if (holder.kind !== 'held') return undefined;
      const { token, blocked } = holder;
      if (own.has(`${token} ${at.owner}`)) return [...hops, { key: at.key, token }];
      if (blocked === undefined) return undefined;
      hops.push({ key: at.key, token, mark: blocked.mark, since: blocked.since });
      at = blocked.waitsFor;
    }
    return undefined;
  }

  /** Whether another of the circle was noted later. */
  #isYounger(circle: readonly Hop[]): boolean {
    const since = this.#since as number;
    return circle.some(
      (other) =>
        other.since !== undefined &&
        (other.since > since || (other.since === since && (other.mark as string) > this.#mark)),
    );
  }
}

/** A key of a circle, and the note of its holder; none at one's own. */
interface Hop {
  readonly key: string;
  readonly token: string;
  readonly mark?: string;
  readonly since?: number;
}

function textOf(hops: readonly Hop[]): string {
  return hops.map(({ key, token, mark }) => `${key} ${token} ${mark}`).join('\n');
}
