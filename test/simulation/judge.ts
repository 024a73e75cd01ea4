/**
 * What a history may never show, whatever the faults. The numbers are those of the project's invariants:
 *
 *     I1 exclusion   I2 fencing tokens rise   I7 calls are bounded   I9 loss is told in time   P8 no work without a lock
 *
 * (I4, that nobody touches another's lock, is seen by the history as it's written; I5 and I10, what is left behind, by the
 * simulation when all is over.)
 *
 * Two things excuse: `forceRelease`, whose holder learns it late, at its next renewal or deadline at the latest; and a server
 * that lost its data, which can give away what is still held. Fencing tokens rise even then.
 *
 * Of several independent servers, what a majority of them holds is granted, and nothing excuses that some of them are away,
 * or come back without data when every lease that they knew has ended. Of two who share a key and come in the same
 * moment, neither is the first, and their fencing tokens may be in any order.
 */
import type { Belief, Call, Grant, History, ServerEvent } from './history.js';
import { TIMER_LATE } from './process-loop.js';

/** How late a call may end, in ms: some timers that are late by one or two. */
const CALL_LATE = 10;
const ROUNDING = 1e-6;

export function judge(history: History): readonly string[] {
  const grants = history.events.filter((event): event is Grant => 'fence' in event);
  const lost = history.events.flatMap((event) => (event.kind === 'data lost' ? [event.at] : []));
  const found: string[] = [];
  const keys = new Set(history.beliefs.map(({ key }) => key));
  for (const key of keys) {
    const held = history.beliefs
      .filter((belief) => belief.key === key)
      .map((belief) => new Held(belief, history.events));
    const ofKey = grants.filter((grant) => grant.key === key);
    // Of several servers, some were taken from it by force before it had enough of them: others came in between.
    const wasForced = ({ token, knownAt }: Grant) =>
      history.events.some(
        (event) =>
          event.kind === 'forced' &&
          event.key === key &&
          event.token === token &&
          event.at <= knownAt,
      );
    found.push(
      ...held.flatMap((one) => one.withoutGrant()),
      ...overlaps(held, lost),
      ...held.flatMap((one) => one.outlives(ofKey, lost)),
      ...held.flatMap((one) => one.fallsBack(ofKey)),
      ...held.flatMap((one) => one.learnsLate()),
      ...fallingGrants(ofKey.filter((grant) => !wasForced(grant))),
    );
  }
  found.push(...history.calls.flatMap(overdue));
  return [...history.violations, ...found];
}

/** A belief, and what the server did about its lease. */
class Held {
  readonly #granted: Grant | undefined;
  /** The last command that gave it its fencing token. */
  readonly #fenced: Grant | undefined;
  readonly #forcedAt: number | undefined;
  /** No server, or no majority, held it any more. */
  readonly #goneAt: number | undefined;

  constructor(
    readonly belief: Belief,
    events: readonly ServerEvent[],
  ) {
    const { key, token, fence, from } = belief;
    for (const event of events) {
      if (event.kind === 'data lost' || event.key !== key || event.token !== token) continue;
      if (event.kind === 'forced') {
        this.#forcedAt ??= event.at;
        if (event.ends) this.#goneAt ??= event.at;
      } else if (event.at <= from) {
        if (event.kind === 'granted') this.#granted = event;
        if (event.fence <= fence) this.#fenced = event;
      } else if (event.kind === 'granted') {
        // Of several servers, one that the release by force had passed before its grant arrived makes a majority again.
        this.#goneAt = undefined;
      }
    }
  }

  get grantedAt(): number {
    return this.#granted?.at ?? Number.POSITIVE_INFINITY;
  }

  /** Up to when its holder must believe in it alone. */
  get to(): number {
    return Math.min(this.belief.to, this.#forcedAt ?? Number.POSITIVE_INFINITY);
  }

  withoutGrant(): string[] {
    if (this.#granted !== undefined || this.to <= this.belief.from) return [];
    return [`P8: ${described(this.belief)} was never granted`];
  }

  /** I9: nobody believes it any more when the server gives the key to one who can't share it. */
  outlives(grants: readonly Grant[], lost: readonly number[]): string[] {
    const { belief, grantedAt } = this;
    const found: string[] = [];
    for (const grant of grants) {
      if (grant.kind === 'raised' || grant.at <= grantedAt || grant.token === belief.token)
        continue;
      if (belief.access !== 'exclusive' && grant.access === belief.access) continue;
      if (lost.some((at) => at >= grantedAt && at <= grant.at)) continue;
      // Downgraded, it excludes less, from then on.
      if (grant.at >= belief.from && grant.at < this.to - ROUNDING) {
        found.push(`I9: ${described(belief)} outlives the grant of ${grant.fence} at ${grant.at}`);
      }
    }
    // Nobody was told, and then no renewal may succeed.
    const gone = [...lost, ...(this.#goneAt === undefined ? [] : [this.#goneAt])];
    for (const at of gone) {
      if (at >= grantedAt && belief.to > at + belief.ttl * 1.02) {
        found.push(`I9: ${described(belief)} goes on, and was gone from the server at ${at}`);
      }
    }
    return found;
  }

  /** I2: whoever is granted the key afterwards, gets a larger token than this holder had. */
  fallsBack(grants: readonly Grant[]): string[] {
    const fenced = this.#fenced;
    // What was taken by force before its holder was told of it: others came in between.
    if (this.#forcedAt !== undefined && this.#forcedAt <= this.belief.from) return [];
    if (fenced === undefined && this.to <= this.belief.from) return [];
    if (fenced === undefined) return [`I2: ${described(this.belief)} has a token from nowhere`];
    const { fence, token } = this.belief;
    const later = grants.slice(grants.indexOf(fenced) + 1);
    return later.flatMap((grant) =>
      grant.kind === 'granted' &&
      grant.token !== token &&
      grant.fence <= fence &&
      !cameTogether(fenced, grant)
        ? [`I2: ${described(this.belief)} comes before a grant of ${grant.fence} at ${grant.at}`]
        : [],
    );
  }

  /** I9: its signal aborts when its time is up, where the event loop is free. */
  learnsLate(): string[] {
    const { belief } = this;
    const { end, watched, to, abortedAt, loop } = belief;
    if (end !== 'deadline' || !watched) return [];
    const latest = to + 2 * TIMER_LATE;
    // Set for when it was free, and due in a loop that stood still: then `isHeld` alone tells.
    if (loop.isDead || loop.frozenBetween(to - TIMER_LATE, latest) > 0) return [];
    if (abortedAt !== undefined && abortedAt <= latest) return [];
    return [`I9: ${described(belief)} ended at ${to}, and its signal said so at ${abortedAt}`];
  }
}

/** I1, I8: who believe at the same time that they hold a key. */
function overlaps(held: readonly Held[], lost: readonly number[]): string[] {
  const found: string[] = [];
  const inOrder = held.toSorted((a, b) => a.belief.from - b.belief.from);
  let active: Held[] = [];
  for (const one of inOrder) {
    const { from, token, fence, access } = one.belief;
    if (one.to <= from) continue;
    active = active.filter(({ to }) => to > from + ROUNDING);
    const others = active.filter(
      (other) =>
        (other.belief.token !== token || other.belief.fence !== fence) &&
        !lost.some((at) => at >= Math.min(other.grantedAt, one.grantedAt) && at <= from),
    );
    const excluded = others.find(
      (other) => access === 'exclusive' || other.belief.access !== access,
    );
    if (excluded !== undefined) {
      found.push(`I1: ${described(one.belief)} while ${described(excluded.belief)}`);
    }
    const most = access.startsWith('limit:') ? Number(access.slice('limit:'.length)) : undefined;
    if (most !== undefined && others.length + 1 > most) {
      found.push(`I8: ${described(one.belief)} is one of ${others.length + 1}`);
    }
    active.push(one);
  }
  return found;
}

/** I2 at the server. */
function fallingGrants(grants: readonly Grant[]): string[] {
  const found: string[] = [];
  const earlier: Grant[] = [];
  for (const grant of grants) {
    // One that its holder was never told of has no token.
    if (grant.kind === 'raised' || Number.isNaN(grant.fence)) continue;
    const higher = earlier.find(
      (one) => one.token !== grant.token && one.fence >= grant.fence && !cameTogether(one, grant),
    );
    if (higher !== undefined) {
      found.push(
        `I2: ${grant.key} was granted with ${grant.fence} at ${grant.at}, after ${higher.fence}`,
      );
    }
    earlier.push(grant);
  }
  return found;
}

/** Whether two share a key, and one of several servers let the second in before the first knew that enough of them had. */
function cameTogether(first: Grant, second: Grant): boolean {
  return (
    first.access !== 'exclusive' && first.access === second.access && second.begunAt < first.knownAt
  );
}

/** I7: within its bound by the process's own clock, but for the time in which the process stood still. */
function overdue(call: Call): string[] {
  const { loop, what, from, bound, to, outcome, process } = call;
  if (to === undefined) {
    return loop.isDead ? [] : [`I7: ${what} of ${process}, called at ${from}, never ended`];
  }
  const latest = from + bound / loop.rate + loop.frozenBetween(from, to) + CALL_LATE;
  if (to <= latest) return [];
  const took = (to - from).toFixed(1);
  return [`I7: ${what} of ${process}, called at ${from}, took ${took} of ${bound} ms (${outcome})`];
}

function described({ process, key, access, fence, from, to }: Belief): string {
  return `${process} holds ${key} (${access}, ${fence}) from ${from.toFixed(2)} to ${to.toFixed(2)}`;
}
