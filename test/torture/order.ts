/**
 * Judges from journals in which order processes were served (I6): who had surely stood in the queue when another came to
 * it, was still waiting when that one was served.
 *
 * A process stands in the queue for the first of its callers, who inherits the place of one that gives up: from when that
 * one asked, or from when the process last gave the key back, if that's later. It reaches the server some time after: who asked within TOLERANCE of each other may come
 * in any order. (What the server sees, event by event and without tolerance, is judged by test/integration/order.spec.ts.)
 * Not counted is whoever stood still meanwhile, since a dead waiter is passed over, or didn't hear of the server; whose turn may have come for another
 * caller of its process, which had just given up; and what a process hands over to its own callers, which it may do some
 * times in a row.
 */
import type { Hold, Wait } from './account.js';

/** In ms: a command and its retry, on a busy machine. */
const TOLERANCE = 400;
/** How often in a row a process may serve its own callers while others wait, and a few before it hears of them. */
const LONGEST_RUN = 1 + 16 + 16;

export function jumpedQueues(waits: readonly Wait[], holds: readonly Hold[]): string[] {
  const keys = new Set(holds.map(({ key }) => key));
  return [...keys].flatMap((key) =>
    jumpedQueue(
      waits.filter((wait) => wait.key === key),
      holds.filter((hold) => hold.key === key),
    ),
  );
}

function jumpedQueue(waits: readonly Wait[], holds: readonly Hold[]): string[] {
  const asked = new Map(waits.map((wait) => [wait.ask, wait]));
  const gaveBackAt = new Map<string, number>();
  const found: string[] = [];
  const granted = new Set(holds.map(({ ask }) => ask));
  // Whether a caller of its process has gone without the key since it waits.
  const gaveUp = ({ process, from }: Wait, before: number) =>
    waits.some(
      (each) =>
        each.process === process && !granted.has(each.ask) && each.to >= from && each.to <= before,
    );
  let run = 0;
  let last: Hold | undefined;
  // A wait that began later than the one that's served can't have been passed over by it.
  for (const hold of holds) {
    run = last?.process === hold.process ? run + 1 : 1;
    const wait = asked.get(hold.ask);
    if (wait !== undefined && (run === 1 || run > LONGEST_RUN)) {
      const since = Math.max(standsSince(wait, waits), gaveBackAt.get(hold.process) ?? 0);
      const passed = waits.find(
        (other) =>
          other.process !== hold.process &&
          other.isHeard &&
          !other.stalled &&
          other.to > hold.from &&
          Math.max(other.from, gaveBackAt.get(other.process) ?? 0) + TOLERANCE < since &&
          !gaveUp(other, hold.from),
      );
      if (passed !== undefined) {
        found.push(
          `${hold.id} on ${hold.key}, waiting since ${since.toFixed(1)} ms, before ${passed.ask}, since ${passed.from.toFixed(1)} ms`,
        );
      }
    }
    gaveBackAt.set(hold.process, Math.max(hold.to, gaveBackAt.get(hold.process) ?? 0));
    last = hold;
  }
  return found;
}

/** From when the process of a wait has waited without a break; all are sorted by their beginning. */
function standsSince(wait: Wait, waits: readonly Wait[]): number {
  return waits
    .filter(({ process, from }) => process === wait.process && from < wait.from)
    .reduceRight((since, { from, to }) => (to >= since ? Math.min(since, from) : since), wait.from);
}
