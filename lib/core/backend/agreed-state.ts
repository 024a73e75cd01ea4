import { FENCE_LEAD } from './acquire-vote.js';
import type { HolderState, LockState, WaiterState } from './lock-backend.js';

/**
 * What several independent nodes show of one key, as one: whom at least so many of them show. The rest is on its way to or
 * from being held, or a try that will be undone.
 */
export function agreedState(key: string, states: readonly LockState[], least: number): LockState {
  return {
    key,
    held: agreedHolders(
      states.map(({ held }) => held),
      least,
    ),
    pending: grouped(
      states.map(({ pending }) => pending),
      ({ sequence, access }) => `${sequence} ${access}`,
      least,
    )
      .map(([waiter]) => waiter as WaiterState)
      .toSorted((a, b) => (a.sequence ?? 0) - (b.sequence ?? 0)),
  };
}

/** One lease is known by its fencing token, which at least a majority of the nodes has of it, and by its process. */
export function agreedHolders(
  held: readonly (readonly HolderState[])[],
  least: number,
): HolderState[] {
  return grouped(
    held,
    ({ fencingToken, host, pid, access, kept }) =>
      `${fencingToken} ${access} ${kept} ${pid} ${host}`,
    least,
  )
    .map((shown): HolderState => {
      const remaining = shown.map((one) => one.remaining).toSorted((a, b) => b - a);
      return {
        ...(shown[0] as HolderState),
        since: new Date((shown[0] as HolderState).since.getTime() - FENCE_LEAD),
        // Up to when so many nodes keep it.
        remaining: remaining[Math.max(1, least) - 1] as number,
      };
    })
    .toSorted((a, b) => a.fencingToken - b.fencingToken);
}

/** What at least so many lists have in common. */
function grouped<T>(
  lists: readonly (readonly T[])[],
  sign: (one: T) => string,
  least: number,
): T[][] {
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
  return [...groups.values()].filter((group) => group.length >= least);
}
