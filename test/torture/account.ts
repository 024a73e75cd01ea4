/** What the journals of a run say of each hold and of each wait for one. */
import type { Claim } from '../integration/support/beliefs.js';
import type { Entry } from './journal.js';

export interface Hold extends Claim {
  readonly id: string;
  readonly ask: string;
  readonly process: string;
  readonly fencingToken: number | undefined;
  /** Whether its end is known; else its process was killed. */
  readonly ended: boolean;
}

/** A call for a key, from when it was made until it was answered. */
export interface Wait {
  readonly ask: string;
  readonly process: string;
  readonly key: string;
  readonly from: number;
  /** Where it was never answered: when its process was last heard of. */
  readonly to: number;
  readonly answered: boolean;
  /** It was told, in the end, that it has the key or that others have it. */
  readonly isHeard: boolean;
  /** Its process stood still meanwhile. */
  readonly stalled: boolean;
}

/** By their beginning. */
export function holdsOf(journals: ReadonlyMap<string, readonly Entry[]>): Hold[] {
  const holds = new Map<string, Hold>();
  for (const [process, entries] of journals) {
    for (const entry of entries) {
      if (entry.what === 'held') {
        const { id, ask, key, fence, at } = entry;
        const hold = { id, ask, process, key, fencingToken: fence, from: at, to: at };
        holds.set(id, { ...hold, ended: false });
      } else if (entry.what === 'still' || entry.what === 'ended') {
        const hold = holds.get(entry.id);
        if (hold === undefined) continue;
        holds.set(entry.id, { ...hold, to: entry.at, ended: entry.what === 'ended' });
      }
    }
  }
  return [...holds.values()].toSorted((a, b) => a.from - b.from);
}

/** By their beginning. */
export function waitsOf(journals: ReadonlyMap<string, readonly Entry[]>): Wait[] {
  const waits = new Map<string, Wait>();
  for (const [process, entries] of journals) {
    const last = entries.at(-1)?.at ?? 0;
    for (const entry of entries) {
      if (entry.what === 'asked') {
        const { ask, key, at } = entry;
        const unknown = { answered: false, isHeard: false, stalled: false };
        waits.set(ask, { ask, process, key, from: at, to: last, ...unknown });
      } else if (entry.what === 'call' && entry.ask !== undefined) {
        const wait = waits.get(entry.ask);
        if (wait === undefined) continue;
        const { at, took, stalled, outcome } = entry;
        const isHeard = outcome === 'granted' || outcome === 'busy';
        waits.set(entry.ask, { ...wait, to: at + took, answered: true, isHeard, stalled });
      }
    }
  }
  return [...waits.values()].toSorted((a, b) => a.from - b.from);
}
