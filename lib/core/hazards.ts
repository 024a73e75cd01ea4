import type { DiagnosedOptions, LockFault, LockPromise, SafetyVerdictKind } from './safety.js';
import type { LockLayout, ServerFacts } from './survey.js';

/**
 * What may take locks from a server that had granted them: one judgement for each hazard, on one server. A lock that the
 * server has forgotten, and that is still believed to be held, is granted to another at once: P1 and P2 break together.
 */
export interface Hazard {
  readonly fault: LockFault;
  readonly promises: (layout: LockLayout) => readonly LockPromise[];
  /** Whether the remedy is one that `safety: 'strict'` insists on. */
  readonly strict: boolean;
  assess(server: ServerFacts, options: DiagnosedOptions, layout: LockLayout): Assessment;
}

export interface Assessment {
  readonly verdict: SafetyVerdictKind;
  /** Of the finding; none where there's nothing to change. */
  readonly code?: string;
  readonly reason: string;
  readonly remedy?: string;
}

const P1_P2: readonly LockPromise[] = ['P1', 'P2'];
const P1_TO_P3: readonly LockPromise[] = ['P1', 'P2', 'P3'];
/** What the server's word for it is worth: an isolated master counts its replicas once a second, in whole seconds. */
const COUNTING = 2_000;
/** Of `min-replicas-max-lag`, in s. */
const DEFAULT_MAX_LAG = 10;

/**
 * A node of a quorum that forgets takes its fencing counter along, and another's clock may be behind; on one server
 * that clock goes on, so tokens do.
 */
const fencedByClock = (layout: LockLayout) => (layout === 'quorum' ? P1_TO_P3 : P1_P2);

export const HAZARDS: readonly Hazard[] = [
  { fault: 'server-restart', promises: fencedByClock, strict: true, assess: assessRestart },
  { fault: 'failover', promises: () => P1_TO_P3, strict: true, assess: assessFailover },
  { fault: 'partition', promises: () => P1_TO_P3, strict: true, assess: assessPartition },
  { fault: 'eviction', promises: fencedByClock, strict: true, assess: assessEviction },
  { fault: 'flush', promises: fencedByClock, strict: false, assess: assessFlush },
];

const AGAIN = 'a lock that is still held may be granted to another.';

function assessRestart(server: ServerFacts, options: DiagnosedOptions): Assessment {
  const guarded = byGuard(options, 'A server that has restarted');
  if (guarded !== undefined) return guarded;
  const { appendfsync, noAppendfsyncOnRewrite, snapshots } = server;
  if (appendfsync === 'unknown') {
    return {
      verdict: 'unknown',
      code: 'persistence-unknown',
      reason: `What a restart of the server keeps isn't known: ${why(server, 'CONFIG GET', 'INFO')}.`,
      remedy: `${GUARD}, which closes it either way; or permit \`+config|get\` and \`+info\` to this user, so that it can be found out.`,
    };
  }
  if (appendfsync === 'off') {
    const lost =
      snapshots === false
        ? 'everything (neither AOF nor RDB)'
        : 'what came after its last snapshot, if it has one (no AOF)';
    return {
      verdict: 'weakened',
      code: 'no-aof',
      reason: `A restart of the server loses ${lost}; ${AGAIN}`,
      remedy: `${GUARD}; or \`appendonly yes\` and \`appendfsync always\` in redis.conf.`,
    };
  }
  if (options.replicas !== false && options.replicas.aof) {
    return {
      verdict: 'holds',
      reason: 'Each grant and renewal is on disk before it counts (replicas.aof).',
    };
  }
  if (appendfsync !== 'always') {
    const lost =
      appendfsync === 'no'
        ? 'what the system had not written to disk yet, perhaps half a minute'
        : 'the last second or two';
    return {
      verdict: 'weakened',
      code: appendfsync === 'no' ? 'aof-no-fsync' : 'aof-everysec',
      reason: `A crash of the server may lose ${lost} (\`appendfsync ${appendfsync}\`); ${AGAIN}`,
      remedy: `${GUARD}; or \`appendfsync always\` in redis.conf.`,
    };
  }
  if (noAppendfsyncOnRewrite === 'unknown') {
    return {
      verdict: 'unknown',
      code: 'persistence-unknown',
      reason: `What a crash during a rewrite of the AOF loses isn't known: ${why(server, 'CONFIG GET')}.`,
      remedy: `${GUARD}, which closes it either way; or permit \`+config|get\` to this user, so that it can be found out.`,
    };
  }
  if (noAppendfsyncOnRewrite) {
    return {
      verdict: 'weakened',
      code: 'aof-unsynced-rewrite',
      reason: `A crash of the server while it rewrites its AOF may lose what isn't on disk yet (\`no-appendfsync-on-rewrite yes\`); ${AGAIN}`,
      remedy: `${GUARD}; or \`no-appendfsync-on-rewrite no\` in redis.conf.`,
    };
  }
  return {
    verdict: 'holds',
    reason: 'Each grant is on disk before its reply (appendfsync always).',
  };
}

function assessFailover(
  server: ServerFacts,
  options: DiagnosedOptions,
  layout: LockLayout,
): Assessment {
  const alone = withoutReplicas(server, layout);
  if (alone !== undefined) return alone;
  if (confirmedByAll(server, options)) return CONFIRMED;
  const guarded = byGuard(options, 'A server that was promoted');
  if (guarded !== undefined) return guarded;
  const { replicas } = options;
  return {
    verdict: 'weakened',
    code: replicas === false ? 'async-failover' : 'replicas-too-few',
    reason:
      replicas === false
        ? `Replication is asynchronous: a replica that is promoted may lack the last grants and renewals; ${AGAIN}`
        : `Grants and renewals are confirmed by ${replicas.atLeast} of ${replicasNeeded(server)} replicas, and one that lacks them may be promoted; ${AGAIN}`,
    remedy: `${GUARD}; or \`replicas: { atLeast: ${replicasNeeded(server)} }\`, which takes no locks while one of them is down.`,
  };
}

function assessPartition(
  server: ServerFacts,
  options: DiagnosedOptions,
  layout: LockLayout,
): Assessment {
  const alone = withoutReplicas(server, layout);
  if (alone?.verdict === 'not-applicable' && layout === 'quorum') return ONE_MAJORITY;
  if (alone !== undefined) return alone;
  if (confirmedByAll(server, options)) return CONFIRMED;
  const needed = replicasNeeded(server);
  const stops = stopsServing(server, needed);
  if (stops === 'unknown') {
    return {
      verdict: 'unknown',
      code: 'split-brain-unknown',
      reason: `For how long a master that is cut off still serves isn't known: ${why(server, 'CONFIG GET')}.`,
      remedy: `Permit \`+config|get\` to this user, so that it can be found out; or set \`replicas: { atLeast: ${needed} }\`, which closes it either way.`,
    };
  }
  const { guard } = options;
  if (stops === 'never' || guard === false) {
    const serves = stops === 'never' ? 'whom it still reaches' : `for up to ${stops} ms`;
    const ofServer =
      stops === 'never' ? `\`min-replicas-to-write ${needed}\` in redis.conf of every server` : '';
    const lag = stops === 'never' ? lagOf(server) : stops;
    const ofOption =
      guard === false || guard.lag < lag ? `the option \`guard: { lag: ${lag} }\`` : '';
    const both = [ofServer, ofOption].filter((part) => part !== '').join(' and ');
    return {
      verdict: 'weakened',
      code: 'split-brain',
      reason: `A master that is cut off goes on serving ${serves} while a replica takes over: both may grant one lock.`,
      remedy: `Set ${both}; or \`replicas: { atLeast: ${needed} }\`, which takes no locks while one of them is down.`,
    };
  }
  if (guard.lag < stops) {
    const setting = server.mode === 'cluster' ? 'cluster-node-timeout' : 'min-replicas-max-lag';
    return {
      verdict: 'weakened',
      code: 'guard-lag-short',
      reason: `A master that is cut off goes on serving for up to ${stops} ms, and the guard allows for ${guard.lag} ms: after that, it and the replica that takes over may both grant one lock.`,
      remedy: `Set the option \`guard: { lag: ${stops} }\`, or a lower \`${setting}\` in redis.conf.`,
    };
  }
  return {
    verdict: 'holds',
    reason: `A master that is cut off stops serving within ${stops} ms, and the guard of the promoted one waits for longer.`,
  };
}

const ONE_MAJORITY: Assessment = {
  verdict: 'holds',
  reason: 'Of two sides, one at most has a majority of the nodes.',
};

/** How many replicas there are to be lost: a master that is cut off keeps all but the one that is promoted at most. */
function replicasNeeded({ replicas }: ServerFacts): number {
  return replicas === 'unknown' ? 1 : Math.max(1, replicas.length);
}

/** Whether nothing counts that isn't on every replica: whichever is promoted has it, and a master without it grants nothing. */
function confirmedByAll(server: ServerFacts, { replicas }: DiagnosedOptions): boolean {
  return (
    replicas !== false &&
    server.replicas !== 'unknown' &&
    replicas.atLeast >= replicasNeeded(server)
  );
}

const CONFIRMED: Assessment = {
  verdict: 'holds',
  reason:
    'Every grant and renewal is confirmed by every replica before it counts (replicas); their clocks must agree to within a hundredth of the ttl.',
};

/** After how many ms a master that lost its promoted replica, or the majority of a Cluster, takes no more writes. */
function stopsServing(server: ServerFacts, needed: number): number | 'never' | 'unknown' {
  if (server.mode === 'cluster') return server.clusterNodeTimeout ?? 'unknown';
  const { minReplicasToWrite, minReplicasMaxLag } = server;
  if (minReplicasToWrite === 'unknown' || minReplicasMaxLag === 'unknown') return 'unknown';
  // With fewer, it goes on with those that are cut off together with it; a lag of 0 switches it off.
  if (minReplicasToWrite < needed || minReplicasMaxLag === 0) return 'never';
  return lagOf(server);
}

/** For how long a master may count a replica that it has lost as one that it has, in ms. */
function lagOf({ minReplicasMaxLag }: ServerFacts): number {
  const isLimited = minReplicasMaxLag !== 'unknown' && minReplicasMaxLag > 0;
  return (isLimited ? minReplicasMaxLag : DEFAULT_MAX_LAG) * 1_000 + COUNTING;
}

/** Where there's nobody to take over, or that isn't known. */
function withoutReplicas(
  { replicas, sentinels, ...server }: ServerFacts,
  layout: LockLayout,
): Assessment | undefined {
  if (layout === 'sentinel' || (sentinels !== 'unknown' && sentinels > 0)) return undefined;
  if (replicas === 'unknown') {
    return {
      verdict: 'unknown',
      code: 'replication-unknown',
      reason: `Whether a replica may take over isn't known: ${why(server, 'INFO')}.`,
      remedy: 'Permit `+info` to this user, so that it can be found out.',
    };
  }
  if (replicas.length > 0) return undefined;
  return { verdict: 'not-applicable', reason: 'No replica is connected that could take over.' };
}

function assessEviction(server: ServerFacts): Assessment {
  const { maxmemory, maxmemoryPolicy, evictedKeys } = server;
  if (maxmemory === 0) return { verdict: 'not-applicable', reason: 'It has no memory limit.' };
  if (maxmemoryPolicy === 'noeviction') {
    return { verdict: 'holds', reason: 'Where its memory is full, it refuses writes: noeviction.' };
  }
  if (maxmemory === 'unknown' || maxmemoryPolicy === 'unknown') {
    return {
      verdict: 'unknown',
      code: 'eviction-unknown',
      reason: `Whether keys are evicted where memory is full isn't known: ${why(server, 'INFO')}.`,
      remedy: 'Permit `+info` to this user, so that it can be found out.',
    };
  }
  const already =
    evictedKeys !== 'unknown' && evictedKeys > 0 ? ` It has evicted ${evictedKeys} so far.` : '';
  return {
    verdict: 'weakened',
    code: 'eviction',
    reason: `Where memory is full, keys are evicted, locks among them (\`maxmemory-policy ${maxmemoryPolicy}\`); ${AGAIN}${already}`,
    remedy:
      'Set `maxmemory-policy noeviction` in redis.conf, or give the locks a Redis of their own.',
  };
}

function assessFlush(_server: ServerFacts, options: DiagnosedOptions): Assessment {
  const guarded = byGuard(options, 'A server whose data was flushed');
  return (
    guarded ?? {
      verdict: 'weakened',
      code: 'flush',
      reason: `Whoever runs FLUSHALL or FLUSHDB takes the locks from those who hold them; ${AGAIN}`,
      remedy: `${GUARD}; or take \`flushall\` and \`flushdb\` from all other users by ACL.`,
    }
  );
}

const GUARD = 'Set the option `guard: true`';

/** What the guard makes of it, where it's on. One that may not ask who the server is lets nobody in. */
function byGuard({ guard }: DiagnosedOptions, subject: string): Assessment | undefined {
  if (guard === false) return undefined;
  return {
    verdict: 'holds',
    reason: `${subject} grants nothing new until every lease given before has ended (guard, which every process that uses the locks must have).`,
  };
}

/** Why a fact isn't known: what was refused, or isn't told. */
function why({ denied }: Pick<ServerFacts, 'denied'>, ...commands: readonly string[]): string {
  const refused = denied.filter(({ command }) => commands.includes(command));
  if (refused.length === 0) return `${commands.join(' and ')} don't tell`;
  return refused.map(({ command, message }) => `${command} was refused (${message})`).join('; ');
}
