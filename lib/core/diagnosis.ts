import { majorityOf } from './backend/inquiry.js';
import { type Assessment, HAZARDS, type Hazard } from './hazards.js';
import type {
  DiagnosedOptions,
  Diagnosis,
  FindingSeverity,
  LockFault,
  LockPromise,
  SafetyFinding,
  SafetyVerdict,
} from './safety.js';
import type { LockLayout, ServerFacts, ServerSurvey, Survey } from './survey.js';

/**
 * From facts to what they're worth: which promise holds under which fault, and what to change where one doesn't. Pure:
 * the same facts give the same diagnosis.
 *
 *     survey ──hazards, server by server──▶ verdicts by promise and fault ──▶ findings ──▶ level
 *
 * What may befall one server is judged in `hazards.ts`; here that becomes a verdict on all of them. Where each key lives on
 * one server, the worst decides. In a quorum, it's how many nodes forget: as many as two majorities share, and a lock can
 * be granted twice.
 */
export function diagnose(survey: Survey, options: DiagnosedOptions): Diagnosis {
  const { layout, servers } = survey;
  const judged = layout === 'memory' ? [] : HAZARDS.map((hazard) => judge(hazard, survey, options));
  const findings = [
    ...servers.flatMap((server) => serverFindings(server, survey, options)),
    ...judged.flatMap(({ findings: found }) => found),
    ...clockFindings(survey),
    ...settingFindings(survey, options),
  ];
  const sorted = together(findings).toSorted(
    (a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity),
  );
  const [worst] = sorted;
  return {
    level: worst === undefined || worst.severity === 'advice' ? 'strict' : worst.severity,
    layout,
    servers,
    options,
    verdicts: [...byMechanism(layout), ...judged.flatMap(({ verdicts }) => verdicts)].toSorted(
      (a, b) => a.promise.localeCompare(b.promise),
    ),
    findings: sorted,
  };
}

const SEVERITIES: readonly FindingSeverity[] = ['unusable', 'weakened', 'unknown', 'advice'];

/** A fencing counter outlives its lease by so much, in ms: as long as it's there, another node's clock may be behind. */
const FENCE_RETENTION = 10_000;
/** Below this, clocks are as good as equal where safety doesn't depend on them, in ms. */
const NOTABLE_OFFSET = 1_000;

interface Judged {
  readonly verdicts: readonly SafetyVerdict[];
  readonly findings: readonly SafetyFinding[];
}

function judge(hazard: Hazard, { layout, servers }: Survey, options: DiagnosedOptions): Judged {
  const { fault } = hazard;
  const promises = hazard.promises(layout);
  const assessed = servers.map((server) => ({
    server,
    ...(server.kind === 'surveyed' ? hazard.assess(server, options, layout) : UNASKED),
  }));
  const decisive = decisiveOf(assessed, layout);
  // Neither the guard nor confirmed grants bring the queue back.
  const ofQueue = servers.map((server) =>
    server.kind === 'surveyed'
      ? hazard.assess(server, { ...options, guard: false, replicas: false }, layout)
      : UNASKED,
  );
  const of = (promise: LockPromise, { verdict, reason }: Assessment): SafetyVerdict => ({
    promise,
    fault,
    verdict,
    reason,
  });
  const fenced: Assessment = {
    verdict: 'holds',
    reason:
      "A token is at least the server's clock in µs, so it increases though the last is forgotten.",
  };
  return {
    verdicts: [
      ...promises.map((promise) => of(promise, decisive)),
      ...(promises.includes('P3') ? [] : [of('P3', fenced)]),
      of('P7', queueOf(decisiveOf(ofQueue, layout))),
    ],
    findings: assessed
      .filter(({ code, verdict }) => code !== undefined && verdict === decisive.verdict)
      .map(({ server, verdict, code = '', reason, remedy = '' }) => ({
        severity: hazard.strict ? (verdict as 'weakened' | 'unknown') : 'advice',
        code,
        promises,
        faults: [fault],
        message: layout === 'quorum' ? `${reason} ${enoughOf(servers.length)}` : reason,
        remedy,
        servers: [server.address],
      })),
  };
}

const UNASKED: Assessment = { verdict: 'unknown', reason: "A server can't be asked." };

/** What becomes of the waiters where locks are, or aren't, forgotten. */
function queueOf(assessment: Assessment): Assessment {
  switch (assessment.verdict) {
    case 'weakened':
      return {
        verdict: 'weakened',
        reason:
          'The queue may be lost: waiters come back by their former places, but one that is new may be before them.',
      };
    case 'holds':
      return { verdict: 'holds', reason: 'The queue is kept as the locks are.' };
    default:
      return assessment;
  }
}

/** What counts for all of the servers together. */
function decisiveOf(assessed: readonly Assessment[], layout: LockLayout): Assessment {
  const of = (verdict: Assessment['verdict']) => assessed.filter((one) => one.verdict === verdict);
  const [weakened, unknown] = [of('weakened'), of('unknown')];
  const enough = layout === 'quorum' ? sharedByMajorities(assessed.length) : 1;
  const decisive =
    weakened.length >= enough
      ? weakened[0]
      : weakened.length + unknown.length >= enough
        ? unknown[0]
        : undefined;
  if (decisive !== undefined) return decisive;
  const [holds] = of('holds');
  if (weakened.length + unknown.length > 0) {
    return { verdict: 'holds', reason: `Too few nodes may forget: ${enough} would have to.` };
  }
  return (
    holds ??
    of('not-applicable')[0] ?? {
      verdict: 'unknown',
      reason: 'No server that keeps locks is known.',
    }
  );
}

/** How many nodes any two majorities of so many have in common at least. */
export function sharedByMajorities(nodes: number): number {
  return 2 * majorityOf(nodes) - nodes;
}

function enoughOf(nodes: number): string {
  const enough = sharedByMajorities(nodes);
  return `${enough === 1 ? 'One such node is' : `${enough} such nodes are`} enough, since a bare majority of ${nodes} may have granted it.`;
}

/** What the protocol itself takes care of, or can't, whatever the settings. */
function byMechanism(layout: LockLayout): SafetyVerdict[] {
  const inMemory = layout === 'memory';
  const rows = inMemory ? IN_MEMORY : ON_SERVERS;
  return rows.flatMap(([promises, faults, verdict, reason]) =>
    promises.flatMap((promise) =>
      faults.map((fault): SafetyVerdict => ({ promise, fault, verdict, reason })),
    ),
  );
}

type Row = readonly [
  promises: readonly LockPromise[],
  faults: readonly LockFault[],
  verdict: SafetyVerdict['verdict'],
  reason: string,
];

const ON_SERVERS: readonly Row[] = [
  [['P1'], ['client-crash'], 'holds', 'The dead hold nothing; their key is free after its ttl.'],
  [
    ['P1', 'P2'],
    ['client-pause'],
    'holds',
    'A monotonic deadline ends the lease here before it ends there, also for a process that was stopped. (The clock stands still while a whole machine is suspended. And what was already sent is written late: only a resource that checks the fencing token is safe from that.)',
  ],
  [
    ['P1', 'P2'],
    ['network-loss'],
    'holds',
    'No answer prolongs a lease; a command that comes late is refused by its deadline in server time.',
  ],
  [
    ['P1', 'P2', 'P3'],
    ['clock-jump'],
    'weakened',
    'Redis expires keys by the wall clock: set forward, it frees a lock that is still held; set back by more than 10 s, it gives smaller tokens for keys that were idle for so long.',
  ],
  [['P3'], ['client-crash', 'client-pause', 'network-loss'], 'holds', 'The server counts.'],
  [
    ['P4'],
    ['server-restart', 'failover', 'partition', 'network-loss'],
    'holds',
    'Each command ends by its commandTimeout, and no call waits beyond waitTimeout and one of them.',
  ],
  [
    ['P5'],
    ['client-crash', 'client-pause', 'network-loss'],
    'holds',
    'Every key has an end, and what is unsure is undone in the background.',
  ],
  [
    ['P6'],
    ['client-pause', 'server-restart', 'failover', 'partition', 'flush', 'network-loss'],
    'holds',
    'Release and renewal compare the token.',
  ],
  [
    ['P7'],
    ['client-crash', 'client-pause', 'network-loss'],
    'holds',
    'A waiter that does not claim its turn delays the next by a second at most.',
  ],
  [
    ['P8'],
    ['server-restart', 'failover', 'partition', 'network-loss'],
    'holds',
    'Without an answer the call fails, and the work is not run.',
  ],
  [
    ['P9'],
    ['server-restart', 'failover', 'partition', 'network-loss'],
    'holds',
    'A release that fails is an event, never an error in place of the result.',
  ],
];

const IN_MEMORY: readonly Row[] = [
  [['P1', 'P2', 'P3'], ['client-crash'], 'holds', 'All who hold and wait end with the process.'],
  [['P1', 'P2'], ['client-pause'], 'holds', 'All holders are in the one process that was stopped.'],
  [['P1', 'P2'], ['clock-jump'], 'holds', 'Leases are timed by the monotonic clock.'],
  [
    ['P1', 'P2', 'P3'],
    ['server-restart', 'failover', 'partition', 'eviction', 'flush', 'network-loss'],
    'not-applicable',
    'There is no server: locks are in the memory of this process.',
  ],
];

/** Adds to a list what is found whatever the fault; of these servers, unless it says of which. */
function finder(findings: SafetyFinding[], servers: readonly string[]) {
  return (
    severity: FindingSeverity,
    code: string,
    message: string,
    remedy: string,
    promises: readonly LockPromise[] = [],
    concerned = servers,
  ): void => {
    findings.push({ severity, code, promises, faults: [], message, remedy, servers: concerned });
  };
}

/** What is wrong with a server whatever the fault. */
function serverFindings(
  server: ServerSurvey,
  { layout, servers }: Survey,
  options: DiagnosedOptions,
): SafetyFinding[] {
  const findings: SafetyFinding[] = [];
  const find = finder(findings, [server.address]);
  // A quorum does without some of its nodes.
  const usable = servers.filter(isUsable).length;
  const isUnusable = layout !== 'quorum' || usable < majorityOf(servers.length);
  const unusable = isUnusable ? 'unusable' : 'advice';
  if (server.kind === 'unreachable') {
    find(
      'unknown',
      'server-unreachable',
      `This server can't be asked: ${server.message}`,
      'Bring it back, and ask again.',
    );
    return findings;
  }
  if (server.role === 'replica') {
    find(
      unusable,
      'on-a-replica',
      'This server is a replica, which takes no writes.',
      'Connect to its master; behind Sentinel, by `sentinels` and `name` in `connection`.',
    );
  }
  if (server.mayRunScripts === false) {
    find(
      unusable,
      'scripts-denied',
      'This user may not run scripts, and every lock is taken by one.',
      'Permit `+eval` and `+evalsha` to this user, and `~` the prefix.',
    );
  } else if (server.mayRunScripts === 'unknown') {
    find(
      'unknown',
      'scripts-unknown',
      `Whether this user may run scripts isn't known: ${refusals(server, 'EVAL', 'EVALSHA')}.`,
      'Permit `+eval` and `+evalsha` to this user.',
    );
  }
  if (options.guard !== false && server.mayRunScripts !== false) {
    // The guard fails closed.
    if (server.mayAskInfoInScripts === false || server.runId === 'unknown') {
      find(
        unusable,
        'guard-denied',
        'The guard asks inside its scripts which server this is (INFO), and is not told: it grants nothing.',
        'Permit `+info` to this user; where INFO has no `run_id`, leave `guard` out.',
      );
    } else if (server.mayAskInfoInScripts === 'unknown') {
      find(
        'unknown',
        'guard-unknown',
        `Whether the guard may ask for INFO inside its scripts isn't known: ${refusals(server, 'EVAL')}.`,
        'Permit `+eval`, `+evalsha` and `+info` to this user.',
      );
    }
  }
  const { clusterState } = server;
  if (clusterState !== undefined && clusterState !== 'unknown' && clusterState !== 'ok') {
    find(
      unusable,
      'cluster-down',
      `The Cluster's state is '${clusterState}' at this node: it refuses commands.`,
      'Bring the missing masters back (`redis-cli --cluster check`).',
    );
  }
  if (server.mode === 'cluster' && layout === 'server') {
    find(
      'unusable',
      'cluster-node',
      'This server is a node of a Cluster, and only some keys are its own.',
      'Give an ioredis `Cluster` as `connection`.',
    );
  }
  if (server.sentinels !== 'unknown' && server.sentinels > 0 && layout === 'server') {
    find(
      'advice',
      'not-by-sentinel',
      'Sentinels watch this server, but the connection goes to it directly: after a failover, no lock can be had here.',
      'Give `connection: { sentinels: [...], name }`.',
      ['P8'],
    );
  }
  if (server.mayPublish === false && options.wakeUp === 'publish') {
    find(
      'advice',
      'publish-denied',
      'This user may not publish, so that waiters poll: they get a lock up to half a second later.',
      "Permit `+publish`, `+subscribe` and `&<prefix>:*` to this user; or say `wakeUp: 'poll'`.",
    );
  }
  return findings;
}

function isUsable(server: ServerSurvey): boolean {
  return server.kind === 'surveyed' && server.role !== 'replica' && server.mayRunScripts !== false;
}

function refusals({ denied }: ServerFacts, ...commands: readonly string[]): string {
  const refused = denied.filter(({ command }) => commands.includes(command));
  return refused.map(({ command, message }) => `${command} was refused (${message})`).join('; ');
}

function clockFindings({ layout, servers }: Survey): SafetyFinding[] {
  if (layout === 'memory') return [];
  const clocks = servers.flatMap((server) =>
    server.kind === 'surveyed' && server.clock !== 'unknown'
      ? [{ address: server.address, ...server.clock }]
      : [],
  );
  const findings: SafetyFinding[] = [
    {
      severity: 'advice',
      code: 'clock-step',
      promises: ['P1', 'P2', 'P3'],
      faults: ['clock-jump'],
      message:
        'Redis expires keys by the wall clock: one that is set forward frees locks that are still held.',
      remedy:
        'Let the clocks of the servers be slewed, never stepped (chrony without `makestep` after the start, `ntpd -x`).',
      servers: [],
    },
  ];
  const { first, last, apart } = furthestApart(clocks);
  if (apart > FENCE_RETENTION) {
    findings.push({
      severity: 'weakened',
      code: 'clocks-apart',
      promises: ['P3'],
      faults: ['clock-jump'],
      message: `The clocks of ${first} and ${last} are at least ${Math.round(apart)} ms apart: a key that is granted by the one and then by the other may get a smaller fencing token.`,
      remedy: 'Keep the clocks of the servers together (NTP).',
      servers: [first, last],
    });
  }
  const off = clocks.filter(
    ({ offset, uncertainty }) => Math.abs(offset) - uncertainty > NOTABLE_OFFSET,
  );
  for (const { address, offset } of off) {
    findings.push({
      severity: 'advice',
      code: 'clock-offset',
      promises: [],
      faults: [],
      message: `The server's clock is ${Math.abs(Math.round(offset))} ms ${offset > 0 ? 'ahead of' : 'behind'} that of this process. Leases don't depend on it; which tick a \`runOnce\` is for does.`,
      remedy: 'Keep the clocks of servers and processes together (NTP).',
      servers: [address],
    });
  }
  return findings;
}

/** `apart`: how far two of the clocks are apart for sure, in ms. */
function furthestApart(
  clocks: readonly {
    readonly address: string;
    readonly offset: number;
    readonly uncertainty: number;
  }[],
): { first: string; last: string; apart: number } {
  const furthest = { first: '', last: '', apart: Number.NEGATIVE_INFINITY };
  for (const early of clocks) {
    for (const late of clocks) {
      const apart = late.offset - late.uncertainty - (early.offset + early.uncertainty);
      if (apart > furthest.apart) {
        Object.assign(furthest, { first: early.address, last: late.address, apart });
      }
    }
  }
  return furthest;
}

/** What the module's own options make of it. */
function settingFindings(
  { layout, servers }: Survey,
  { ttl, commandTimeout }: DiagnosedOptions,
): SafetyFinding[] {
  const findings: SafetyFinding[] = [];
  const find = finder(findings, []);
  if (layout === 'memory') {
    find(
      'advice',
      'memory-only',
      'Locks are in the memory of this process: they exclude nobody outside of it.',
      'Where there is more than one process, give a Redis as `connection`.',
    );
    return findings;
  }
  if (servers.length === 0) {
    find(
      'unknown',
      'no-server',
      'No server that keeps locks is known.',
      'Ask again when there is a connection.',
    );
  }
  if (commandTimeout > ttl / 3) {
    find(
      'advice',
      'command-timeout-long',
      `A renewal is due at a third of the ttl, and one that gets no answer takes ${commandTimeout} ms of the remaining ${Math.round((ttl * 2) / 3)} ms: the next may come too late, and the lock is lost.`,
      `Set \`commandTimeout\` to ${Math.floor(ttl / 3)} ms or less, or \`ttl\` to ${commandTimeout * 3} ms or more.`,
    );
  }
  if (layout === 'quorum') {
    if (servers.length % 2 === 0) {
      find(
        'advice',
        'even-quorum',
        `${servers.length} nodes tolerate the loss of no more than ${servers.length - 1} do.`,
        'Take one more, or one less.',
      );
    }
    for (const twins of sameServers(servers)) {
      find(
        'weakened',
        'same-server',
        'These nodes are one and the same server: its fault is a fault of all of them.',
        'Give each node of the quorum a server of its own, on a machine of its own.',
        ['P1', 'P2', 'P3'],
        twins,
      );
    }
  }
  return findings;
}

/** Addresses of those that have one run id, where several have. */
function sameServers(servers: readonly ServerSurvey[]): string[][] {
  const byRunId = new Map<string, string[]>();
  for (const server of servers) {
    if (server.kind !== 'surveyed' || server.runId === 'unknown') continue;
    byRunId.set(server.runId, [...(byRunId.get(server.runId) ?? []), server.address]);
  }
  return [...byRunId.values()].filter((addresses) => addresses.length > 1);
}

/** What is found in the same words of several servers, or under several faults, is one finding. */
function together(findings: readonly SafetyFinding[]): SafetyFinding[] {
  const merged = new Map<string, SafetyFinding>();
  for (const finding of findings) {
    const same = JSON.stringify([finding.severity, finding.code, finding.message, finding.remedy]);
    const before = merged.get(same);
    const both = <T>(one: readonly T[] = [], other: readonly T[]) => [
      ...new Set([...one, ...other]),
    ];
    merged.set(same, {
      ...finding,
      promises: both(before?.promises, finding.promises),
      faults: both(before?.faults, finding.faults),
      servers: both(before?.servers, finding.servers),
    });
  }
  return [...merged.values()];
}
