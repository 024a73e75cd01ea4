/**
 * Judges a run from what its processes have written down: where which invariant was broken. As far as it can be seen from
 * outside, and surely: what might have been in order isn't counted.
 *
 * - I1 no two believe at the same time that they hold a key
 * - I2 fencing tokens rise from holder to holder
 * - I3 the resource never takes a stale write: one that comes after a write of a later hold
 * - I4 nobody loses a lock to another's release or renewal: while Redis keeps its data, none is "taken"
 * - I5 nothing is left in Redis a ttl after the last of them
 * - I7 every call ends within its bound, unless its process stood still
 * - I9 a holder is told that it lost the lock before another believes that he has it, unless its event loop was late
 * - I10 every process ends by itself once it's done, and no error escapes into it
 *
 * I6 (order of waiters), I8 (limits) and I11 (one run a tick) are judged where what they need is recorded: in
 * test/integration, order.spec.ts, programmes.spec.ts and run-once.spec.ts.
 */
import { type Claim, inversions, overlaps } from '../integration/support/beliefs.js';
import type { Entry } from './journal.js';
import type { WriteCounts } from './resource.js';

export const INVARIANTS = ['I1', 'I2', 'I3', 'I4', 'I5', 'I7', 'I9', 'I10'] as const;
export type Invariant = (typeof INVARIANTS)[number];

/** Something that was done to the system, on the monotonic clock of the machine. */
export interface Fault {
  readonly name: string;
  readonly at: number;
  /** The process that was killed. */
  readonly killed?: string;
  /** When the server could be asked again. */
  readonly back?: number;
}

export interface Evidence {
  readonly journals: ReadonlyMap<string, readonly Entry[]>;
  readonly faults: readonly Fault[];
  readonly writes: WriteCounts;
  /** Keys in use that were left. */
  readonly remains: readonly string[];
  /** Processes that did not end by themselves. */
  readonly unended: readonly string[];
  /** Within what a call must end, in ms. */
  readonly bounds: { readonly acquire: number; readonly release: number };
}

export interface Verdict {
  readonly grants: number;
  /** What was found, described. */
  readonly violations: Readonly<Record<Invariant, readonly string[]>>;
  /** How long after its holder's crash a key was held by another, in ms. */
  readonly afterCrash: readonly number[];
  /** How long after the server was back a key was held by another process than before, in ms. */
  readonly afterOutage: readonly number[];
  /** How calls ended, counted. */
  readonly outcomes: Readonly<Record<string, number>>;
}

interface Hold extends Claim {
  readonly id: string;
  readonly process: string;
  readonly fencingToken: number | undefined;
  readonly since: number;
  /** Whether its end is known; else its process was killed. */
  readonly ended: boolean;
}

/** What a timer may be late without anybody's fault, in ms. */
const TIMER_PRECISION = 3;

export function judge(evidence: Evidence): Verdict {
  const entries = [...evidence.journals].flatMap(([process, all]) =>
    all.map((entry) => ({ ...entry, process })),
  );
  const holds = holdsOf(evidence.journals);
  const calls = entries.filter((entry) => entry.what === 'call');
  const outcomes: Record<string, number> = {};
  for (const { call, outcome } of calls) {
    outcomes[`${call}: ${outcome}`] = (outcomes[`${call}: ${outcome}`] ?? 0) + 1;
  }
  return {
    grants: holds.length,
    violations: {
      I1: overlaps(holds).map(
        ([one, other]) =>
          `${shown(one)} and ${shown(other)} overlap by ${ms(Math.min(one.to, other.to) - other.from)}`,
      ),
      I2: inversions(holds.filter((hold) => hold.fencingToken !== undefined))
        // Of two at a time it isn't known who was granted the key first.
        .filter(([one, other]) => other.from > one.to)
        .map(([one, other]) => `${shown(other)} after ${shown(one)}`),
      I3: Array.from({ length: evidence.writes.stale }, () => 'a stale write was taken'),
      I4: entries
        .filter((entry) => entry.what === 'told')
        .filter(({ reason }) => reason === 'taken')
        .map(({ id, at }) => `${id} was told at ${ms(at)} that another has its key`),
      I5: evidence.remains.map((key) => `${key} was left`),
      I7: calls
        .filter(({ call, took, stalled }) => !stalled && took > evidence.bounds[call])
        .map(
          ({ call, outcome, at, took, process }) =>
            `${call} of ${process} at ${ms(at)} took ${ms(took)} (${outcome})`,
        ),
      I9: lateNews(entries, holds),
      I10: [
        ...evidence.unended.map((process) => `${process} did not end by itself`),
        ...entries
          .filter((entry) => entry.what === 'unhandled')
          .map(({ process, error }) => `in ${process} nobody caught: ${error}`),
      ],
    },
    afterCrash: afterCrash(holds, evidence.faults),
    afterOutage: afterOutage(holds, evidence.faults),
    outcomes,
  };
}

function holdsOf(journals: Evidence['journals']): Hold[] {
  const holds = new Map<string, Hold>();
  for (const [process, entries] of journals) {
    for (const entry of entries) {
      if (entry.what === 'held') {
        const { id, key, fence, since, at } = entry;
        const hold = { id, process, key, fencingToken: fence, since, from: at, to: at };
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

function lateNews(
  entries: readonly (Entry & { readonly process: string })[],
  holds: readonly Hold[],
): string[] {
  const byId = new Map(holds.map((hold) => [hold.id, hold]));
  return entries.flatMap((entry) => {
    if (entry.what !== 'told') return [];
    const hold = byId.get(entry.id);
    if (hold === undefined) return [];
    const inTime = entry.at - entry.late - TIMER_PRECISION;
    const successor = holds.find(
      ({ id, key, from }) =>
        key === hold.key && id !== hold.id && from > hold.from && from < inTime,
    );
    if (successor === undefined) return [];
    return [`${shown(hold)} was told at ${ms(entry.at)}, after ${shown(successor)} began`];
  });
}

function afterCrash(holds: readonly Hold[], faults: readonly Fault[]): number[] {
  return faults.flatMap(({ killed, at }) =>
    holds
      .filter((hold) => hold.process === killed && !hold.ended && hold.to <= at)
      .flatMap((hold) => {
        const next = holds.find(
          ({ key, process, from }) => key === hold.key && process !== killed && from > hold.from,
        );
        return next === undefined || next.from < at ? [] : [next.from - at];
      }),
  );
}

function afterOutage(holds: readonly Hold[], faults: readonly Fault[]): number[] {
  const keys = [...new Set(holds.map(({ key }) => key))];
  return faults.flatMap(({ back }) => {
    if (back === undefined) return [];
    return keys.flatMap((key) => {
      const ofKey = holds.filter((hold) => hold.key === key);
      const before = ofKey.findLast(({ from }) => from <= back);
      // A hand-over within its process tells nothing of the server.
      const next = ofKey.find(({ from, process }) => from > back && process !== before?.process);
      return next === undefined ? [] : [next.from - back];
    });
  });
}

function shown({ id, key, from, to, fencingToken }: Hold): string {
  const fence = fencingToken === undefined ? '' : ` with token ${fencingToken}`;
  return `${id} on ${key}${fence} (${ms(from)} to ${ms(to)})`;
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}
