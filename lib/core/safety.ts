import type { LockLayout, ServerSurvey } from './survey.js';

/** The words of a diagnosis: what may be promised, what may go wrong, and what is said of the two. */

/**
 * A promise by its name in the README: exclusion, loss told in time, fencing, bounded, nothing left behind, only one's own,
 * order, fail closed, transparent.
 */
export type LockPromise = 'P1' | 'P2' | 'P3' | 'P4' | 'P5' | 'P6' | 'P7' | 'P8' | 'P9';

/**
 * What may go wrong: a process dies, or is stopped for a while; a server dies and starts again; a replica takes over from a
 * dead master, or from one that is cut off and still serves some; keys are evicted; a server's clock is set; the data is
 * flushed; messages between process and server are lost.
 */
export type LockFault =
  | 'client-crash'
  | 'client-pause'
  | 'server-restart'
  | 'failover'
  | 'partition'
  | 'eviction'
  | 'clock-jump'
  | 'flush'
  | 'network-loss';

export type SafetyVerdictKind = 'holds' | 'weakened' | 'unknown' | 'not-applicable';

/** Whether one promise holds under one fault, and why. */
export interface SafetyVerdict {
  readonly promise: LockPromise;
  readonly fault: LockFault;
  readonly verdict: SafetyVerdictKind;
  readonly reason: string;
}

/**
 * `unusable`: no lock can be had like this. `weakened`: one of P1 to P3 doesn't hold under a fault, and settings exist that
 * would close it. `unknown`: whether it holds can't be found out. `advice`: what no setting closes, or what costs time and no
 * safety.
 */
export type FindingSeverity = 'unusable' | 'weakened' | 'unknown' | 'advice';

/** Something to change, to find out, or to know of. */
export interface SafetyFinding {
  readonly severity: FindingSeverity;
  /** Stable, to match on: `'no-aof'`, `'async-failover'`, … */
  readonly code: string;
  /** Those that are concerned. */
  readonly promises: readonly LockPromise[];
  /** Those under which it shows. */
  readonly faults: readonly LockFault[];
  readonly message: string;
  /** What to change: the option, or the setting of redis.conf. */
  readonly remedy: string;
  /** The addresses of the servers that are concerned; none where it's no matter of a server. */
  readonly servers: readonly string[];
}

/**
 * How safe the whole is, by its worst finding. `strict`: P1 to P3 hold under a restart of a server, a failover (also with
 * the old master cut off and still serving), and eviction. It's what `safety: 'strict'` asks for.
 */
export type SafetyLevel = 'strict' | 'unknown' | 'weakened' | 'unusable';

/** The module's own options, as far as they decide what is safe; times in ms. */
export interface DiagnosedOptions {
  readonly guard: { readonly longestTtl: number; readonly lag: number } | false;
  readonly replicas: { readonly atLeast: number; readonly aof: boolean } | false;
  readonly wakeUp: 'publish' | 'poll';
  readonly ttl: number;
  readonly commandTimeout: number;
}

/** What {@link Locker.diagnose} gives. */
export interface Diagnosis {
  readonly level: SafetyLevel;
  readonly layout: LockLayout;
  /** The server, all masters of a Cluster, or every node of a quorum. */
  readonly servers: readonly ServerSurvey[];
  readonly options: DiagnosedOptions;
  /** By promise. */
  readonly verdicts: readonly SafetyVerdict[];
  /** The worst first. */
  readonly findings: readonly SafetyFinding[];
}

/** A finding in one line: which promises, under which faults, why, what to change, and where. */
export function findingLine({ promises, faults, message, remedy, servers }: SafetyFinding): string {
  const under = faults.length === 0 ? '' : ` under ${faults.join(', ')}`;
  const subject = promises.length === 0 ? '' : `${promises.join(', ')}${under}: `;
  const where = servers.length === 0 ? '' : ` [${servers.join(', ')}]`;
  return `${subject}${message} ${remedy}${where}`;
}
