/**
 * What a server answers when it can't do its work now, on each kind of deployment (behind Sentinel: sentinel.spec.ts).
 *
 * In all of them: a call fails in time with a LockUnavailableError whose cause says what was wrong; no lock is lost, since
 * none has to be; who waits goes on waiting; and everything recovers by itself.
 */
import { mkdtempSync, mkdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Cluster } from 'ioredis';
import type { Lock } from '../../lib/core/lock.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockConnection } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { RedisReplication } from '../support/redis-replication.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { COMMAND_TIMEOUT, SLACK, WAIT_TIMEOUT } from './support/faults.js';

const LONG = 90_000;
const RECOVERY = 15_000;
/** No lock expires, and no waiter looks for itself, within a test. */
const LONG_TTL = 60_000;
const IN_TIME = WAIT_TIMEOUT + COMMAND_TIMEOUT + SLACK;

const open: { close(): unknown }[] = [];

afterEach(async () => {
  for (const each of open.splice(0).toReversed()) await each.close();
});

function openLocker(connection: LockConnection, ttl = LONG_TTL): Locker {
  const locker = new Locker({
    connection,
    ttl,
    commandTimeout: COMMAND_TIMEOUT,
    waitTimeout: WAIT_TIMEOUT,
    drainTimeout: 1,
  });
  open.push(locker);
  return locker;
}

/** A lock that's held, with somebody of another process that waits for it. */
class Held {
  private constructor(
    readonly lock: Lock,
    readonly waiting: Promise<Lock>,
    private readonly locker: Locker,
  ) {}

  static async start(connect: () => LockConnection, key = 'k'): Promise<Held> {
    const [locker, other] = [openLocker(connect()), openLocker(connect())];
    const lock = await locker.acquire(key);
    const waiting = other.acquire(key, { waitTimeout: '80s' });
    waiting.catch(() => {});
    await eventually(async () => (await locker.inspect(key)).pending.length === 1);
    return new Held(lock, waiting, locker);
  }

  /** What a call for another key fails with; in time. */
  async failure(key = 'another'): Promise<{ reason: string; said: string }> {
    const from = performance.now();
    const failed = await this.locker.acquire(key).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(performance.now() - from).toBeLessThan(IN_TIME);
    expect(failed).toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    const { reason, cause } = failed as { reason: string; cause?: Error };
    return { reason, said: String(cause?.message) };
  }

  /** All goes on: calls, the holder, and who waits. */
  async goesOn(): Promise<void> {
    await eventually(async () => (await this.locker.acquire('another')).release(), {
      timeout: RECOVERY,
    });
    await eventually(() => this.lock.extend().then(() => true), { timeout: RECOVERY });
    expect(this.lock.state).toBe('held');
    expect(await this.lock.release()).toBe('released');
    const next = await this.waiting;
    expect(next.fencingToken).toBeGreaterThan(this.lock.fencingToken);
    expect(await next.release()).toBe('released');
  }
}

interface Trouble {
  readonly error: string;
  readonly args?: readonly string[];
  begin(server: RedisServer, dir: string): Promise<unknown>;
  end(server: RedisServer, dir: string): Promise<unknown>;
}

/** Has a snapshot made, and waits until it ended so. */
async function saved(server: RedisServer, status: 'ok' | 'err'): Promise<void> {
  await server.order('BGSAVE');
  await eventually(
    async () => (await server.info('persistence'))['rdb_last_bgsave_status'] === status,
  );
}

const troubles: readonly Trouble[] = [
  {
    error: 'BUSY',
    args: ['--lua-time-limit', '50'],
    async begin(server) {
      // Nobody waits for its answer.
      void server.command('EVAL', 'while true do end', '0').catch(() => {});
      await eventually(async () => (await server.command('PING')).startsWith('-BUSY'));
    },
    end: (server) => server.order('SCRIPT', 'KILL'),
  },
  {
    error: 'OOM',
    begin: (server) => server.order('CONFIG', 'SET', 'maxmemory', '1'),
    end: (server) => server.order('CONFIG', 'SET', 'maxmemory', '0'),
  },
  {
    error: 'MISCONF',
    args: ['--save', '3600 1'],
    async begin(server, dir) {
      // A snapshot can't take the place of a folder.
      mkdirSync(join(dir, 'dump.rdb'));
      await saved(server, 'err');
    },
    async end(server, dir) {
      rmSync(join(dir, 'dump.rdb'), { recursive: true });
      await saved(server, 'ok');
      await server.order('CONFIG', 'SET', 'save', '');
    },
  },
  {
    error: 'NOREPLICAS',
    begin: (server) => server.order('CONFIG', 'SET', 'min-replicas-to-write', '1'),
    end: (server) => server.order('CONFIG', 'SET', 'min-replicas-to-write', '0'),
  },
];

describe('A single server says', () => {
  it.each(troubles)('$error', async ({ error, args = [], begin, end }) => {
    const dir = mkdtempSync(join(tmpdir(), 'redis-lock-test-'));
    try {
      await using server = await RedisServer.start({ dir, args: [...args] });
      const held = await Held.start(() => server.url);
      await begin(server, dir);
      const { reason, said } = await held.failure();
      expect(reason).toBe('refused');
      expect(said).toContain(error);
      await end(server, dir);
      await held.goesOn();
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it(
    'LOADING, after a restart with much data',
    async () => {
      const dir = mkdtempSync(join(tmpdir(), 'redis-lock-test-'));
      try {
        // Takes 2 s to load, whatever the machine.
        const slow = [
          '--key-load-delay',
          '1000',
          '--loading-process-events-interval-bytes',
          '1024',
        ];
        await using server = await RedisServer.start({
          dir,
          args: [...slow, '--enable-debug-command', 'yes'],
        });
        const held = await Held.start(() => server.url);
        await server.order('DEBUG', 'POPULATE', '2000');
        await server.order('SAVE');
        const restarted = server.restart();
        await eventually(async () => (await server.command('GET', 'x')).startsWith('-LOADING'));
        await eventually(async () => (await held.failure()).said.includes('loads its data'), {
          timeout: 2_000,
        });
        await restarted;
        await held.goesOn();
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    },
    LONG,
  );

  it('READONLY: where its name leads to the new master, all connections go there', async () => {
    await using group = await RedisReplication.start();
    const [old, replica] = group.servers as [RedisServer, RedisServer];
    // What a name does that a managed Redis changes: open connections stay where they are.
    await using name = await TcpProxy.start(old.port);
    const held = await Held.start(() => name.url);
    await group.inSync();
    await group.promote(replica);
    name.targetPort = replica.port;
    const { said } = await held.failure();
    expect(said).toContain('READONLY');
    await held.goesOn();
    // Also those that only listen: the replica itself is a connection of another kind.
    await eventually(async () => {
      const list = await old.order('CLIENT', 'LIST', 'TYPE', 'pubsub');
      return list.trim() === '$0';
    });
  });
});

describe('A Cluster', () => {
  let nodes: RedisCluster;

  beforeAll(async () => {
    nodes = await RedisCluster.start();
  }, LONG);

  afterAll(async () => {
    await nodes.stop();
  });

  const connect = (): Cluster => {
    const cluster = new Cluster(nodes.addresses, { redisOptions: { lazyConnect: true } });
    cluster.on('error', () => {});
    open.push({ close: () => cluster.disconnect() });
    return cluster;
  };

  it(
    'that moves the slot of a lock, step by step, there and back',
    async () => {
      const key = 'moved';
      const held = await Held.start(connect, key);
      const slot = await nodes.slotOf(`lock:{${key}}`);
      const from = await nodes.masterOf(slot);
      const to = await nodes.masterOtherThan(from);
      for (const target of [to, from]) {
        const move = await nodes.beginMove(slot, target);
        await held.lock.extend();
        await move.keys();
        // Who was sent on by ASK, and who comes back by MOVED.
        await held.lock.extend();
        await move.finish();
        await held.lock.extend();
        expect(await nodes.masterOf(slot)).toBe(target);
      }
      await held.goesOn();
    },
    LONG,
  );

  it(
    'in which a replica takes over, which never saw the scripts: planned, then by a crash',
    async () => {
      const key = 'taken over';
      const held = await Held.start(connect, key);
      const master = await nodes.masterOf(`lock:{${key}}`);
      await nodes.inSync();
      const heir = await nodes.failover(master);
      await eventually(() => held.lock.extend().then(() => true), { timeout: RECOVERY });
      await nodes.inSync();
      await heir.order('SCRIPT', 'FLUSH');
      await held.lock.extend();
      await nodes.inSync();
      expect(await nodes.killMaster(heir)).toBe(master);
      await heir.restart();
      await held.goesOn();
      await nodes.isOk();
    },
    LONG,
  );

  it(
    'CLUSTERDOWN, while some of its slots have no server',
    async () => {
      const key = 'survives';
      const held = await Held.start(connect, key);
      const survivor = await nodes.masterOf(`lock:{${key}}`);
      let other = 0;
      while ((await nodes.masterOf(`lock:{other ${other}}`)) !== survivor) other += 1;
      const gone = await nodes.masterOtherThan(survivor);
      const replicas = await nodes.replicasOf(gone);
      for (const node of [...replicas, gone]) await node.kill();
      await eventually(
        async () => (await survivor.order('CLUSTER', 'INFO')).includes('cluster_state:fail'),
        { timeout: RECOVERY },
      );
      // The first may be under way to a node that's gone, to be told who is left.
      await eventually(
        async () => {
          const { reason, said } = await held.failure(`other ${other}`);
          return reason === 'refused' && said.includes('CLUSTERDOWN');
        },
        { timeout: RECOVERY },
      );
      for (const node of [gone, ...replicas]) await node.restart();
      await nodes.isOk();
      await held.goesOn();
    },
    LONG,
  );
});
