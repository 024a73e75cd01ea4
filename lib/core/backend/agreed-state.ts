import { FENCE_LEAD } from './acquire-vote.js';
import { majorityOf } from './inquiry.js';
import type {
  ForceOutcome,
  HolderState,
  QueryOutcome,
  Unavailable,
  WaiterState,
} from './lock-backend.js';

type Found = Exclude<QueryOutcome, Unavailable>;

/**
 * What several independent nodes show of one key, as one: whom a majority of them shows, or may have, where some haven't
 * answered. The rest is on its way to or from being held, or a try that will be undone.
 */
export function agreedState(key: string, found: readonly Found[], count: number): Found {
  const least = leastOf(count, found.length);
  const shown = leases(found.map(({ state, leases: signs }) => ({ held: state.held, signs })));
  return {
    kind: 'found',
    state: {
      key,
      held: heldBy(shown, least),
      pending: grouped(
        found.map(({ state }) => state.pending),
        ({ sequence, access }) => `${sequence} ${access}`,
      )
        .filter((group) => group.length >= least)
        .map(([waiter]) => waiter as WaiterState)
        .toSorted((a, b) => (a.sequence ?? 0) - (b.sequence ?? 0)),
    },
    asShown: shown.filter((group) => group.length >= least),
    majority: majorityOf(count),
  };
}

/** From whom a majority of so many nodes took the key, or may have: some of them haven't told. */
export function agreedHolders(
  forced: readonly Exclude<ForceOutcome, Unavailable | { readonly kind: 'late' }>[],
  count: number,
): HolderState[] {
  const ofNodes = forced.map(({ held, leases: signs }) => ({ held, signs }));
  return heldBy(leases(ofNodes), leastOf(count, forced.length));
}

/** How many of those that answered must have it, so that a majority of all may. */
function leastOf(count: number, answered: number): number {
  return Math.max(1, majorityOf(count) - (count - answered));
}

/**
 * Each lease, as the nodes that have it show it. Where it's not known by its token, it's by its process and its fencing token,
 * which at least a majority has of it; a node that couldn't be told it has one of its own for the same grant.
 */
function leases(
  nodes: readonly {
    readonly held: readonly HolderState[];
    readonly signs: readonly string[] | undefined;
  }[],
): HolderState[][] {
  const marked = nodes.map(({ held, signs }) =>
    held.map((holder, index) => ({ holder, lease: signs?.[index] })),
  );
  return grouped(marked, ({ holder, lease }) => {
    const { fencingToken, host, pid, access, kept } = holder;
    // What is kept by nobody has no token.
    const isKnown = lease !== undefined && !kept;
    return `${isKnown ? lease : `${fencingToken} ${pid} ${host}`} ${access} ${kept}`;
  }).map((group) => group.map(({ holder }) => holder));
}

function heldBy(shown: readonly HolderState[][], least: number): HolderState[] {
  return shown
    .filter((group) => group.length >= least)
    .map((group): HolderState => {
      const largest = (values: readonly number[], nth: number) =>
        values.toSorted((a, b) => b - a)[nth - 1] as number;
      // A majority has that of the lease, or more: those that were slow, and not yet told.
      const fencingToken = largest(
        group.map((one) => one.fencingToken),
        least,
      );
      const holder = group.find((one) => one.fencingToken === fencingToken) as HolderState;
      return {
        ...holder,
        since: new Date(holder.since.getTime() - FENCE_LEAD),
        // Up to when so many nodes keep it.
        remaining: largest(
          group.map((one) => one.remaining),
          least,
        ),
      };
    })
    .toSorted((a, b) => a.fencingToken - b.fencingToken);
}

/** What lists have in common. */
function grouped<T>(lists: readonly (readonly T[])[], sign: (one: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const list of lists) {
    // Two in one list that look alike are two.
    const seen = new Map<string, number>();
    for (const one of list) {
      const nth = seen.get(sign(one)) ?? 0;
      seen.set(sign(one), nth + 1);
      const key = `${nth} ${sign(one)}`;
      const group = groups.get(key);
      if (group === undefined) groups.set(key, [one]);
      else group.push(one);
    }
  }
  return [...groups.values()];
}
