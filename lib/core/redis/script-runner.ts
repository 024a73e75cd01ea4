import type { Unavailable } from '../backend/unavailable.js';
import type { Script } from './script.js';
import type { ServerClock } from './server-clock.js';

/**
 * Where scripts are sent: straight to the server (`Connection`), with replicas to confirm what they wrote
 * (`ConfirmedConnection`, `ConfirmedCluster`), or past a guard (`ServerGuard`, in front of any of these).
 */
export interface ScriptRunner {
  /** Runs a script and ends by the deadline, and within the command timeout. */
  run<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable>;
}

export interface Replied<R> {
  readonly kind: 'reply';
  readonly reply: R;
  readonly sentAt: number;
  readonly receivedAt: number;
  /** In a Cluster: that of the node which answered. */
  readonly clock?: ServerClock | undefined;
  /** Where replicas are to confirm what was written: why that can't be relied on, or `undefined` where it can. */
  readonly confirmed?: Promise<Unavailable | undefined>;
}
