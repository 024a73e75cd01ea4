/**
 * What was found out about the servers that keep locks: facts, each as the server told it, or `'unknown'` where it may not
 * be asked (an ACL, a renamed command, a managed Redis) or doesn't say. What follows from them is `diagnosis.ts`.
 */

/** A fact, unless it can't be found out. Never a guess. */
export type Known<T> = T | 'unknown';

export interface ServerFacts {
  readonly kind: 'surveyed';
  /** As this process reaches it. */
  readonly address: string;
  /** What it calls itself; one that calls itself Redis may be compatible only. */
  readonly product: Known<'redis' | 'valkey' | 'keydb' | 'dragonfly'>;
  readonly version: Known<string>;
  readonly mode: Known<'standalone' | 'cluster'>;
  /** How many Sentinels watch it. */
  readonly sentinels: Known<number>;
  readonly role: Known<'master' | 'replica'>;
  /** Another after each restart, and on each server. */
  readonly runId: Known<string>;
  /** In s. */
  readonly uptime: Known<number>;
  /** In bytes; 0: no limit. */
  readonly maxmemory: Known<number>;
  readonly maxmemoryPolicy: Known<string>;
  /** Since its start. */
  readonly evictedKeys: Known<number>;
  /** When what it appends to its log is on disk; `'off'`: it keeps none. */
  readonly appendfsync: Known<'off' | 'no' | 'everysec' | 'always'>;
  /** `no-appendfsync-on-rewrite`: nothing is made sure to be on disk while the log is rewritten. */
  readonly noAppendfsyncOnRewrite: Known<boolean>;
  /** Whether it saves snapshots (RDB). */
  readonly snapshots: Known<boolean>;
  /** Those that are connected. */
  readonly replicas: Known<readonly ReplicaFacts[]>;
  readonly minReplicasToWrite: Known<number>;
  /** In s. */
  readonly minReplicasMaxLag: Known<number>;
  /** Of a node of a Cluster. */
  readonly clusterState?: Known<string>;
  /** In ms, of a node of a Cluster. */
  readonly clusterNodeTimeout?: Known<number>;
  /** Its clock less that of this process, in ms, and how far that may be wrong either way. */
  readonly clock: Known<{ readonly offset: number; readonly uncertainty: number }>;
  readonly mayPublish: Known<boolean>;
  readonly mayRunScripts: Known<boolean>;
  /** Whether a script may ask for INFO, as the guard does. */
  readonly mayAskInfoInScripts: Known<boolean>;
  /** What it refused to answer, and how it said so. */
  readonly denied: readonly { readonly command: string; readonly message: string }[];
}

export interface ReplicaFacts {
  readonly address: string;
  /** `online` once it has all that the master had. */
  readonly state: string;
  /** In s, since it last said how far it is. */
  readonly lag: Known<number>;
}

/** A server, or why nothing is known of it. */
export type ServerSurvey =
  | ServerFacts
  | { readonly kind: 'unreachable'; readonly address: string; readonly message: string };

/** How the servers keep locks together; `'memory'`: there is none. */
export type LockLayout = 'memory' | 'server' | 'sentinel' | 'cluster' | 'quorum';

/** All servers that keep locks: the one, all masters of a Cluster, every node of a quorum. */
export interface Survey {
  readonly kind: 'surveyed';
  readonly layout: LockLayout;
  readonly servers: readonly ServerSurvey[];
}
