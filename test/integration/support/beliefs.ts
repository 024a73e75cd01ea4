/**
 * When holders believed that they held a lock, as evidence for P1: on the one monotonic clock of the machine, so that
 * what was seen in several processes can be put side by side.
 */
import type { Lock } from '../../../lib/core/lock.js';

/** A stretch of time, in monotonic ms, in which a holder surely believed that it held a key. */
export interface Belief extends Claim {
  readonly fencingToken: number;
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

/** A stretch of time in which somebody surely believed that he alone held a key. */
export interface Claim {
  readonly key: string;
  readonly from: number;
  readonly to: number;
}

/** Where P1 is broken: pairs that believed to hold one key at the same time. */
export function overlaps<C extends Claim>(claims: readonly C[]): [C, C][] {
  return successions(claims).filter(([before, claim]) => claim.from <= before.to);
}

/** Where P3 is broken: pairs of which the later has a fencing token that isn't larger, or none. */
export function inversions<C extends Claim & { readonly fencingToken: number | undefined }>(
  claims: readonly C[],
): [C, C][] {
  return successions(claims).filter(
    ([before, claim]) => !((claim.fencingToken as number) > (before.fencingToken as number)),
  );
}

/** Where P1 or P3 is broken. */
export function contradictions(beliefs: readonly Belief[]): [Belief, Belief][] {
  return successions(beliefs).filter(
    ([before, belief]) => belief.from <= before.to || belief.fencingToken <= before.fencingToken,
  );
}

/** Each claim beside the one before it on its key that lasted longest. */
function successions<C extends Claim>(claims: readonly C[]): [C, C][] {
  const latest = new Map<string, C>();
  const found: [C, C][] = [];
  for (const claim of claims.toSorted((a, b) => a.from - b.from)) {
    const before = latest.get(claim.key);
    if (before !== undefined) found.push([before, claim]);
    if (before === undefined || claim.to > before.to) latest.set(claim.key, claim);
  }
  return found;
}
