/**
 * What follows from which facts: a table of settings, the promises that they weaken under which fault, and the level. Each row
 * is one server (or one layout) that differs from a sound one in the one thing that it says.
 */
import { describe, expect, it } from '@jest/globals';
import { diagnose, sharedByMajorities } from '../../lib/core/diagnosis.js';
import type {
  DiagnosedOptions,
  Diagnosis,
  LockFault,
  LockPromise,
  SafetyLevel,
} from '../../lib/core/safety.js';
import type { LockLayout, ServerFacts, ServerSurvey } from '../../lib/core/survey.js';

/** One server that keeps everything: AOF always, no replicas, nothing evicted. */
const sound: ServerFacts = {
  kind: 'surveyed',
  address: 'a:1',
  product: 'redis',
  version: '7.0.15',
  mode: 'standalone',
  sentinels: 0,
  role: 'master',
  runId: 'run-a',
  uptime: 60,
  maxmemory: 0,
  maxmemoryPolicy: 'noeviction',
  evictedKeys: 0,
  appendfsync: 'always',
  noAppendfsyncOnRewrite: false,
  snapshots: false,
  replicas: [],
  minReplicasToWrite: 0,
  minReplicasMaxLag: 10,
  clock: { offset: 0, uncertainty: 0.5 },
  mayPublish: true,
  mayRunScripts: true,
  mayAskInfoInScripts: true,
  denied: [],
};
const replica = (port: number) => ({ address: `r:${port}`, state: 'online', lag: 0 });
const clusterNode = { mode: 'cluster', clusterState: 'ok', clusterNodeTimeout: 15_000 } as const;
const nothingKnown: Partial<ServerFacts> = {
  product: 'unknown',
  version: 'unknown',
  mode: 'unknown',
  sentinels: 'unknown',
  role: 'unknown',
  runId: 'unknown',
  uptime: 'unknown',
  maxmemory: 'unknown',
  maxmemoryPolicy: 'unknown',
  evictedKeys: 'unknown',
  appendfsync: 'unknown',
  noAppendfsyncOnRewrite: 'unknown',
  snapshots: 'unknown',
  replicas: 'unknown',
  minReplicasToWrite: 'unknown',
  minReplicasMaxLag: 'unknown',
  mayAskInfoInScripts: 'unknown',
  denied: [
    { command: 'INFO', message: 'NOPERM info' },
    { command: 'CONFIG GET', message: 'NOPERM config' },
    { command: 'EVAL', message: 'NOPERM in a script' },
  ],
};

const plain: DiagnosedOptions = {
  guard: false,
  replicas: false,
  wakeUp: 'publish',
  ttl: 10_000,
  commandTimeout: 1_000,
};
const guard = { longestTtl: 60_000, lag: 15_000 };

function diagnosisOf(
  servers: readonly Partial<ServerFacts>[],
  options: Partial<DiagnosedOptions> = {},
  layout: LockLayout = 'server',
): Diagnosis {
  const surveyed = servers.map((facts, index) => ({
    ...sound,
    address: `${'abcdef'[index]}:1`,
    runId: `run-${index}`,
    ...facts,
  }));
  return diagnose({ kind: 'surveyed', layout, servers: surveyed }, { ...plain, ...options });
}

/** By promise and fault. */
function verdictOf({ verdicts }: Diagnosis, promise: LockPromise, fault: LockFault): string {
  const found = verdicts.filter((one) => one.promise === promise && one.fault === fault);
  expect(found).toHaveLength(1);
  return found[0]?.verdict ?? '';
}

/** Codes of what is to be changed or found out, as `severity code`. */
const toDo = ({ findings }: Diagnosis): string[] =>
  findings
    .filter(({ severity }) => severity !== 'advice')
    .map(({ severity, code }) => `${severity} ${code}`);

const advice = ({ findings }: Diagnosis): string[] =>
  findings.filter(({ severity }) => severity === 'advice').map(({ code }) => code);

type Row = [
  what: string,
  facts: Partial<ServerFacts>,
  options: Partial<DiagnosedOptions>,
  verdict: string,
  toDo: string[],
];

const weakened = 'weakened';
const unknown = 'unknown';
const holds = 'holds';
const none = 'not-applicable';

describe.each<[fault: LockFault, rows: Row[]]>([
  [
    'server-restart',
    [
      ['AOF always', {}, {}, holds, []],
      ['neither AOF nor RDB', { appendfsync: 'off' }, {}, weakened, ['weakened no-aof']],
      ['RDB alone', { appendfsync: 'off', snapshots: true }, {}, weakened, ['weakened no-aof']],
      ['AOF everysec', { appendfsync: 'everysec' }, {}, weakened, ['weakened aof-everysec']],
      ['AOF without fsync', { appendfsync: 'no' }, {}, weakened, ['weakened aof-no-fsync']],
      [
        'AOF always, but for rewrites',
        { noAppendfsyncOnRewrite: true },
        {},
        weakened,
        ['weakened aof-unsynced-rewrite'],
      ],
      [
        'AOF always, rewrites not known',
        { noAppendfsyncOnRewrite: 'unknown' },
        {},
        unknown,
        ['unknown persistence-unknown'],
      ],
      ['AOF not known', { appendfsync: 'unknown' }, {}, unknown, ['unknown persistence-unknown']],
      ['the guard, with no AOF', { appendfsync: 'off' }, { guard }, holds, []],
      ['the guard, with AOF not known', { appendfsync: 'unknown' }, { guard }, holds, []],
      [
        'grants confirmed on disk, AOF everysec',
        { appendfsync: 'everysec' },
        { replicas: { atLeast: 1, aof: true } },
        holds,
        [],
      ],
      [
        'grants confirmed by replicas in memory, AOF everysec',
        { appendfsync: 'everysec' },
        { replicas: { atLeast: 1, aof: false } },
        weakened,
        ['weakened aof-everysec'],
      ],
    ],
  ],
  [
    'failover',
    [
      ['no replica', {}, {}, none, []],
      [
        'a replica',
        { replicas: [replica(1)] },
        {},
        weakened,
        ['weakened async-failover', 'weakened split-brain'],
      ],
      [
        'watched by Sentinels, its replica gone',
        { sentinels: 3 },
        {},
        weakened,
        ['weakened async-failover', 'weakened split-brain'],
      ],
      ['replicas not known', { replicas: 'unknown' }, {}, unknown, ['unknown replication-unknown']],
      [
        'the guard',
        { replicas: [replica(1)] },
        { guard },
        holds,
        // Of the master that is cut off, and not dead.
        ['weakened split-brain'],
      ],
      [
        'confirmed by all replicas',
        { replicas: [replica(1), replica(2)] },
        { replicas: { atLeast: 2, aof: false } },
        holds,
        [],
      ],
      [
        'confirmed by some of the replicas',
        { replicas: [replica(1), replica(2)] },
        { replicas: { atLeast: 1, aof: false } },
        weakened,
        ['weakened replicas-too-few', 'weakened split-brain'],
      ],
    ],
  ],
  [
    'partition',
    [
      ['no replica', {}, {}, none, []],
      [
        'min-replicas without the guard',
        { replicas: [replica(1)], minReplicasToWrite: 1 },
        {},
        weakened,
        ['weakened async-failover', 'weakened split-brain'],
      ],
      [
        'min-replicas and a guard that waits for longer',
        { replicas: [replica(1)], minReplicasToWrite: 1 },
        { guard },
        holds,
        [],
      ],
      [
        'min-replicas and a guard that waits for less',
        { replicas: [replica(1)], minReplicasToWrite: 1 },
        { guard: { ...guard, lag: 10_000 } },
        weakened,
        ['weakened guard-lag-short'],
      ],
      [
        'fewer min-replicas than replicas: the others may be cut off with the master',
        { replicas: [replica(1), replica(2)], minReplicasToWrite: 1 },
        { guard },
        weakened,
        ['weakened split-brain'],
      ],
      [
        'min-replicas whose lag is not limited',
        { replicas: [replica(1)], minReplicasToWrite: 1, minReplicasMaxLag: 0 },
        { guard },
        weakened,
        ['weakened split-brain'],
      ],
      [
        'min-replicas not known',
        { replicas: [replica(1)], minReplicasToWrite: 'unknown' },
        { guard },
        unknown,
        ['unknown split-brain-unknown'],
      ],
      [
        'confirmed by all replicas',
        { replicas: [replica(1)] },
        { replicas: { atLeast: 1, aof: false } },
        holds,
        [],
      ],
      [
        'a Cluster, and a guard that waits for its node timeout',
        { ...clusterNode, replicas: [replica(1)] },
        { guard },
        holds,
        [],
      ],
      [
        'a Cluster, and a guard that waits for less',
        { ...clusterNode, replicas: [replica(1)] },
        { guard: { ...guard, lag: 5_000 } },
        weakened,
        ['weakened guard-lag-short'],
      ],
      [
        'a Cluster without the guard',
        { ...clusterNode, replicas: [replica(1)] },
        {},
        weakened,
        ['weakened async-failover', 'weakened split-brain'],
      ],
      [
        'a Cluster whose node timeout is not known',
        { ...clusterNode, clusterNodeTimeout: 'unknown', replicas: [replica(1)] },
        { guard },
        unknown,
        ['unknown split-brain-unknown'],
      ],
    ],
  ],
  [
    'eviction',
    [
      ['no limit', { maxmemoryPolicy: 'allkeys-lru' }, {}, none, []],
      ['noeviction', { maxmemory: 1 }, {}, holds, []],
      ...['allkeys-lru', 'volatile-ttl', 'volatile-lru'].map((maxmemoryPolicy): Row => [
        maxmemoryPolicy,
        { maxmemory: 1, maxmemoryPolicy },
        {},
        weakened,
        ['weakened eviction'],
      ]),
      [
        'allkeys-lru, which the guard does not close',
        { maxmemory: 1, maxmemoryPolicy: 'allkeys-lru' },
        { guard },
        weakened,
        ['weakened eviction'],
      ],
      [
        'a policy not known',
        { maxmemory: 1, maxmemoryPolicy: 'unknown' },
        {},
        unknown,
        ['unknown eviction-unknown'],
      ],
      ['noeviction, a limit not known', { maxmemory: 'unknown' }, {}, holds, []],
      [
        'nothing known',
        { maxmemory: 'unknown', maxmemoryPolicy: 'unknown' },
        {},
        unknown,
        ['unknown eviction-unknown'],
      ],
    ],
  ],
  [
    'flush',
    [
      ['nothing', {}, {}, weakened, []],
      ['the guard', {}, { guard }, holds, []],
    ],
  ],
])('exclusion under %s', (fault, rows) => {
  it.each(rows)('with %s', (_what, facts, options, verdict, expected) => {
    const layout = facts.mode === 'cluster' ? 'cluster' : 'server';
    const diagnosis = diagnosisOf([facts], options, layout);
    expect(verdictOf(diagnosis, 'P1', fault)).toBe(verdict);
    // Who isn't told in time is who isn't alone.
    expect(verdictOf(diagnosis, 'P2', fault)).toBe(verdict);
    expect(toDo(diagnosis)).toEqual(expected);
    const worst = expected[0]?.split(' ')[0] as SafetyLevel | undefined;
    expect(diagnosis.level).toBe(worst ?? 'strict');
  });
});

describe('fencing', () => {
  it.each<[LockFault, Partial<ServerFacts>]>([
    ['server-restart', { appendfsync: 'off' }],
    ['eviction', { maxmemory: 1, maxmemoryPolicy: 'allkeys-lru' }],
    ['flush', {}],
  ])('holds on one server under %s, by its clock', (fault, facts) => {
    expect(verdictOf(diagnosisOf([facts]), 'P3', fault)).toBe(holds);
  });

  it('is weakened by a failover, which changes the clock, unless the guard waits it out', () => {
    const facts = { replicas: [replica(1)] };
    expect(verdictOf(diagnosisOf([facts]), 'P3', 'failover')).toBe(weakened);
    expect(verdictOf(diagnosisOf([facts], { guard }), 'P3', 'failover')).toBe(holds);
  });

  it('is weakened by servers whose clocks are apart for longer than a counter is kept', () => {
    const at = (offset: number, uncertainty = 1) => ({
      ...clusterNode,
      clock: { offset, uncertainty },
    });
    const codes = (...servers: Partial<ServerFacts>[]) => toDo(diagnosisOf(servers, {}, 'cluster'));
    expect(codes(at(-5_000), at(5_003))).toEqual(['weakened clocks-apart']);
    expect(codes(at(-5_000), at(5_001))).toEqual([]);
    expect(codes(at(-5_000, 400), at(5_600, 400))).toEqual([]);
    expect(codes(at(99_000))).toEqual([]);
  });
});

describe('several masters', () => {
  it('are as safe as the least of them, which is named', () => {
    const diagnosis = diagnosisOf(
      [clusterNode, { ...clusterNode, appendfsync: 'everysec' }, clusterNode],
      {},
      'cluster',
    );
    expect(verdictOf(diagnosis, 'P1', 'server-restart')).toBe(weakened);
    expect(diagnosis.findings[0]).toMatchObject({ code: 'aof-everysec', servers: ['b:1'] });
  });

  it('make one finding of what is wrong with all of them', () => {
    const node = { ...clusterNode, appendfsync: 'off' } as const;
    const { findings } = diagnosisOf([node, node, node], {}, 'cluster');
    expect(findings.filter(({ code }) => code === 'no-aof')).toMatchObject([
      { servers: ['a:1', 'b:1', 'c:1'] },
    ]);
  });

  it('are weakened before they are unknown', () => {
    const diagnosis = diagnosisOf(
      [
        { ...clusterNode, appendfsync: 'unknown' },
        { ...clusterNode, appendfsync: 'off' },
      ],
      {},
      'cluster',
    );
    expect(verdictOf(diagnosis, 'P1', 'server-restart')).toBe(weakened);
  });
});

describe('a quorum', () => {
  const forgetful = { appendfsync: 'off' } as const;

  it.each([
    [3, 1],
    [4, 2],
    [5, 1],
    [6, 2],
    [7, 1],
  ])('of %d nodes: two majorities share at least %d', (nodes, shared) => {
    expect(sharedByMajorities(nodes)).toBe(shared);
  });

  it.each<[forgetful: number, of: number, options: Partial<DiagnosedOptions>, verdict: string]>([
    [0, 3, {}, holds],
    // A bare majority may have granted, of which the one was a part.
    [1, 3, {}, weakened],
    [3, 3, {}, weakened],
    [1, 4, {}, holds],
    [2, 4, {}, weakened],
    [5, 5, { guard }, holds],
  ])('with %d forgetful nodes of %d and %j: %s under restart', (count, of, options, verdict) => {
    const nodes = Array.from({ length: of }, (_, index) => (index < count ? forgetful : {}));
    const diagnosis = diagnosisOf(nodes, options, 'quorum');
    for (const promise of ['P1', 'P2', 'P3'] as const) {
      expect(verdictOf(diagnosis, promise, 'server-restart')).toBe(verdict);
    }
    expect(diagnosis.level).toBe(verdict === holds ? 'strict' : 'weakened');
  });

  it('says by how many nodes', () => {
    const { findings } = diagnosisOf([forgetful, {}, {}], {}, 'quorum');
    expect(findings[0]).toMatchObject({ code: 'no-aof', servers: ['a:1'] });
    expect(findings[0]?.message).toMatch(/One such node is enough, since a bare majority of 3/);
  });

  it('holds in a partition, since only one side has a majority', () => {
    expect(verdictOf(diagnosisOf([{}, {}, {}], {}, 'quorum'), 'P1', 'partition')).toBe(holds);
  });

  it('is not one where two nodes are one server', () => {
    const diagnosis = diagnosisOf([{ runId: 'x' }, {}, { runId: 'x' }], {}, 'quorum');
    expect(diagnosis.findings[0]).toMatchObject({
      severity: 'weakened',
      code: 'same-server',
      servers: ['a:1', 'c:1'],
    });
  });

  it('is not told apart by run ids that are not known', () => {
    const nodes = [{}, {}, {}].map(() => ({ runId: 'unknown' }));
    expect(diagnosisOf(nodes, {}, 'quorum').level).toBe('strict');
  });

  it('goes on without a minority of its nodes, and not without more', () => {
    const bad = { role: 'replica' } as const;
    expect(advice(diagnosisOf([bad, {}, {}], {}, 'quorum'))).toContain('on-a-replica');
    expect(diagnosisOf([bad, bad, {}], {}, 'quorum').level).toBe('unusable');
  });

  it('of an even number is no better than with one less', () => {
    expect(advice(diagnosisOf([{}, {}, {}, {}], {}, 'quorum'))).toContain('even-quorum');
    expect(advice(diagnosisOf([{}, {}, {}], {}, 'quorum'))).not.toContain('even-quorum');
  });
});

describe('a server', () => {
  const unusable: [string, Partial<ServerFacts>, LockLayout, string][] = [
    ['that is a replica', { role: 'replica' }, 'server', 'on-a-replica'],
    ['without scripts', { mayRunScripts: false }, 'server', 'scripts-denied'],
    [
      'of a Cluster that is down',
      { ...clusterNode, clusterState: 'fail' },
      'cluster',
      'cluster-down',
    ],
    ['of a Cluster, as if it were one alone', clusterNode, 'server', 'cluster-node'],
  ];

  it.each(unusable)('%s is unusable', (_what, facts, layout, code) => {
    const diagnosis = diagnosisOf([facts], {}, layout);
    expect(toDo(diagnosis)).toEqual([`unusable ${code}`]);
    expect(diagnosis.level).toBe('unusable');
  });

  it.each<[string, Partial<ServerFacts>, string[]]>([
    ['where it is refused', { mayAskInfoInScripts: false }, ['unusable guard-denied']],
    ['where it has no run id', { runId: 'unknown' }, ['unusable guard-denied']],
    ['where that is not known', { mayAskInfoInScripts: 'unknown' }, ['unknown guard-unknown']],
  ])('whose guard must ask who it is, %s', (_what, facts, expected) => {
    expect(toDo(diagnosisOf([facts], { guard }))).toEqual(expected);
    expect(toDo(diagnosisOf([facts]))).toEqual([]);
  });

  it('that says nothing leaves all that depends on it unknown, and names what was refused', () => {
    const diagnosis = diagnosisOf([nothingKnown]);
    for (const fault of ['server-restart', 'failover', 'partition', 'eviction'] as const) {
      expect(verdictOf(diagnosis, 'P1', fault)).toBe(unknown);
    }
    expect(diagnosis.level).toBe(unknown);
    expect(diagnosis.findings.map(({ message }) => message).join('\n')).toMatch(
      /CONFIG GET was refused \(NOPERM config\).*\n.*INFO was refused \(NOPERM info\)/,
    );
  });

  it('that cannot be asked leaves everything unknown', () => {
    const gone: ServerSurvey = { kind: 'unreachable', address: 'a:1', message: 'ECONNREFUSED' };
    const diagnosis = diagnose({ kind: 'surveyed', layout: 'server', servers: [gone] }, plain);
    expect(verdictOf(diagnosis, 'P1', 'server-restart')).toBe(unknown);
    expect(toDo(diagnosis)).toEqual(['unknown server-unreachable']);
    expect(diagnosis.level).toBe('unknown');
  });

  it.each<[string, Partial<ServerFacts>, Partial<DiagnosedOptions>, string]>([
    ['no permission to publish', { mayPublish: false }, {}, 'publish-denied'],
    ['a clock ahead of ours', { clock: { offset: 1_500, uncertainty: 1 } }, {}, 'clock-offset'],
    ['Sentinels passed by', { sentinels: 1 }, {}, 'not-by-sentinel'],
    ['a commandTimeout beyond a third of the ttl', {}, { ttl: 2_999 }, 'command-timeout-long'],
  ])('with %s gets advice', (_what, facts, options, code) => {
    expect(advice(diagnosisOf([facts], options))).toContain(code);
  });

  it.each<[string, Partial<ServerFacts>, Partial<DiagnosedOptions>, string]>([
    ['that polls anyway', { mayPublish: false }, { wakeUp: 'poll' }, 'publish-denied'],
    [
      'whose clock may be right',
      { clock: { offset: 1_500, uncertainty: 501 } },
      {},
      'clock-offset',
    ],
    ['with a commandTimeout of a third of the ttl', {}, { ttl: 3_000 }, 'command-timeout-long'],
  ])('%s gets none', (_what, facts, options, code) => {
    expect(advice(diagnosisOf([facts], options))).not.toContain(code);
  });
});

describe('any diagnosis', () => {
  it.each<[string, Diagnosis]>([
    ['memory', diagnosisOf([], {}, 'memory')],
    ['a sound server', diagnosisOf([{}])],
    ['an unsound one', diagnosisOf([{ appendfsync: 'off', replicas: [replica(1)], maxmemory: 1 }])],
    ['one that says nothing', diagnosisOf([nothingKnown])],
    ['a quorum', diagnosisOf([{}, {}, {}], {}, 'quorum')],
  ])('of %s has one verdict for each promise and fault, and reasons', (_what, { verdicts }) => {
    const keys = verdicts.map(({ promise, fault }) => `${promise} ${fault}`);
    expect(keys).toEqual([...new Set(keys)]);
    for (const { reason } of verdicts) expect(reason).not.toBe('');
  });

  it('has no finding without a remedy, and the worst first', () => {
    const { findings } = diagnosisOf([{ role: 'replica', ...nothingKnown, appendfsync: 'off' }]);
    for (const { remedy, message } of findings) expect([remedy, message]).not.toContain('');
    const order = ['unusable', 'weakened', 'unknown', 'advice'];
    const places = findings.map(({ severity }) => order.indexOf(severity));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
  });

  it('of memory says that it excludes nobody outside of the process, and is strict', () => {
    const diagnosis = diagnosisOf([], {}, 'memory');
    expect([diagnosis.level, advice(diagnosis)]).toEqual(['strict', ['memory-only']]);
    expect(verdictOf(diagnosis, 'P1', 'server-restart')).toBe(none);
  });
});
