/**
 * One library under test, as the workloads see it: what it can do, how it's opened, and how a lock is taken and given
 * back.
 *
 * A library hands out its own handle for a held lock, whatever that is; the workloads keep it and give it back. So
 * nothing of ours stands between the two in what is timed or weighed. One that only runs functions under a lock (a
 * decorator) has `run` instead, and its handles come from `FunctionLocks`.
 */
export interface Adapter {
  /** As the command line and the result file name it. */
  readonly id: string;
  /** As the tables name it. */
  readonly title: string;
  /** What it's set to, where that isn't its default. */
  readonly settings: string;
  /** What it can't do, and why; a workload that needs it shows '-' with this reason. */
  readonly lacks: Partial<Record<Ability, string>>;
  /** Workloads for which alone it was written; without, all of them. */
  readonly only?: readonly string[];
  /** Why it can't be run at all here, if it can't. */
  unavailable?(): string | undefined;
  open(options: OpenOptions): Promise<LockClient>;
}

/**
 * - `processes`: excludes other processes
 * - `waiting`: an acquisition waits for its turn
 * - `renewal`: keeps a held lock alive by itself
 * - `handles`: a lock can be held apart from a function that runs under it
 */
export type Ability = 'processes' | 'waiting' | 'renewal' | 'handles';

export interface OpenOptions {
  readonly url: string;
  /** The further nodes of a quorum, which know nothing of each other. */
  readonly others?: readonly string[];
  /** In ms. */
  readonly ttl: number;
  /** Whether locks are to be renewed. A library that does so anyway, or never, doesn't look at it. */
  readonly renew: boolean;
}

export interface LockClient<Held = unknown> {
  /** Takes the lock; waits for it where the library can. */
  acquire(key: string): Promise<Held>;
  release(held: Held): Promise<unknown>;
  /** Where the library's own way is to run a function under the lock. */
  run?(key: string, work: () => void): Promise<unknown>;
  /** Makes a key what the library is to be measured with; not timed. */
  prepare?(key: string): Promise<unknown>;
  /** The fencing token, where there is one. */
  fencingToken?(held: Held): number;
  /** Whether the library believes that the lock is still held, where it can be asked. */
  isHeld?(held: Held): boolean;
  close(): Promise<unknown>;
}

/** How often libraries that poll are set to look, in ms: 10, as in the usual recipe. */
export const POLL_INTERVAL = 10;
/** Longer than any workload waits, in ms. */
export const WAIT_TIMEOUT = 120_000;

/** One cycle, in the way that is the library's own. */
export async function underLock(client: LockClient, key: string, work: () => void): Promise<void> {
  if (client.run !== undefined) {
    await client.run(key, work);
    return;
  }
  const held = await client.acquire(key);
  work();
  await client.release(held);
}
