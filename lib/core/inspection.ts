import type { Access } from './access.js';
import type { LockBackend, LockState } from './backend/lock-backend.js';
import type { KeyPattern } from './key-pattern.js';
import { LockName } from './lock-name.js';
import type { RunRecord } from './run-record.js';
import { unavailableError } from './wait-queue.js';

/**
 * A look at locks: who holds them and who waits, as the backend knows it, and with it who waits in this process alone,
 * behind a holder of its own, of whom the backend knows nothing.
 *
 * Part of `Locker`.
 */
export class Inspection {
  constructor(
    private readonly backend: LockBackend,
    /** How the first wants a key who waits in this process alone. */
    private readonly waitsHere: (name: LockName) => Access | undefined,
  ) {}

  /** @throws LockUnavailableError */
  async stateOf(name: LockName): Promise<LockState> {
    const outcome = await this.backend.query(name);
    if (outcome.kind === 'unavailable') throw unavailableError(name.key, outcome);
    const { state } = outcome;
    const access = this.waitsHere(name);
    if (access === undefined) return state;
    return { ...state, pending: [...state.pending, { sequence: undefined, access }] };
  }

  /**
   * Those that are held or waited for, sorted by key.
   * @throws LockUnavailableError
   */
  async query(prefix: string, pattern: KeyPattern): Promise<LockState[]> {
    const names = await this.#namesOf(prefix, pattern);
    const states: LockState[] = [];
    for (let start = 0; start < names.length; start += LOOKS_AT_ONCE) {
      const some = names.slice(start, start + LOOKS_AT_ONCE);
      states.push(...(await Promise.all(some.map((name) => this.stateOf(name)))));
    }
    return states
      .filter(({ held, pending }) => held.length > 0 || pending.length > 0)
      .toSorted(byKey);
  }

  async #namesOf(prefix: string, pattern: KeyPattern): Promise<readonly LockName[]> {
    if (pattern.exact !== undefined) return [LockName.of(prefix, pattern.exact)];
    const outcome = await this.backend.names(prefix, pattern);
    if (outcome.kind === 'unavailable') {
      throw unavailableError(undefined, outcome);
    }
    return outcome.names;
  }
}

/** How many locks a query looks at together: enough to keep the server busy, and not so many that the last are late. */
const LOOKS_AT_ONCE = 100;

/** The same with what is recorded of jobs of those names; a job that has no lock of its name comes with nobody who holds. */
export function withRuns(
  states: readonly LockState[],
  runs: ReadonlyMap<string, readonly RunRecord[]>,
): LockState[] {
  const all = new Map(states.map((state) => [state.key, state]));
  for (const [key, records] of runs) {
    all.set(key, { ...(all.get(key) ?? { key, held: [], pending: [] }), runs: records });
  }
  return [...all.values()].toSorted(byKey);
}

function byKey(a: LockState, b: LockState): number {
  return a.key < b.key ? -1 : 1;
}
