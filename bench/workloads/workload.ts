import type { Redis } from 'ioredis';

import type { Ability, Adapter, LockClient, OpenOptions } from '../adapters/adapter.js';
import type { Meter } from '../meter.js';
import type { Peer } from '../process/peer.js';

/**
 * What is done to every library: one workload of the table in `bench/README.md`, in one or more cases. A case is run in
 * a process of its own, against a redis-server of its own, once a round.
 */
export interface Workload {
  readonly id: string;
  readonly title: string;
  /** What is done and measured, for the reader of the tables. */
  readonly about: string;
  readonly cases: readonly Case[];
  /** What its further processes do, by role. */
  readonly roles?: Readonly<Record<string, Role>>;
}

export interface Case {
  /** Unique within the workload; '' where it's the only one. */
  readonly id: string;
  readonly about?: string;
  readonly needs: readonly Ability[];
  /** How many independent servers it takes. @default 1 */
  readonly nodes?: number;
  /** The libraries for which alone it makes sense; without, all. */
  readonly libraries?: readonly string[];
  readonly measures: readonly Measure[];
  run(bench: Bench): Promise<Measured>;
}

/** One column of a case's table. */
export interface Measure {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly digits?: number;
  /** The libraries (by id) beside which it's shown as a ratio. */
  readonly ratioTo?: readonly string[];
}

export interface Measured {
  /** By the measure's id. One that makes no sense for the library is left out. */
  readonly values: Readonly<Record<string, number>>;
  /** How often somebody was let in while another was inside, or a fencing token didn't rise. */
  readonly violations: number;
  /** Acquisitions and releases that failed. */
  readonly errors: number;
}

/** What a case is given. */
export interface Bench {
  readonly adapter: Adapter;
  readonly url: string;
  readonly scale: Scale;
  /** For checks and statistics; the library has connections of its own. */
  readonly redis: Redis;
  readonly meter: Meter;
  /** Opens the library. What isn't closed ends with the process. */
  open(options?: Partial<OpenOptions>): Promise<LockClient>;
  /** Starts a further process, which opens the library as well. */
  startPeer(role: string): Promise<Peer>;
}

/** What the command line chose between: figures to look at, or figures to quote. */
export type Scale = 'quick' | 'full';

/** What a further process does; it ends when this is done. */
export type Role = (here: PeerSide) => Promise<void>;

export interface PeerSide {
  readonly url: string;
  open(options?: Partial<OpenOptions>): Promise<LockClient>;
  send(message: unknown): void;
  next<M>(): Promise<M>;
}

export const DEFAULT_TTL = 10_000;
