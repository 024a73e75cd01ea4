/**
 * `diagnose()` over real servers with different settings: that each fact is what the server is set to, that what may not
 * be asked is unknown, and what `safety: 'strict'` makes of it.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Cluster, Redis } from 'ioredis';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import type { Diagnosis, LockFault } from '../../lib/core/safety.js';
import type { ServerFacts } from '../../lib/core/survey.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { RedisReplication } from '../support/redis-replication.js';
import { RedisSentinels } from '../support/redis-sentinel.js';
import { RedisServer } from '../support/redis-server.js';

const lockers: Locker[] = [];

afterEach(async () => {
  await Promise.all(lockers.splice(0).map((locker) => locker.close()));
});

function lockerOn(
  connection: LockerOptions['connection'],
  options: Omit<LockerOptions, 'connection'> = {},
): Locker {
  const locker = new Locker({ connection, drainTimeout: 1, ...options });
  lockers.push(locker);
  return locker;
}

function only({ servers }: Diagnosis): ServerFacts {
  expect(servers).toHaveLength(1);
  const [server] = servers;
  if (server?.kind !== 'surveyed') throw new Error(`Not surveyed: ${JSON.stringify(server)}`);
  return server;
}

/** What P1 is under a fault. */
function exclusion({ verdicts }: Diagnosis, under: LockFault): string | undefined {
  return verdicts.find(({ promise, fault }) => promise === 'P1' && fault === under)?.verdict;
}

const errorCode = (error: { code?: string }) => error.code;

const codes = ({ findings }: Diagnosis): string[] =>
  findings.filter(({ severity }) => severity !== 'advice').map(({ code }) => code);

describe('one server', () => {
  it.each<[string, string[], Partial<ServerFacts>, string[]]>([
    ['nothing', [], { appendfsync: 'off', snapshots: false }, ['no-aof']],
    ['RDB', ['--save', '60 1'], { appendfsync: 'off', snapshots: true }, ['no-aof']],
    [
      'AOF everysec',
      ['--appendonly', 'yes', '--appendfsync', 'everysec'],
      { appendfsync: 'everysec' },
      ['aof-everysec'],
    ],
    [
      'AOF always',
      ['--appendonly', 'yes', '--appendfsync', 'always'],
      { appendfsync: 'always', noAppendfsyncOnRewrite: false },
      [],
    ],
    [
      'AOF always, but for rewrites',
      [
        ...['--appendonly', 'yes', '--appendfsync', 'always'],
        ...['--no-appendfsync-on-rewrite', 'yes'],
      ],
      { appendfsync: 'always', noAppendfsyncOnRewrite: true },
      ['aof-unsynced-rewrite'],
    ],
    [
      'eviction',
      [
        ...['--appendonly', 'yes', '--appendfsync', 'always'],
        ...['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru'],
      ],
      { maxmemory: 100 * 1024 * 1024, maxmemoryPolicy: 'allkeys-lru', evictedKeys: 0 },
      ['eviction'],
    ],
    [
      'min-replicas and none there',
      [
        ...['--appendonly', 'yes', '--appendfsync', 'always'],
        ...['--min-replicas-to-write', '1', '--min-replicas-max-lag', '7'],
      ],
      { minReplicasToWrite: 1, minReplicasMaxLag: 7, replicas: [] },
      [],
    ],
  ])('set up with %s', async (_what, args, facts, expected) => {
    await using server = await RedisServer.start({ args });
    const diagnosis = await lockerOn(server.url).diagnose();
    expect(only(diagnosis)).toMatchObject(facts);
    expect(codes(diagnosis)).toEqual(expected);
    expect(diagnosis.level).toBe(expected.length === 0 ? 'strict' : 'weakened');
  });

  it('tells all facts, without a guess', async () => {
    await using server = await RedisServer.start();
    const client = new Redis(server.url);
    const info = await client.info('server');
    client.disconnect();
    const [, runId] = /run_id:(\w+)/.exec(info) ?? [];
    const [, version] = /(?:valkey|redis)_version:(\S+)/.exec(info) ?? [];
    const diagnosis = await lockerOn(server.url).diagnose();
    expect(diagnosis.layout).toBe('server');
    expect(only(diagnosis)).toEqual({
      kind: 'surveyed',
      address: `127.0.0.1:${server.port}`,
      product: expect.stringMatching(/^(redis|valkey)$/),
      version: expect.stringMatching(new RegExp(`^${version}`)),
      mode: 'standalone',
      sentinels: 0,
      role: 'master',
      runId,
      uptime: expect.any(Number),
      maxmemory: 0,
      maxmemoryPolicy: 'noeviction',
      evictedKeys: 0,
      appendfsync: 'off',
      noAppendfsyncOnRewrite: false,
      snapshots: false,
      replicas: [],
      minReplicasToWrite: 0,
      minReplicasMaxLag: 10,
      clock: { offset: expect.any(Number), uncertainty: expect.any(Number) },
      mayPublish: true,
      mayRunScripts: true,
      mayAskInfoInScripts: true,
      denied: [],
    });
    const { clock } = only(diagnosis);
    if (clock === 'unknown') throw new Error('The clock was not read.');
    // One machine, one clock: what is off is what the question took, and what came between its answer and our look.
    expect(Math.abs(clock.offset)).toBeLessThanOrEqual(clock.uncertainty + 50);
  });

  it('says that keys were evicted', async () => {
    await using server = await RedisServer.start({
      args: ['--maxmemory', '3mb', '--maxmemory-policy', 'volatile-ttl'],
    });
    const client = new Redis(server.url);
    for (let i = 0; i < 300; i += 1) await client.set(`k${i}`, 'x'.repeat(20_000), 'EX', 600);
    client.disconnect();
    const diagnosis = await lockerOn(server.url).diagnose();
    expect(only(diagnosis).evictedKeys).toBeGreaterThan(0);
    const eviction = diagnosis.findings.find(({ code }) => code === 'eviction');
    expect(eviction?.message).toMatch(/volatile-ttl.*has evicted \d+ so far/);
  });

  it('is asked with the permissions of our user; what is refused is unknown, and named', async () => {
    await using server = await RedisServer.start();
    await server.command(
      ...['ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-config', '-info'],
    );
    const diagnosis = await lockerOn(`redis://app:pw@127.0.0.1:${server.port}`).diagnose();
    const facts = only(diagnosis);
    for (const fact of [
      ...(['product', 'mode', 'role', 'runId', 'maxmemory', 'maxmemoryPolicy'] as const),
      ...(['appendfsync', 'snapshots', 'replicas', 'minReplicasToWrite'] as const),
    ]) {
      expect([fact, facts[fact]]).toEqual([fact, 'unknown']);
    }
    expect(facts).toMatchObject({ mayRunScripts: true, mayPublish: true });
    // Known to be refused: the guard couldn't work.
    expect(facts.mayAskInfoInScripts).toBe(false);
    expect(facts.denied.map(({ command }) => command).toSorted()).toEqual(['CONFIG GET', 'INFO']);
    for (const fault of ['server-restart', 'failover', 'partition', 'eviction'] as const) {
      expect([fault, exclusion(diagnosis, fault)]).toEqual([fault, 'unknown']);
    }
    expect(diagnosis.level).toBe('unknown');
  });

  it.each([
    ['-eval -evalsha', { mayRunScripts: false }, 'unusable'],
    ['resetchannels', { mayPublish: false }, 'weakened'],
    ['-config', { noAppendfsyncOnRewrite: 'unknown', appendfsync: 'off' }, 'weakened'],
  ])('with an ACL of %s', async (rules, facts, level) => {
    await using server = await RedisServer.start();
    await server.command(
      ...['ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', ...rules.split(' ')],
    );
    const diagnosis = await lockerOn(`redis://app:pw@127.0.0.1:${server.port}`).diagnose();
    expect(only(diagnosis)).toMatchObject(facts);
    expect(diagnosis.level).toBe(level);
  });

  it('with commands that were renamed', async () => {
    await using server = await RedisServer.start({
      args: ['--rename-command', 'CONFIG', '', '--appendonly', 'yes'],
    });
    const diagnosis = await lockerOn(server.url).diagnose();
    expect(only(diagnosis)).toMatchObject({
      appendfsync: 'unknown',
      denied: [{ command: 'CONFIG GET', message: expect.stringMatching(/unknown command/) }],
    });
    expect(codes(diagnosis)).toEqual(['persistence-unknown']);
  });

  it('that is gone, or frozen, is told within the bounds', async () => {
    await using server = await RedisServer.start();
    const locker = lockerOn(server.url, { commandTimeout: 300 });
    expect((await locker.diagnose()).servers).toHaveLength(1);
    server.pause();
    const frozen = await locker.diagnose();
    expect(frozen.servers).toMatchObject([{ kind: 'unreachable' }]);
    expect(frozen.level).toBe('unknown');
    server.resume();
    await server.kill();
    const gone = () => locker.diagnose().then(() => undefined, errorCode);
    await eventually(async () => (await gone()) === 'LOCK_UNAVAILABLE');
  });
});

describe('a master with replicas', () => {
  let group: RedisReplication;

  beforeAll(async () => {
    group = await RedisReplication.start({
      replicas: 2,
      args: ['--min-replicas-to-write', '2', '--min-replicas-max-lag', '3'],
      persistence: 'aof',
    });
  });

  afterAll(async () => {
    await group.stop();
  });

  it('names its replicas and how far behind they are', async () => {
    const diagnosis = await lockerOn(group.master.url).diagnose();
    const { replicas, ...facts } = only(diagnosis);
    expect(facts).toMatchObject({ role: 'master', minReplicasToWrite: 2, minReplicasMaxLag: 3 });
    if (replicas === 'unknown') throw new Error('The replicas are not known.');
    expect(replicas.map(({ address }) => address).toSorted()).toEqual(
      group.replicas.map(({ port }) => `127.0.0.1:${port}`).toSorted(),
    );
    for (const { state, lag } of replicas) {
      expect(state).toBe('online');
      expect(lag).toBeLessThanOrEqual(2);
    }
    expect(codes(diagnosis)).toEqual(['async-failover', 'split-brain']);
  });

  it('is safe from a failover where all of them confirm each grant', async () => {
    const diagnosis = await lockerOn(group.master.url, { replicas: { atLeast: 2 } }).diagnose();
    expect(exclusion(diagnosis, 'failover')).toBe('holds');
    expect(exclusion(diagnosis, 'partition')).toBe('holds');
    expect(diagnosis.level).toBe('strict');
  });

  it('is not safe where some do', async () => {
    const diagnosis = await lockerOn(group.master.url, { replicas: { atLeast: 1 } }).diagnose();
    expect(codes(diagnosis)).toEqual(['replicas-too-few', 'split-brain']);
  });

  it('is told from its replica, which takes no writes', async () => {
    const [replica] = group.replicas;
    const diagnosis = await lockerOn(replica?.url ?? '').diagnose();
    expect(only(diagnosis).role).toBe('replica');
    expect(diagnosis.level).toBe('unusable');
    expect(codes(diagnosis)).toContain('on-a-replica');
  });
});

describe('Sentinel', () => {
  let watched: RedisSentinels;

  beforeAll(async () => {
    watched = await RedisSentinels.start({
      replicas: 1,
      args: ['--min-replicas-to-write', '1', '--min-replicas-max-lag', '10'],
    });
  });

  afterAll(async () => {
    await watched.stop();
  });

  it('is seen at the master, by which the connection goes, and by its layout', async () => {
    const diagnosis = await lockerOn(watched.connection).diagnose();
    expect(diagnosis.layout).toBe('sentinel');
    expect(only(diagnosis)).toMatchObject({
      address: `127.0.0.1:${watched.master.port}`,
      sentinels: 3,
      role: 'master',
    });
    expect(codes(diagnosis)).toEqual(['no-aof', 'async-failover', 'split-brain']);
  });

  it('with the guard and min-replicas-to-write, keeps P1 to P3 over failover and partition', async () => {
    const guarded = await lockerOn(watched.connection, { guard: true }).diagnose();
    expect([guarded.level, codes(guarded)]).toEqual(['strict', []]);
    const short = await lockerOn(watched.connection, { guard: { lag: '11s' } }).diagnose();
    expect([short.level, codes(short)]).toEqual(['weakened', ['guard-lag-short']]);
    expect(short.findings[0]?.remedy).toContain('`guard: { lag: 12000 }`');
  });

  it('that is passed by is noticed', async () => {
    const { username, password } = watched.connection;
    const { port } = watched.master;
    const locker = lockerOn({ host: '127.0.0.1', port, username, password });
    const { findings } = await locker.diagnose();
    expect(findings.map(({ code }) => code)).toContain('not-by-sentinel');
  });
});

describe('Cluster', () => {
  let group: RedisCluster;

  beforeAll(async () => {
    group = await RedisCluster.start({ masters: 3, replicas: 1, nodeTimeout: 2_000 });
  });

  afterAll(async () => {
    await group.stop();
  });

  it('is asked at each of its masters', async () => {
    const cluster = new Cluster(group.addresses);
    try {
      const diagnosis = await lockerOn(cluster).diagnose();
      expect(diagnosis.layout).toBe('cluster');
      expect(diagnosis.servers).toHaveLength(3);
      for (const server of diagnosis.servers) {
        expect(server).toMatchObject({
          kind: 'surveyed',
          mode: 'cluster',
          role: 'master',
          clusterState: 'ok',
          clusterNodeTimeout: 2_000,
        });
      }
      const [first] = diagnosis.findings;
      expect(first).toMatchObject({ code: 'no-aof' });
      expect(first?.servers).toHaveLength(3);
    } finally {
      cluster.disconnect();
    }
  });

  it('is unusable through one of its nodes alone', async () => {
    const diagnosis = await lockerOn(group.nodes[0]?.url ?? '').diagnose();
    expect(codes(diagnosis)).toContain('cluster-node');
    expect(diagnosis.level).toBe('unusable');
  });
});

it('the guard cannot work where a script may not ask for INFO: no lock can be had', async () => {
  await using server = await RedisServer.start();
  await server.command('ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-info');
  const locker = lockerOn(`redis://app:pw@127.0.0.1:${server.port}`, { guard: true });
  const diagnosis = await locker.diagnose();
  expect([diagnosis.level, diagnosis.findings[0]?.code]).toEqual(['unusable', 'guard-denied']);
  // As it is.
  await expect(locker.acquire('k', { waitTimeout: 300 })).rejects.toMatchObject({
    code: 'LOCK_UNAVAILABLE',
  });
});

describe("safety: 'strict'", () => {
  it('connects where all is well', async () => {
    await using server = await RedisServer.start({ persistence: 'aof' });
    expect(await lockerOn(server.url, { safety: 'strict' }).connect()).toBe(true);
  });

  it('refuses where a key may be evicted, naming what to change', async () => {
    await using server = await RedisServer.start({
      persistence: 'aof',
      args: ['--maxmemory', '100mb', '--maxmemory-policy', 'volatile-lru'],
    });
    const locker = lockerOn(server.url, { safety: 'strict' });
    await expect(locker.connect()).rejects.toMatchObject({
      name: 'LockSafetyError',
      code: 'LOCK_SAFETY',
      message: expect.stringMatching(/volatile-lru.*maxmemory-policy noeviction/s),
      diagnosis: { level: 'weakened' },
    });
    // Without it, the same connects.
    expect(await lockerOn(server.url).connect()).toBe(true);
  });

  it('refuses where it may not ask, naming the permission', async () => {
    await using server = await RedisServer.start({ persistence: 'aof' });
    await server.command(
      ...['ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', '+@all', '-config', '-info'],
    );
    const locker = lockerOn(`redis://app:pw@127.0.0.1:${server.port}`, { safety: 'strict' });
    await expect(locker.connect()).rejects.toMatchObject({
      code: 'LOCK_SAFETY',
      message: expect.stringMatching(/INFO was refused.*\+info/s),
    });
  });

  it('refuses where there is nobody to ask', async () => {
    await using server = await RedisServer.start();
    const { url } = server;
    await server.kill();
    await expect(lockerOn(url, { safety: 'strict' }).connect()).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
    });
    expect(await lockerOn(url).connect()).toBe(false);
  });

  it('is met by memory, which says for itself whom it excludes', async () => {
    const locker = lockerOn('memory', { safety: 'strict' });
    expect(await locker.connect()).toBe(true);
    expect((await locker.diagnose()).findings.map(({ code }) => code)).toEqual(['memory-only']);
  });
});
