/**
 * What only several independent nodes have to promise: locks outlive a minority of them, and nothing is left behind at any.
 */
import { hostname } from 'node:os';

import { afterEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import type { LockUnavailableError } from '../../lib/core/errors.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { acquireAllScript, acquireScript } from '../../lib/core/redis/scripts.generated.js';
import { eventually } from '../support/eventually.js';
import { freeRecord, keysInUse, recordOf } from '../support/lock-keys.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { contradictions } from './support/beliefs.js';
import { sendRaw } from './support/faults.js';
import { monotonic, type RemoteError, Replica } from './support/replica.js';

let servers: RedisServer[] = [];
const lockers: Locker[] = [];
const proxies: TcpProxy[] = [];

async function start(
  count: number,
  lockersWanted = 1,
  options: Omit<LockerOptions, 'connection'> = {},
): Promise<Locker[]> {
  servers = await RedisServer.startMany(count);
  const connection = servers.map(({ url }) => url);
  return Promise.all(Array.from({ length: lockersWanted }, () => open(connection, options)));
}

async function open(
  connection: readonly string[],
  options: Omit<LockerOptions, 'connection'> = {},
): Promise<Locker> {
  const locker = new Locker({ connection, drainTimeout: 1, ...options });
  lockers.push(locker);
  await locker.connect();
  return locker;
}

/** A proxy before each of these nodes. */
async function proxied(...which: number[]): Promise<TcpProxy[]> {
  const started = await Promise.all(which.map((index) => TcpProxy.start(portOf(index))));
  proxies.push(...started);
  return started;
}

function portOf(index: number): number {
  return (servers[index] as RedisServer).port;
}

async function nothingIsLeft(): Promise<void> {
  await eventually(async () => (await onEach((client) => keysInUse(client))).flat().length === 0, {
    message: 'nothing is left at any node',
  });
}

async function onEach<T>(look: (client: Redis) => Promise<T>): Promise<T[]> {
  const clients = servers.map(({ url }) => new Redis(url));
  try {
    return await Promise.all(clients.map(look));
  } finally {
    for (const client of clients) client.disconnect();
  }
}

afterEach(async () => {
  await Promise.all(lockers.splice(0).map((locker) => locker.close()));
  await Promise.all(proxies.splice(0).map((proxy) => proxy.close()));
  await Promise.all(servers.map((server) => server.stop()));
});

describe.each([3, 4, 5])('a quorum of %i', (count) => {
  const spare = count - (Math.floor(count / 2) + 1);

  it('goes on without as many nodes as it has to spare, and says what each answered without one more', async () => {
    const [locker] = (await start(count)) as [Locker];
    await (await locker.acquire('k')).release();
    for (const server of servers.slice(0, spare)) await server.kill();
    const lock = await locker.acquire('k');
    expect(await lock.release()).toBe('released');
    await (servers[spare] as RedisServer).kill();
    const error = await locker.acquire('k', { waitTimeout: 500 }).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'quorum' });
    const { nodes = [], message } = error as LockUnavailableError;
    expect(nodes).toHaveLength(count);
    expect(nodes.filter(({ answer }) => answer === 'granted')).toHaveLength(count - spare - 1);
    for (const { port } of servers) expect(message).toContain(`localhost:${port}: `);
  });

  it('without a majority says by whom a node is busy', async () => {
    const options = { application: 'shop' };
    const [holder, other] = (await start(count, 2, options)) as [Locker, Locker];
    await holder.acquire('k', { ttl: '30s' });
    await eventually(async () => {
      const records = await onEach((client) => recordOf(client, 'lock:{k}'));
      return records.every((record) => record?.state === 'h');
    });
    for (const server of servers.slice(0, spare + 1)) await server.kill();
    const error = await other.tryAcquire('k').catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE', reason: 'quorum' });
    const { nodes = [], message } = error as LockUnavailableError;
    const by = `"shop", process ${process.pid} on ${JSON.stringify(hostname())}`;
    expect(nodes.slice(spare + 1)).toEqual(
      servers
        .slice(spare + 1)
        .map(({ port }) => ({ node: `localhost:${port}`, answer: 'busy', holder: by })),
    );
    for (const { port } of servers.slice(spare + 1)) {
      expect(message).toContain(`localhost:${port}: busy (${by})`);
    }
    for (const { answer } of nodes.slice(0, spare + 1)) expect(answer).not.toBe('busy');
  });

  it('renews by a majority, and by no fewer', async () => {
    const [locker] = (await start(count)) as [Locker];
    const [gone, kept] = [await locker.acquire('k'), await locker.acquire('l')];
    // One more than may be missed.
    for (const server of servers.slice(0, spare + 1)) await server.command('DEL', 'lock:{k}');
    await expect(gone.extend()).rejects.toMatchObject({ code: 'LOCK_LOST', reason: 'taken' });
    for (const server of servers.slice(0, spare)) await server.command('DEL', 'lock:{l}');
    await kept.extend();
    for (const server of servers.slice(0, spare + 1)) await server.kill();
    const deadline = performance.now() + kept.remaining;
    await expect(kept.extend()).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    expect(performance.now() + kept.remaining).toBeLessThanOrEqual(deadline + 1);
  });

  it('leaves nothing at any node', async () => {
    const [one, two] = (await start(count, 2)) as [Locker, Locker];
    const lock = await one.acquire('k');
    const abort = new AbortController();
    const waiting = two.acquire('k', { signal: abort.signal }).catch((e: unknown) => e);
    await eventually(async () => (await one.inspect('k')).pending.length === 1);
    abort.abort('enough');
    expect(await waiting).toBe('enough');
    await lock.release();
    await nothingIsLeft();
  });

  it('gives rising fencing tokens also where a node is far ahead of the others', async () => {
    const [locker] = (await start(count)) as [Locker];
    const ahead = (Date.now() + 3_600_000) * 1_000;
    const first = new Redis((servers[0] as RedisServer).url);
    await first.set('lock:{k}', freeRecord(ahead), 'PX', 7_200_000);
    first.disconnect();
    let last = 0;
    for (let turn = 0; turn < 10; turn += 1) {
      const lock = await locker.acquire('k');
      expect(lock.fencingToken).toBeGreaterThan(last);
      last = lock.fencingToken;
      await lock.release();
    }
  });
});

describe('after the messages of nodes were missed', () => {
  it.each([
    ['exclusive', 'one node'],
    ['exclusive', 'all nodes'],
    ['shared', 'one node'],
    ['shared', 'all nodes'],
  ] as const)(
    'a lease (%s) that is not renewed is kept where it is still held (messages of %s)',
    async (mode, which) => {
      const [locker] = (await start(3)) as [Locker];
      const kept = await locker.acquire('kept', { mode, ttl: '30s', renew: false });
      const gone = await locker.acquire('gone', { mode, ttl: '30s', renew: false });
      await eventually(() => listens(3));
      await onEach((client) => client.del('lock:{gone}', 'lock:{gone}:q', 'lock:{gone}:w'));
      const remaining = kept.remaining;
      // One after the other: at any time most of them can be heard.
      for (const node of which === 'all nodes' ? servers : servers.slice(1, 2)) {
        await node.order('CLIENT', 'KILL', 'TYPE', 'pubsub');
        await eventually(() => listens(3));
      }
      // Each was looked at: this one in vain.
      await eventually(() => gone.signal.aborted);
      expect(gone.signal.reason).toMatchObject({ reason: 'taken' });
      expect((await locker.inspect('kept')).held).toMatchObject([
        { fencingToken: kept.fencingToken, access: mode },
      ]);
      expect(kept.isHeld).toBe(true);
      expect(kept.remaining).toBeLessThanOrEqual(remaining);
      expect(await kept.release()).toBe('released');
    },
  );

  it('a lease that was taken by force is told by the other nodes', async () => {
    const [holder, admin] = (await start(3, 2)) as [Locker, Locker];
    const lock = await holder.acquire('k', { ttl: '30s', renew: false });
    await eventually(() => listens(3));
    await (servers[0] as RedisServer).order('CLIENT', 'KILL', 'TYPE', 'pubsub');
    expect(await admin.forceRelease('k')).toMatchObject({ kind: 'released' });
    await eventually(() => lock.signal.aborted);
    expect(lock.signal.reason).toMatchObject({ reason: 'forced' });
  });

  async function listens(count: number): Promise<boolean> {
    const lists = await onEach(async (client) => String(await client.client('LIST')));
    return lists.filter((list) => /sub=[1-9]/.test(list)).length === count;
  }
});

it('asks for its locks whenever its process begins to hear, at a majority, what is told to holders', async () => {
  const [locker] = (await start(3)) as [Locker];
  let renewed = 0;
  locker.on('renewed', () => (renewed += 1));
  // By itself, it's renewed after 20 s.
  const lock = await locker.acquire('k', { ttl: 60_000 });
  await eventually(() => renewed === 1, { timeout: 3_000, message: 'it hears' });
  await onEach((client) => client.call('CLIENT', 'KILL', 'TYPE', 'pubsub'));
  await eventually(() => renewed >= 2, { timeout: 3_000, message: 'it hears again' });
  expect(await lock.release()).toBe('released');
});

describe('a node that comes back empty', () => {
  it('in the middle of a lease lets nobody else in, and the lease is kept beyond its ttl', async () => {
    const [holder, other] = (await start(3, 2, { ttl: 1_500 })) as [Locker, Locker];
    const lock = await holder.acquire('k');
    await (servers[0] as RedisServer).restart({ keepData: false });
    const restartedAt = performance.now();
    await eventually(
      async () => {
        // Each of these is granted by the empty node.
        expect(await other.tryAcquire('k')).toBeNull();
        return performance.now() - restartedAt > 2 * 1_500;
      },
      { interval: 20 },
    );
    expect(lock.isHeld).toBe(true);
    expect(await lock.release()).toBe('released');
    const next = await other.acquire('k');
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
    await next.release();
    await nothingIsLeft();
  });
});

it('when each caller has got one node, all of them are served in the end', async () => {
  await start(3, 0);
  // Each reaches a node of its own first.
  const callers = await Promise.all(
    servers.map(async (_, own) => {
      const ways = await proxied(0, 1, 2);
      const connection = ways.map(({ url }) => url);
      const locker = await open(connection, { nodeTimeout: 1_000, waitTimeout: '20s' });
      // Knows the clocks then, and the scripts are there.
      await (await locker.acquire(`own ${own}`)).release();
      return { locker, ways, own };
    }),
  );
  await nothingIsLeft();
  for (const { ways, own } of callers) {
    for (const [index, way] of ways.entries()) if (index !== own) way.delay(250, 'up');
  }
  const fences: number[] = [];
  const turns = callers.map(({ locker }) =>
    locker.using('k', async ({ fencingToken }) => fences.push(fencingToken)),
  );
  const tokens = await eventually(async () => {
    const records = await onEach((client) => recordOf(client, 'lock:{k}'));
    const held = records.filter((record) => record?.state === 'h' && !record.ended);
    return held.length === 3 ? held.map((record) => record?.token) : undefined;
  });
  expect(new Set(tokens).size).toBe(3);
  await Promise.all(turns);
  expect(fences).toHaveLength(3);
  expect(fences.every((fence, turn) => turn === 0 || fence > (fences[turn - 1] as number))).toBe(
    true,
  );
  await nothingIsLeft();
});

describe('a node behind a slow network', () => {
  /** Two lockers of which the first reaches the last node by a proxy. */
  async function startSlow(): Promise<{ near: Locker; far: Locker; way: TcpProxy }> {
    const [near] = (await start(3)) as [Locker];
    const [way] = (await proxied(2)) as [TcpProxy];
    const urls = servers.map(({ url }) => url);
    const far = await open([...urls.slice(0, 2), way.url], { nodeTimeout: 500 });
    await (await far.acquire('first')).release();
    await nothingIsLeft();
    return { near, far, way };
  }

  it('an abort in the middle of an acquire leaves nothing at any node', async () => {
    const { near, far, way } = await startSlow();
    const lock = await near.acquire('k', { ttl: '30s' });
    way.hold('down');
    const abort = new AbortController();
    const waiting = far.acquire('k', { ttl: '30s', signal: abort.signal }).catch((e: unknown) => e);
    // The slow node has done it, and its answer is on its way.
    await eventually(async () => {
      const waiters = await onEach((client) => client.zcard('lock:{k}:q'));
      return waiters.every((count) => count === 1);
    });
    abort.abort('enough');
    expect(await waiting).toBe('enough');
    way.resume();
    await lock.release();
    await nothingIsLeft();
  });

  it.each([
    ['in time for it', true],
    ['too late for it', false],
  ])('what a majority decided without it is undone there: it comes %s', async (_, inTime) => {
    const { near, far, way } = await startSlow();
    way.hold('up');
    const since = performance.now();
    // Granted and given back by the others.
    const lock = await far.acquire('granted', { ttl: '30s' });
    expect(await lock.release()).toBe('released');
    // Held by another at the others.
    const third = (servers[2] as RedisServer).port;
    const held = await near.acquire('held', { ttl: '30s' });
    await onEach(async (client) => {
      if (client.options.port === third) await client.del('lock:{held}');
    });
    expect(await far.tryAcquire('held', { ttl: '30s' })).toBeNull();
    // A node that's silent for longer than its timeout is cut off.
    if (!inTime) await eventually(() => performance.now() - since > 2 * 500);
    way.resume('up');
    await held.release();
    await nothingIsLeft();
    await (await far.acquire('held')).release();
  });
});

it('a command that comes a second time, after its deadline, takes nothing', async () => {
  await start(3, 0);
  const ways = await proxied(0, 1, 2);
  const nodeTimeout = 300;
  const locker = await open(
    ways.map(({ url }) => url),
    { nodeTimeout },
  );
  await (await locker.acquire('k')).release();
  let repeated = 0;
  for (const way of ways) {
    way.repeatAfter = nodeTimeout + 100;
    way.onRequest = (bytes) => {
      if (!bytes.includes('lock:{k}')) return 'pass';
      repeated += 1;
      return 'repeat';
    };
  }
  await (await locker.acquire('k', { ttl: '30s' })).release();
  const since = performance.now();
  expect(repeated).toBeGreaterThanOrEqual(2 * 2);
  await eventually(() => performance.now() - since > 2 * (nodeTimeout + 100));
  await nothingIsLeft();
});

it('who waits is woken by a message, long before it would look for itself', async () => {
  const ttl = 60_000;
  const [holder, waiter] = (await start(3, 2, { ttl, waitTimeout: ttl })) as [Locker, Locker];
  for (let turn = 0; turn < 5; turn += 1) {
    const lock = await holder.acquire('k');
    const waiting = waiter.acquire('k');
    await eventually(async () => (await holder.inspect('k')).pending.length === 1);
    const since = performance.now();
    await lock.release();
    await (await waiting).release();
    expect(performance.now() - since).toBeLessThan(ttl / 12);
  }
});

describe('how many commands it takes', () => {
  const CYCLES = 200;

  /** How many scripts all nodes run for an acquisition and a release, on average. */
  async function scriptsPerCycle(
    locker: Locker,
    keyOf: (cycle: number) => string,
  ): Promise<number> {
    await (await locker.acquire('first')).release();
    await Promise.all(servers.map((server) => server.order('CONFIG', 'RESETSTAT')));
    for (let cycle = 0; cycle < CYCLES; cycle += 1) {
      await (await locker.acquire(keyOf(cycle))).release();
    }
    // The last ones are perhaps still on their way to one.
    await locker.close();
    const calls = await Promise.all(
      servers.map(async (server) => {
        const { cmdstat_evalsha: told = '' } = await server.info('commandstats');
        return Number(/calls=(\d+)/.exec(told)?.[1] ?? 0);
      }),
    );
    return calls.reduce((sum, count) => sum + count, 0) / CYCLES;
  }

  it('two at each node, where their clocks agree: the second phase is seldom needed', async () => {
    const [locker] = (await start(3)) as [Locker];
    const scripts = await scriptsPerCycle(locker, () => 'k');
    expect(scripts).toBeGreaterThanOrEqual(2 * 3);
    expect(scripts).toBeLessThan(2 * 3 + 0.5);
  });

  it('and one more for each node that is told the token, where one of them is far ahead', async () => {
    const [locker] = (await start(3)) as [Locker];
    const ahead = (Date.now() + 3_600_000) * 1_000;
    const keyOf = (cycle: number) => `k ${cycle}`;
    const first = new Redis((servers[0] as RedisServer).url);
    for (let cycle = 0; cycle < CYCLES; cycle += 1) {
      await first.set(`lock:{${keyOf(cycle)}}`, freeRecord(ahead), 'PX', 7_200_000);
    }
    first.disconnect();
    // Either it told the others, or two of these told it.
    expect(await scriptsPerCycle(locker, keyOf)).toBeGreaterThanOrEqual(2 * 3 + 1);
  });
});

it('a frozen node is waited for once, not in each call, and not by those whom a majority grants', async () => {
  const nodeTimeout = 500;
  const [one, two] = (await start(3, 2, { nodeTimeout })) as [Locker, Locker];
  const frozen = servers[0] as RedisServer;
  const calls = 30;
  frozen.pause();
  try {
    const since = performance.now();
    for (let call = 0; call < calls; call += 1) {
      const lock = await one.acquire('k');
      expect(await two.tryAcquire('k')).toBeNull();
      // Who waits is told by all nodes.
      const next = two.acquire('k', { waitTimeout: '5s' });
      await eventually(async () => (await two.inspect('k')).pending.length === 1);
      await lock.release();
      await (await next).release();
    }
    expect((performance.now() - since) / (calls * nodeTimeout)).toBeLessThan(0.5);
  } finally {
    frozen.resume();
  }
});

it('a node that does not answer is waited for as long as a node may take, not as long as a call may', async () => {
  const options = { nodeTimeout: 500, commandTimeout: '20s' } as const;
  const [locker] = (await start(3, 1, options)) as [Locker];
  await (await locker.acquire('first')).release();
  const lock = await locker.acquire('k', { ttl: '60s' });
  const frozen = servers[0] as RedisServer;
  frozen.pause();
  try {
    // All nodes are asked, and each is waited for.
    const { held } = await eventually(() => locker.inspect('k'), { message: 'it is inspected' });
    expect(held).toMatchObject([{ fencingToken: lock.fencingToken }]);
    expect(lock.isHeld).toBe(true);
  } finally {
    frozen.resume();
  }
});

it.each([
  ['one key', 'k'],
  ['several keys', ['k', 'l']],
] as const)(
  'a command (%s) that comes to a node once the node was no longer waited for takes nothing there',
  async (_what, key) => {
    servers = await RedisServer.startMany(3);
    const [way] = (await proxied(2)) as [TcpProxy];
    const connection = [...servers.slice(0, 2).map(({ url }) => url), way.url];
    const nodeTimeout = 200;
    const locker = await open(connection, { nodeTimeout, commandTimeout: '20s' });
    // The scripts and the nodes' clocks are known then.
    await (await locker.acquire(key)).release();
    await nothingIsLeft();
    const node = servers[2] as RedisServer;
    const { sha1 } = key === 'k' ? acquireScript : acquireAllScript;
    let command = Buffer.alloc(0);
    way.onRequest = (bytes) => {
      if (command.length === 0 && bytes.includes(sha1)) command = Buffer.from(bytes);
      return 'pass';
    };
    const sentAt = performance.now();
    const lock = await locker.acquire(key, { ttl: '60s' });
    await eventually(() => command.length > 0, { message: 'it was sent to the third node, too' });
    await lock.release();
    await nothingIsLeft();
    await eventually(() => performance.now() > sentAt + 2 * nodeTimeout);
    // Nobody gives back any more what it would take.
    expect(await sendRaw(node.port, command)).toContain('late');
    expect((await onEach((client) => keysInUse(client))).flat()).toEqual([]);
  },
);

it('four processes exclude each other while one node after the other crashes and comes back', async () => {
  servers = await RedisServer.startMany(3, { persistence: 'aof' });
  const connection = servers.map(({ url }) => url);
  const replicas = await Replica.startMany(4);
  const seconds = 8;
  try {
    const errors: RemoteError[] = [];
    let grants = 0;
    const end = monotonic() + seconds * 1_000;
    const takers = replicas.map(async (replica) => {
      const locker = await replica.open({ connection, ttl: 2_000, waitTimeout: 5_000 });
      while (monotonic() < end) {
        try {
          const lock = await locker.acquire('k');
          grants += 1;
          await lock.release();
        } catch (error) {
          errors.push(error as RemoteError);
          // Where a node that is back hasn't loaded its data yet, and the next crashes: it's soon there.
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    });
    const someGrants = async (): Promise<void> => {
      const known = grants;
      await eventually(() => grants > known + 8 || monotonic() > end, {
        message: 'locks are granted',
      });
    };
    let restarts = 0;
    while (monotonic() < end) {
      const server = servers[restarts % 3] as RedisServer;
      await server.kill();
      // The others go on without it, and with it: the next one crashes only when they are back at this one.
      await someGrants();
      await server.restart();
      restarts += 1;
      await someGrants();
    }
    await Promise.all(takers);
    const beliefs = (await Promise.all(replicas.map((replica) => replica.beliefs()))).flat();
    process.stdout.write(
      `crashing nodes: ${grants} grants, ${restarts} restarts, ${errors.length} times no quorum\n`,
    );
    expect(errors.filter(({ reason }) => reason !== 'quorum')).toEqual([]);
    expect(beliefs).toHaveLength(grants);
    expect(grants).toBeGreaterThan(20);
    expect(restarts).toBeGreaterThan(2);
    expect(contradictions(beliefs)).toEqual([]);
  } finally {
    await Promise.all(replicas.map((replica) => replica.kill()));
  }
}, 60_000);
