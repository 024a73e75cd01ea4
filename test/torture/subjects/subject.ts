/**
 * A library under torture, as the taker's process sees it: how it's opened, how a lock is taken and given back, and what
 * it lets its user believe.
 *
 * What a holder believes is the one thing on which a comparison stands or falls: `isHeld` says what the library's
 * documentation tells a careful user to ask before each step under the lock. Each subject says in `belief` what that is.
 */
import type { Protocol } from '../steps.js';
import type { Where } from '../where.js';

export interface Subject {
  /** As the command line and the results name it. */
  readonly id: string;
  readonly title: string;
  /** What it's set to, where that isn't its default. */
  readonly settings: string;
  /** Up to when its user believes that he holds the lock, by its documentation. */
  readonly belief: string;
  /** Whether it hands out fencing tokens. */
  readonly fences: boolean;
  /** Which of our promises are its as well: none, those of a lock without options, those with `guard`. */
  readonly promises: 'none' | 'plain' | 'guarded';
  /** Why it can't be run on such a topology, if it can't. */
  lacks?(topology: Where['kind'], limit: number | undefined): string | undefined;
  /** What a proxy reads of it; undefined: nobody knows its steps. */
  readonly protocol?: Protocol;
  open(options: SubjectOptions): Promise<SubjectClient>;
}

export interface SubjectOptions {
  readonly where: Where;
  /** In ms, as all others here. */
  readonly ttl: number;
  readonly waitTimeout: number;
  /** How many may hold a key at a time; undefined: one. */
  readonly limit?: number | undefined;
  /** How long a server that was replaced may go on granting; for those who have a guard. */
  readonly lag: number;
  /** Of one Redis command; for those who have such a bound. */
  readonly commandTimeout: number;
}

export interface SubjectClient {
  /** Waits for the lock for up to `waitTimeout`; `undefined`: others have it. */
  acquire(key: string): Promise<SubjectLock | undefined>;
  /** Short, and the same for all failures of a kind: the results count them. */
  outcomeOf(error: unknown): string;
  close(): Promise<void>;
}

export interface SubjectLock {
  readonly fencingToken: number | undefined;
  /** Whether its user believes at this moment that he holds it. */
  readonly isHeld: boolean;
  /** Calls back when the holder is told that he lost it, if he's ever told. */
  onLost(callback: (reason: string) => void): void;
  /** Answers with how it went, in a word. */
  release(): Promise<string>;
}

/** How often those who poll look, in ms: redis-semaphore's default. */
export const POLL_INTERVAL = 10;

/** An error's name and code, for those whose failures have no code of their own. */
export function nameOf(error: unknown): string {
  const { name = 'Error', code } = (error ?? {}) as { name?: string; code?: string };
  return code === undefined ? name : `${name} ${code}`;
}
