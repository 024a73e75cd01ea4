/**
 * Judges a run from what its processes have written down: where which invariant was broken. As far as it can be seen from
 * outside, and surely: what might have been in order isn't counted.
 *
 * - I1 no two believe at the same time that they hold a key; nobody comes to hold one whom a minority alone hears
 * - I2 fencing tokens rise from holder to holder
 * - I3 the resource never takes a stale write: one that comes after a write of a later hold
 * - I4 nobody loses a lock to another's release or renewal: while Redis keeps its data, none is "taken"
 * - I5 nothing is left in Redis a ttl after the last of them
 * - I6 processes are served in the order in which they began to wait (see order.ts)
 * - I7 every call ends within its bound, unless its process stood still
 * - I8 of a key with a limit, no more believe that they hold it
 * - I9 a holder is told that it lost the lock before another believes that he has it, unless its event loop was late
 * - I10 every process ends by itself once it's done, and no error escapes into it
 *
 * I11 (one run a tick) isn't judged here, where nobody runs jobs: test/integration/run-once.spec.ts does, on three processes
 * with skewed clocks, one of which is killed in the middle of a run.
 */
import { inversions, overlaps } from '../integration/support/beliefs.js';
import { type Hold, holdsOf, type Wait, waitsOf } from './account.js';
import type { Entry } from './journal.js';
import { jumpedQueues } from './order.js';
import type { WriteCounts } from './resource.js';
import { type Step, STEPS } from './steps.js';

export const INVARIANTS = ['I1', 'I2', 'I3', 'I4', 'I5', 'I6', 'I7', 'I8', 'I9', 'I10'] as const;
export type Invariant = (typeof INVARIANTS)[number];

/** Something that was done to the system, on the monotonic clock of the machine. */
export interface Fault {
  readonly name: string;
  readonly at: number;
  /** The process that was killed, or stopped. */
  readonly killed?: string;
  readonly stopped?: string;
  /** In which step that was. */
  readonly step?: Step;
  /** The process that a minority of the nodes alone could hear, up to `until`. */
  readonly cutOff?: string;
  readonly until?: number;
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
  /** How many may hold a key at a time; undefined: one. */
  readonly limit?: number | undefined;
  readonly ttl: number;
  readonly bounds: { readonly acquire: number; readonly release: number };
}

export interface Verdict {
  readonly grants: number;
  /** What was found, described. */
  readonly violations: Readonly<Record<Invariant, readonly string[]>>;
  /** From its holder's crash, or since when another asked for the key if that's later, until another held it, in ms. */
  readonly afterCrash: readonly number[];
  /** After the server was back, and before it failed again: for how long nobody held a key that was asked for, in ms. */
  readonly afterOutage: readonly number[];
  /** How often processes were struck in which step. */
  readonly steps: Readonly<Partial<Record<Step, number>>>;
  /** Grants while one process heard a minority alone: how many partitions there were, and how many grants to others then. */
  readonly partitions: { readonly count: number; readonly grantsOfOthers: number };
  /** How calls ended, counted. */
  readonly outcomes: Readonly<Record<string, number>>;
}

/** What a timer may be late without anybody's fault, in ms. */
const TIMER_PRECISION = 3;
/** How often a holder looks at its lock at least, in ms. */
const LAST_LOOK = 10;
/** Less than what lies between any two entries, in ms. */
const MOMENT = 0.001;

export function judge(evidence: Evidence): Verdict {
  const entries = [...evidence.journals].flatMap(([process, all]) =>
    all.map((entry) => ({ ...entry, process })),
  );
  const { limit, ttl, faults } = evidence;
  const holds = holdsOf(evidence.journals);
  const waits = waitsOf(evidence.journals);
  const calls = entries.filter((entry) => entry.what === 'call');
  const outcomes: Record<string, number> = {};
  for (const { call, outcome } of calls) {
    outcomes[`${call}: ${outcome}`] = (outcomes[`${call}: ${outcome}`] ?? 0) + 1;
  }
  return {
    grants: holds.length,
    violations: {
      I1: [
        ...(limit === undefined ? overlaps(holds) : []).map(
          ([one, other]) =>
            `${shown(one)} and ${shown(other)} overlap by ${ms(Math.min(one.to, other.to) - other.from)}`,
        ),
        ...grantedByMinority(holds, faults, ttl),
      ],
      I2: (limit === undefined
        ? inversions(holds.filter((hold) => hold.fencingToken !== undefined))
            // Of two at a time it isn't known who was granted the key first.
            .filter(([one, other]) => other.from > one.to)
        : fallenAmong(holds, waits)
      ).map(([one, other]) => `${shown(other)} after ${shown(one)}`),
      I3: Array.from({ length: evidence.writes.stale }, () => 'a stale write was taken'),
      I4: entries
        .filter((entry) => entry.what === 'told')
        .filter(({ reason }) => reason === 'taken')
        .map(({ id, at }) => `${id} was told at ${ms(at)} that another has its key`),
      I5: evidence.remains.map((key) => `${key} was left`),
      I6: limit === undefined ? jumpedQueues(waits, holds) : [],
      I7: calls
        .filter(({ call, took, stalled }) => !stalled && took > evidence.bounds[call])
        .map(
          ({ call, outcome, at, took, process }) =>
            `${call} of ${process} at ${ms(at)} took ${ms(took)} (${outcome})`,
        ),
      I8: limit === undefined ? [] : beyondLimit(holds, limit),
      // Another may hold it as well, where there's a limit.
      I9: limit === undefined ? lateNews(entries, holds) : [],
      I10: [
        ...evidence.unended.map((process) => `${process} did not end by itself`),
        ...entries
          .filter((entry) => entry.what === 'unhandled')
          .map(({ process, error }) => `in ${process} nobody caught: ${error}`),
      ],
    },
    afterCrash: afterCrash(holds, waits, faults),
    afterOutage: limit === undefined ? afterOutage(holds, waits, faults) : [],
    steps: stepsOf(faults, holds, waits),
    partitions: {
      count: faults.filter(({ cutOff }) => cutOff !== undefined).length,
      grantsOfOthers: faults.reduce(
        (sum, { cutOff, at, until = 0 }) =>
          sum +
          (cutOff === undefined
            ? 0
            : holds.filter(({ process, from }) => process !== cutOff && from > at && from < until)
                .length),
        0,
      ),
    },
    outcomes,
  };
}

/** Where several hold a key, whose grant came later is only known of one who asked when the other had it already. */
function fallenAmong(holds: readonly Hold[], waits: readonly Wait[]): [Hold, Hold][] {
  const askedAt = new Map(waits.map(({ ask, from }) => [ask, from]));
  return holds.flatMap((hold) => {
    const since = askedAt.get(hold.ask) ?? 0;
    const larger = holds.find(
      ({ key, from, fencingToken }) =>
        key === hold.key &&
        from < since &&
        fencingToken !== undefined &&
        hold.fencingToken !== undefined &&
        fencingToken >= hold.fencingToken,
    );
    return larger === undefined ? [] : [[larger, hold] satisfies [Hold, Hold]];
  });
}

/** Holds beside as many others as may be. */
function beyondLimit(holds: readonly Hold[], limit: number): string[] {
  return holds.flatMap((hold) => {
    const beside = holds.filter(
      ({ id, key, from, to }) =>
        key === hold.key && id !== hold.id && from <= hold.from && to >= hold.from,
    );
    return beside.length < limit ? [] : [`${shown(hold)} beside ${beside.map(shown).join(', ')}`];
  });
}

/** Whoever comes to hold a key so late has it from a minority: what a majority gave him before has ended. */
function grantedByMinority(
  holds: readonly Hold[],
  faults: readonly Fault[],
  ttl: number,
): string[] {
  return faults.flatMap(({ cutOff, at, until = 0 }) =>
    holds
      .filter(({ process, from }) => process === cutOff && from > at + ttl && from < until)
      .map((hold) => `${shown(hold)} was granted by a minority`),
  );
}

/** What a process was struck in; of the two steps that last, only where its journal says that it was still in it. */
function stepsOf(
  faults: readonly Fault[],
  holds: readonly Hold[],
  waits: readonly Wait[],
): Verdict['steps'] {
  const counts: Partial<Record<Step, number>> = {};
  for (const { step, at, killed, stopped } of faults) {
    if (step === undefined) continue;
    const struck = killed ?? stopped;
    const isOpen = {
      holding: () =>
        holds.some(
          ({ process, from, to, ended }) =>
            process === struck && from <= at && (!ended || to >= at - LAST_LOOK),
        ),
      'waiting in the queue': () =>
        waits.some(
          ({ process, from, to, answered }) =>
            process === struck && from <= at && (!answered || to >= at),
        ),
    }[step as string];
    if (isOpen === undefined || isOpen()) counts[step] = (counts[step] ?? 0) + 1;
  }
  // In the order of the protocol.
  return Object.fromEntries(STEPS.flatMap((step) => (counts[step] ? [[step, counts[step]]] : [])));
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

function afterCrash(
  holds: readonly Hold[],
  waits: readonly Wait[],
  faults: readonly Fault[],
): number[] {
  return faults.flatMap(({ killed, at }) =>
    holds
      .filter((hold) => hold.process === killed && !hold.ended && hold.to <= at)
      .flatMap((hold) => {
        const ofOthers = ({ key, process }: Hold | Wait) => key === hold.key && process !== killed;
        const asked = waits.find((wait) => ofOthers(wait) && wait.to > at);
        const next = holds.find((other) => ofOthers(other) && other.from > hold.from);
        if (asked === undefined || next === undefined || next.from < at) return [];
        return [Math.max(0, next.from - Math.max(at, asked.from))];
      }),
  );
}

function afterOutage(
  holds: readonly Hold[],
  waits: readonly Wait[],
  faults: readonly Fault[],
): number[] {
  const keys = [...new Set(holds.map(({ key }) => key))];
  return keys.flatMap((key) => {
    const heldOnes = holds.filter((hold) => hold.key === key);
    const askedFor = waits.filter((wait) => wait.key === key);
    return faults.flatMap(({ back }, index) => {
      if (back === undefined) return [];
      const begun = wantedFrom(heldOnes, askedFor, back);
      const next = heldOnes.find(({ from }) => from > begun);
      // What comes of it from there on is the next fault's.
      const upTo = faults[index + 1]?.at ?? Number.POSITIVE_INFINITY;
      return next === undefined || begun >= upTo ? [] : [Math.min(next.from, upTo) - begun];
    });
  });
}

/** The first moment, not before `after`, at which nobody holds a key that somebody waits for; all are sorted by `from`. */
function wantedFrom(holds: readonly Hold[], waits: readonly Wait[], after: number): number {
  let at = after;
  for (;;) {
    const now = at;
    const isFree = holds.every(({ from, to }) => from > now || to < now);
    const wait = waits.find(({ to }) => to > now);
    if (wait === undefined) return Number.POSITIVE_INFINITY;
    if (isFree && wait.from <= now) return now;
    at = isFree
      ? wait.from
      : Math.max(...holds.filter(({ from, to }) => from <= now && to >= now).map(({ to }) => to)) +
        MOMENT;
  }
}

function shown({ id, key, from, to, fencingToken }: Hold): string {
  const fence = fencingToken === undefined ? '' : ` with token ${fencingToken}`;
  return `${id} on ${key}${fence} (${ms(from)} to ${ms(to)})`;
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`;
}
