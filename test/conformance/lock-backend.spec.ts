/**
 * The suite for backends over each of them: a real redis-server, a real Redis Cluster (of one node, which is enough to
 * refuse keys of different slots in one script), and this process's memory.
 */
import { afterAll, beforeAll, expect } from '@jest/globals';
import { Cluster, Redis } from 'ioredis';
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import type { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { openBareBackend } from '../support/bare-backend.js';
import { freeRecord, recordOf } from '../support/lock-keys.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { describeAccess } from './lock-access.suite.js';
import { type BackendStore, describeLockBackend } from './lock-backend.suite.js';

let standalone: RedisServer;
let clusterNode: RedisServer;
let nodes: RedisServer[];

beforeAll(async () => {
  [standalone, nodes, clusterNode] = await Promise.all([
    RedisServer.start(),
    RedisServer.startMany(3),
    RedisServer.start({ kind: 'cluster-node' }),
  ]);
  await clusterNode.command('CLUSTER', 'ADDSLOTSRANGE', '0', '16383');
  await eventually(async () =>
    (await clusterNode.command('CLUSTER', 'INFO')).includes('cluster_state:ok'),
  );
});

afterAll(async () => {
  await Promise.all([standalone, clusterNode, ...nodes].map((server) => server.stop()));
});

/** All under which the suite takes locks: each has a guard of its own. */
const PREFIXES = ['lock', 'lock:k', 'many', 'names', 'other'];

const KNOWS = { knowsWhoListens: true };

describeLockBackend(
  'Redis',
  () => openRedisStore(standalone, standalone.url),
  KNOWS,
  describeAccess,
);

describeLockBackend(
  'Redis with a guard',
  async () => {
    const store = await openRedisStore(standalone, standalone.url, { guard: { longestTtl: '1h' } });
    const initialize = async () => {
      const backend = store.open();
      for (const prefix of PREFIXES) {
        expect(await backend.initializeGuard(prefix)).toEqual({ kind: 'initialized' });
      }
      await backend.close();
    };
    await initialize();
    return {
      ...store,
      // What becomes of the locks is the suite's question; what the guard makes of it, another spec's.
      loseData: async () => {
        await store.loseData();
        await initialize();
      },
      contents: async () => (await store.contents()).filter(({ key }) => !key.endsWith(':guard')),
    };
  },
  KNOWS,
  describeAccess,
);

describeLockBackend(
  'Redis Cluster',
  async () => {
    const cluster = new Cluster([{ host: '127.0.0.1', port: clusterNode.port }]);
    const store = await openRedisStore(clusterNode, cluster);
    return {
      ...store,
      close: async () => {
        await store.close();
        cluster.disconnect();
      },
    };
  },
  { knowsWhoListens: false },
  describeAccess,
);

// As on a server that has none (Redis 6), or for a user who may not use them.
describeLockBackend(
  'Redis Cluster without shard channels',
  async () => {
    const user = ['ACL', 'SETUSER', 'old', 'reset', 'on', '>secret', '~*', '&*', '+@all'];
    await clusterNode.command(...user, '-ssubscribe', '-spublish');
    const cluster = new Cluster([{ host: '127.0.0.1', port: clusterNode.port }], {
      redisOptions: { username: 'old', password: 'secret' },
    });
    const store = await openRedisStore(clusterNode, cluster);
    return {
      ...store,
      close: async () => {
        await store.close();
        cluster.disconnect();
      },
    };
  },
  { knowsWhoListens: false },
  describeAccess,
);

describeLockBackend(
  'quorum of 3',
  () => openQuorumStore(nodes),
  { ...KNOWS, byMajority: true },
  describeAccess,
);

describeLockBackend('memory', async () => openMemoryStore(), KNOWS, describeAccess);

async function openRedisStore(
  server: RedisServer,
  connection: string | Cluster,
  more: Partial<LockerOptions> = {},
): Promise<BackendStore> {
  const client = new Redis(server.url);
  await client.flushall();
  return {
    open: () =>
      openBareBackend({ connection, commandTimeout: 2_000, application: 'conformance', ...more }),
    noticesClosed: async (backend: LockBackend) => {
      const { channel } = (backend as RedisBackend).wakeUp;
      await eventually(async () => (await client.pubsub('NUMSUB', channel))[1] === 0);
    },
    loseData: async () => {
      await client.flushall();
    },
    setFence: async (name, fence) => {
      await client.set(name.owner, freeRecord(fence), 'PX', 7_200_000);
    },
    contents: () => contentsOf(client),
    close: async () => {
      client.disconnect();
    },
  };
}

async function openQuorumStore(servers: readonly RedisServer[]): Promise<BackendStore> {
  const clients = servers.map(({ url }) => new Redis(url));
  const onAll = <T>(look: (client: Redis) => Promise<T>) => Promise.all(clients.map(look));
  await onAll((client) => client.flushall());
  let open = 0;
  return {
    open: () => {
      open += 1;
      return openBareBackend({
        connection: servers.map(({ url }) => url),
        commandTimeout: 2_000,
        nodeTimeout: 2_000,
        application: 'conformance',
      });
    },
    noticesClosed: async () => {
      open -= 1;
      await eventually(async () =>
        (await onAll((client) => client.pubsub('CHANNELS', 'lock:wake:*'))).every(
          (channels) => channels.length === open,
        ),
      );
    },
    loseData: async () => {
      await onAll((client) => client.flushall());
    },
    setFence: async (name, fence) => {
      await onAll((client) => client.set(name.owner, freeRecord(fence), 'PX', 7_200_000));
    },
    // What stays for longest anywhere.
    contents: async () => {
      const all = new Map<string, { key: string; ttl: number; isFence: boolean }>();
      for (const entry of (await onAll(contentsOf)).flat()) {
        const what = `${entry.key} ${entry.isFence}`;
        const before = all.get(what)?.ttl ?? 0;
        const ttl = Math.min(before, entry.ttl) < 0 ? -1 : Math.max(before, entry.ttl);
        all.set(what, { ...entry, ttl });
      }
      return [...all.values()];
    },
    close: async () => {
      for (const client of clients) client.disconnect();
    },
  };
}

async function contentsOf(client: Redis): ReturnType<BackendStore['contents']> {
  const keys = await client.keys('*');
  const entries = await Promise.all(
    keys.map(async (key) => {
      const [ttl, record] = [await client.pttl(key), await recordOf(client, key)];
      if (record === undefined) return [{ key, ttl, isFence: false }];
      const lasts = { key, ttl: record.until - Date.now(), isFence: false };
      return [...(record.ended ? [] : [lasts]), { key, ttl, isFence: true }];
    }),
  );
  // Some may have expired between the looks.
  return entries.flat().filter(({ ttl }) => ttl !== -2);
}

function openMemoryStore(): BackendStore {
  const store = new MemoryStore();
  return {
    open: () => new MemoryBackend({ application: 'conformance' }, store),
    noticesClosed: async () => {},
    loseData: async () => {
      store.entries.clear();
      // No process restarts within a millisecond, the resolution of the clock.
      const now = Date.now();
      await eventually(() => Date.now() > now, { interval: 1 });
    },
    setFence: async (name, fence) => {
      const entry = store.entryOf(name);
      entry.fence = fence;
      entry.fenceUntil = performance.now() + 7_200_000;
    },
    contents: async () => {
      const now = performance.now();
      return [...store.entries].flatMap(([key, { owner, queue, fenceUntil }]) => [
        ...(owner !== undefined && owner.until > now
          ? [{ key, ttl: owner.until - now, isFence: false }]
          : []),
        ...queue
          .filter(({ aliveUntil }) => aliveUntil > now)
          .map(({ aliveUntil }) => ({ key, ttl: aliveUntil - now, isFence: false })),
        ...(fenceUntil > now ? [{ key, ttl: fenceUntil - now, isFence: true }] : []),
      ]);
    },
    close: async () => {},
  };
}
