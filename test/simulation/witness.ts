/**
 * What the holders of one process believe: what `isHeld` would have said at each moment, without asking so often that the
 * asking changes it. A lock that is looked at after its deadline is lost by that, which here must come from its own timer.
 */
import { JointLock } from '../../lib/core/joint-lock.js';
import { HeldLock, type Lock } from '../../lib/core/lock.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { Belief, History } from './history.js';
import type { ProcessLoop } from './process-loop.js';

interface Watched {
  readonly lock: HeldLock;
  belief: Belief;
  /** True time up to which it's held, as far as is known. */
  until: number;
}

export class Witness {
  readonly #watched = new Set<Watched>();

  constructor(
    private readonly process: string,
    private readonly loop: ProcessLoop,
    private readonly history: History,
    /** True time at which the key may be given to another; `undefined` where the token doesn't hold it. */
    private readonly serverEnd: (name: LockName, token: string) => number | undefined,
  ) {}

  /** From now on. `withSignal`: also what its signal says. */
  watch(lock: Lock, withSignal: boolean): void {
    const parts = lock instanceof JointLock ? lock.parts : lock instanceof HeldLock ? [lock] : [];
    for (const part of parts) {
      // Entered again: that's the outer one's belief.
      if (part.parent !== undefined || !part.isHeld) continue;
      const belief = this.#begin(part, withSignal);
      const watched = { lock: part, belief, until: this.#endOf(part) };
      this.#watched.add(watched);
      this.#check(watched);
      if (withSignal) {
        part.signal.addEventListener('abort', () => {
          watched.belief.abortedAt = this.loop.time.now;
        });
      }
    }
  }

  /** After each thing that has happened in the process. */
  look(): void {
    const { now } = this.loop.time;
    for (const watched of this.#watched) {
      const { lock, belief, until } = watched;
      if (until <= now) {
        this.#end(watched, until, 'deadline');
        continue;
      }
      // Its time isn't up by what was known before, and what has happened since only moves that on: it can be asked.
      if (!lock.isHeld) {
        this.#end(watched, now, 'ended');
      } else {
        watched.until = this.#endOf(lock);
        this.#check(watched);
        if (lock.access !== belief.access) {
          belief.to = now;
          belief.end = 'ended';
          watched.belief = this.#begin(lock, belief.watched);
        }
      }
    }
  }

  /** Nobody believes anything any more. */
  kill(): void {
    const { now } = this.loop.time;
    for (const watched of this.#watched) {
      const byDeadline = watched.until <= now;
      this.#end(watched, Math.min(now, watched.until), byDeadline ? 'deadline' : 'killed');
    }
  }

  #begin({ key, access, fencingToken, lease }: HeldLock, watched: boolean): Belief {
    const belief: Belief = {
      ...{ process: this.process, loop: this.loop, key, token: lease.token, fence: fencingToken },
      ...{ access, ttl: lease.ttl, from: this.loop.time.now, to: Number.POSITIVE_INFINITY },
      ...{ end: 'open' as const, abortedAt: undefined, watched },
    };
    this.history.beliefs.push(belief);
    this.history.trace(
      () =>
        `${this.process} holds ${key} ${access} ${fencingToken} ${this.history.nameOf(lease.token)}`,
    );
    return belief;
  }

  #end(watched: Watched, at: number, end: Belief['end']): void {
    this.#watched.delete(watched);
    const { belief } = watched;
    belief.to = at;
    belief.end = end;
    this.history.trace(
      () =>
        `${this.process} holds ${belief.key} ${belief.fence} no more: ${end} at ${at.toFixed(2)}`,
    );
  }

  /** P2: whatever becomes of the next renewals, it's believed in no longer than the server keeps it. */
  #check({ lock, belief, until }: Watched): void {
    const end = this.serverEnd(lock.lease.name, belief.token);
    if (end === undefined || until <= end) return;
    // By some of several servers only.
    if (this.history.wasForced(belief.key, belief.token)) return;
    this.history.violate(
      `I9: ${this.process} believes in ${belief.key} (${belief.fence}) until ${until}, the server until ${end}`,
    );
  }

  #endOf({ lease }: HeldLock): number {
    return this.loop.trueTimeOf(Math.min(lease.deadline, lease.holdUntil));
  }
}
