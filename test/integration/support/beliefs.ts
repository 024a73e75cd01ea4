/**
 * When holders believed that they held a lock, as evidence for P1: on the one monotonic clock of the machine, so that
 * what was seen in several processes can be put side by side.
 */
import type { Lock } from '../../../lib/core/lock.js';

/** A stretch of time, in monotonic ms, in which a holder surely believed that it held a key. */
export interface Belief {
  readonly key: string;
  readonly fencingToken: number;
  readonly from: number;
  readonly to: number;
}

const LOOK_EVERY = 2;

/** What the holders of this process have believed. */
export class Beliefs {
  readonly all: Belief[] = [];

  /** Asks the lock again and again, from now until it's held no more. */
  watch(lock: Lock): void {
    const { key, fencingToken } = lock;
    const belief = { key, fencingToken, from: 0, to: 0 };
    const timer = setInterval(() => look(), LOOK_EVERY);
    timer.unref();
    const look = (): void => {
      // Read before the question: if the answer is yes, it was so at that time, however long the process stood still.
      const at = Number(process.hrtime.bigint()) / 1e6;
      if (!lock.isHeld) {
        clearInterval(timer);
        return;
      }
      if (belief.from === 0) {
        belief.from = at;
        this.all.push(belief);
      }
      belief.to = at;
    };
    look();
  }
}

/**
 * Where P1 or P3 is broken: two that believed to hold one key at the same time, or one after the other with a fencing
 * token that isn't larger.
 */
export function contradictions(beliefs: readonly Belief[]): [Belief, Belief][] {
  const latest = new Map<string, Belief>();
  const found: [Belief, Belief][] = [];
  for (const belief of beliefs.toSorted((a, b) => a.from - b.from)) {
    const before = latest.get(belief.key);
    if (
      before !== undefined &&
      (belief.from <= before.to || belief.fencingToken <= before.fencingToken)
    ) {
      found.push([before, belief]);
    }
    if (before === undefined || belief.to > before.to) latest.set(belief.key, belief);
  }
  return found;
}
