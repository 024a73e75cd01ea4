import type { Access } from './access.js';
import type { Lease } from './lease.js';
import type { LockName } from './lock-name.js';
import type { LockRequest } from './lock-request.js';

/**
 * Who of this process waits for which key while it holds others: the waits-for graph, in which a circle is a deadlock.
 *
 *     caller ──waits for──▶ key ──held under──▶ lease ──held by──▶ callers that wait below it ──▶ …
 *
 * A circle closes only when somebody begins to wait, so that is when it's looked for, and who closes it is the youngest.
 * Sound rather than complete: an edge is there only where the one can't go on without the other. Who waits for one place of
 * several, behind others in a queue, or without a call chain that tells what it holds, has none. What can't be seen is whether
 * a holder awaits a call that it has started: it's taken to do so.
 *
 * Asked by `WaitQueue`; kept by `Locker`.
 *
 * @see Edward G. Coffman et al.: System Deadlocks (1971), on detection by the state graph
 */
export class WaitGraph {
  readonly #waiting = new Map<LockRequest, LockName>();

  /** `leasesOn`: the leases of this process that all must end before a key can be had. */
  constructor(private readonly leasesOn: (name: LockName, access: Access) => Iterable<Lease>) {}

  /** A caller begins to wait. The circle that this closes, as the keys along it; else it's remembered while it waits. */
  begins(name: LockName, request: LockRequest): readonly string[] | undefined {
    const { blocks, options } = request;
    if (blocks.length === 0) return undefined;
    const own = new Set(blocks.filter(({ isHeld }) => isHeld).map(({ lease }) => lease));
    const path = this.#path(name, options.access, own, new Set());
    if (path !== undefined) return [path.at(-1) as string, ...path];
    this.#waiting.set(request, name);
    const forget = () => void this.#waiting.delete(request);
    request.promise.then(forget, forget);
    return undefined;
  }

  /** The keys from the one that's waited for to one that is the caller's own. */
  #path(
    name: LockName,
    access: Access,
    own: ReadonlySet<Lease>,
    seen: Set<Lease>,
  ): readonly string[] | undefined {
    for (const lease of this.leasesOn(name, access)) {
      if (own.has(lease)) return [name.key];
      if (seen.has(lease)) continue;
      seen.add(lease);
      for (const [request, itsName] of this.#waiting) {
        // It may have left a moment ago.
        if (request.line === undefined) continue;
        const below = request.blocks.some((lock) => lock.lease === lease && lock.isHeld);
        if (!below) continue;
        const rest = this.#path(itsName, request.options.access, own, seen);
        if (rest !== undefined) return [name.key, ...rest];
      }
    }
    return undefined;
  }
}
