import { chosen } from '../test/support/command-line.js';
import { adapters, adapterOf } from './adapters/catalogue.js';
import type { Adapter } from './adapters/adapter.js';
import type { Command } from './command-line.js';
import { workloads } from './workloads/catalogue.js';
import type { Case, Scale, Workload } from './workloads/workload.js';

/** What will be run. */
export interface Plan {
  readonly cases: readonly PlannedCase[];
  /** Libraries that can't be run here at all, each with its reason. */
  readonly unavailable: ReadonlyMap<Adapter, string>;
}

/** A case with the libraries that run it, and with those that can't, each with its reason. */
export interface PlannedCase {
  readonly workload: Workload;
  readonly case: Case;
  readonly libraries: readonly Adapter[];
  readonly absent: ReadonlyMap<Adapter, string>;
}

/** The limits, what is usual, the best rival and ours: enough for every target. */
const QUICK = [
  'raw',
  'polling',
  'batch',
  'async-mutex',
  'redis-semaphore',
  'ours',
  'ours-decorator',
  'raw-quorum',
  'redlock-5-quorum',
  'ours-quorum',
  'ours-quorum-at-odds',
];
/** What they are run in alone, for the sake of time. */
const QUICK_WORKLOADS: Readonly<Record<string, readonly string[]>> = {
  'redis-semaphore': ['W1', 'W2', 'W4'],
  'ours-decorator': ['W1', 'W2', 'decorator'],
};

export function plan(command: Command): Plan {
  const unavailable = new Map<Adapter, string>();
  const available = chosenLibraries(command.libraries, command.scale).filter((adapter) => {
    const reason = adapter.unavailable?.();
    if (reason !== undefined) unavailable.set(adapter, reason);
    return reason === undefined;
  });
  const cases = chosen('--only', command.only, workloads, ({ id }) => id).flatMap((workload) =>
    workload.cases.map((one) => {
      const libraries: Adapter[] = [];
      const absent = new Map<Adapter, string>();
      for (const adapter of available) {
        if (adapter.only !== undefined && !adapter.only.includes(workload.id)) continue;
        if (one.libraries !== undefined && !one.libraries.includes(adapter.id)) continue;
        if (isLeftOut(adapter, workload, command)) continue;
        const lacking = one.needs.find((ability) => adapter.lacks[ability] !== undefined);
        const reason = lacking === undefined ? undefined : adapter.lacks[lacking];
        if (reason === undefined) libraries.push(adapter);
        else absent.set(adapter, reason);
      }
      return { workload, case: one, libraries, absent };
    }),
  );
  return { cases, unavailable };
}

function isLeftOut({ id }: Adapter, workload: Workload, { scale, libraries }: Command): boolean {
  const alone = QUICK_WORKLOADS[id];
  if (scale !== 'quick' || libraries !== undefined || alone === undefined) return false;
  return !alone.includes(workload.id);
}

function chosenLibraries(ids: readonly string[] | undefined, scale: Scale): readonly Adapter[] {
  if (ids === undefined && scale === 'quick') return QUICK.map(adapterOf);
  const named = ids?.includes('all') ? undefined : ids;
  return chosen('--libraries', named, adapters, ({ id }) => id);
}
