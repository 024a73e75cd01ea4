import type { Clock } from './clock.js';
import type { ForcedBy } from './errors.js';
import type { Lease } from './lease.js';
import type { Forced } from './wake-up.js';

/**
 * Leases that were released by force and that this process doesn't know: of those whose grant is still on its way, the
 * message came first. Each is remembered for as long as a grant may take; after that it's no grant.
 *
 * Told by `Locker`, which asks for each new lease.
 */
export class ForcedReleases {
  /** By token and owner key: keys that are taken together have one token. */
  readonly #known = new Map<string, { readonly by: ForcedBy; readonly until: number }>();

  constructor(
    private readonly clock: Clock,
    private readonly commandTimeout: number,
  ) {}

  remember({ token, owner, by }: Forced): void {
    const now = this.clock.now();
    for (const [other, { until }] of this.#known) if (until < now) this.#known.delete(other);
    this.#known.set(`${token} ${owner}`, { by, until: now + this.commandTimeout });
  }

  /** Who released it, where somebody did. */
  byWhom({ token, name }: Lease): ForcedBy | undefined {
    // Most processes never hear of one: no text is put together for those.
    if (this.#known.size === 0) return undefined;
    return this.#known.get(`${token} ${name.owner}`)?.by;
  }
}
