import type {
  Diagnosis,
  FindingSeverity,
  LockFault,
  LockPromise,
  SafetyFinding,
  SafetyLevel,
  SafetyVerdict,
} from '../core/safety.js';
import type { Known, ServerFacts, ServerSurvey } from '../core/survey.js';
import { readableDuration } from './readable-duration.js';
import { table } from './table.js';
import { visible } from './terminal-text.js';

/** A diagnosis as a person reads it: the servers, which promise holds under which fault, and what to change. */
export function diagnosisLines(diagnosis: Diagnosis, room: number): string[] {
  const { level, servers, options, verdicts, findings } = diagnosis;
  const textRoom = Math.min(room, WIDEST_TEXT);
  return [
    ...wrapped(`Safety: ${level}. ${LEVELS[level]}`, textRoom),
    ...wrapped(`With the options ${optionsOf(options)}.`, textRoom),
    '',
    ...(servers.length === 0 ? [] : [...serverTable(servers, room), '']),
    ...verdictTable(verdicts, room),
    ...wrapped(LEGEND, textRoom),
    ...findings.flatMap((finding) => ['', ...findingLines(finding, room)]),
  ];
}

const LEVELS: Record<SafetyLevel, string> = {
  strict: 'P1 to P3 hold under restart, failover, partition and eviction.',
  unknown: 'Whether P1 to P3 hold under each fault cannot be found out.',
  weakened: 'P1 to P3 do not hold under each fault.',
  unusable: 'No lock can be had like this.',
};

const PROMISES: Record<LockPromise, string> = {
  P1: 'exclusion',
  P2: 'loss is told in time',
  P3: 'fencing',
  P4: 'bounded',
  P5: 'nothing left behind',
  P6: "only one's own",
  P7: 'order',
  P8: 'fail closed',
  P9: 'transparent',
};

const FAULTS: Record<LockFault, string> = {
  'client-crash': 'CRASH',
  'client-pause': 'PAUSE',
  'server-restart': 'RESTART',
  failover: 'FAILOVER',
  partition: 'PARTITION',
  eviction: 'EVICTION',
  flush: 'FLUSH',
  'clock-jump': 'CLOCK',
  'network-loss': 'NETWORK',
};

const VERDICTS: Record<SafetyVerdict['verdict'], string> = {
  holds: 'holds',
  weakened: 'WEAK',
  unknown: '?',
  'not-applicable': '-',
};

const SEVERITIES: Record<FindingSeverity, string> = {
  unusable: 'UNUSABLE',
  weakened: 'WEAKENED',
  unknown: 'UNKNOWN',
  advice: 'Good to know',
};

const LEGEND =
  'CRASH and PAUSE are of a process that uses locks. WEAK: see below; ?: not to be found out; -: cannot happen here. The reason for each: --json.';

/** Wider lines are hard to read. */
const WIDEST_TEXT = 100;

function verdictTable(verdicts: readonly SafetyVerdict[], room: number): string[] {
  const faults = Object.keys(FAULTS) as LockFault[];
  const promises = Object.keys(PROMISES) as LockPromise[];
  const rows = promises
    .filter((promise) => verdicts.some((one) => one.promise === promise))
    .map((promise) => [
      `${promise} ${PROMISES[promise]}`,
      ...faults.map((fault) => {
        const found = verdicts.find((one) => one.promise === promise && one.fault === fault);
        return found === undefined ? '' : VERDICTS[found.verdict];
      }),
    ]);
  return table(['PROMISE', ...faults.map((fault) => FAULTS[fault])], rows, room);
}

function serverTable(servers: readonly ServerSurvey[], room: number): string[] {
  const header = ['SERVER', 'KIND', 'ROLE', 'UP', 'MEMORY', 'AOF', 'RDB', 'REPLICAS', 'CLOCK'];
  const rows = servers.map((server) =>
    server.kind === 'unreachable'
      ? [server.address, `unreachable: ${server.message}`]
      : [
          server.address,
          kindOf(server),
          server.role,
          server.uptime === 'unknown' ? '?' : readableDuration(server.uptime * 1_000),
          memoryOf(server),
          told(server.appendfsync),
          told(server.snapshots, (on) => (on ? 'on' : 'off')),
          replicasOf(server),
          clockOf(server),
        ],
  );
  return table(header, rows, room);
}

function findingLines(finding: SafetyFinding, room: number): string[] {
  const { severity, code, promises, faults, message, remedy, servers } = finding;
  const under = faults.length === 0 ? '' : ` under ${faults.join(', ')}`;
  const what = promises.length === 0 ? '' : `: ${promises.join(', ')}${under}`;
  const width = Math.min(room, WIDEST_TEXT) - 4;
  return [
    `${SEVERITIES[severity]} (${code})${what}`,
    ...wrapped(message, width).map((line) => `  ${line}`),
    ...wrapped(remedy, width - 2).map((line, index) => `  ${index === 0 ? '→ ' : '  '}${line}`),
    ...(servers.length === 0 ? [] : [`  at ${servers.map(visible).join(', ')}`]),
  ];
}

function optionsOf({ guard, replicas, wakeUp, ttl, commandTimeout }: Diagnosis['options']): string {
  return [
    guard === false ? 'guard off' : `guard (lag ${readableDuration(guard.lag)})`,
    replicas === false
      ? 'no replicas that confirm'
      : `${replicas.atLeast} replicas that confirm${replicas.aof ? ' on disk' : ''}`,
    `ttl ${readableDuration(ttl)}`,
    `commandTimeout ${readableDuration(commandTimeout)}`,
    `wakeUp ${wakeUp}`,
  ].join(', ');
}

function kindOf({ product, version, mode }: ServerFacts): string {
  const name = product === 'unknown' ? '?' : product;
  return `${name} ${told(version)}${mode === 'cluster' ? ', Cluster' : ''}`;
}

function memoryOf({ maxmemory, maxmemoryPolicy }: ServerFacts): string {
  if (maxmemory === 0) return 'no limit';
  const most = told(maxmemory, (bytes) => `${Math.round(bytes / 1024 / 1024)} MiB`);
  return `${most}, ${told(maxmemoryPolicy)}`;
}

function replicasOf({ replicas, minReplicasToWrite, sentinels }: ServerFacts): string {
  const lags =
    replicas === 'unknown'
      ? []
      : replicas.map(({ lag, state }) =>
          state === 'online' ? `lag ${told(lag, (s) => `${s} s`)}` : state,
        );
  return [
    replicas === 'unknown' ? '?' : String(replicas.length),
    ...(lags.length === 0 ? [] : [`(${lags.join(', ')})`]),
    ...(minReplicasToWrite === 'unknown' || minReplicasToWrite > 0
      ? [`min ${told(minReplicasToWrite)}`]
      : []),
    ...(sentinels !== 'unknown' && sentinels > 0 ? [`${sentinels} Sentinels`] : []),
  ].join(' ');
}

function clockOf({ clock }: ServerFacts): string {
  if (clock === 'unknown') return '?';
  const { offset, uncertainty } = clock;
  return `${offset < 0 ? '-' : '+'}${Math.abs(offset).toFixed(1)} ms ± ${uncertainty.toFixed(1)}`;
}

function told<T>(fact: Known<T>, shown: (value: T) => string = String): string {
  return fact === 'unknown' ? '?' : shown(fact as T);
}

/** A text in lines of so many characters, broken between words. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of visible(text).split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
