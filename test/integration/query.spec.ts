/**
 * `query` over what Redis is in earnest: a Cluster of several masters, a server full of other things, an application
 * with a key prefix of its own; and what it says when one of them can't be asked.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cluster, Redis } from 'ioredis';
import { Locker } from '../../lib/core/locker.js';
import type { LockConnection } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

function open(connection: LockConnection, prefix?: string): Locker & AsyncDisposable {
  const locker = new Locker({
    connection,
    drainTimeout: 1,
    commandTimeout: 1_000,
    ...(prefix !== undefined && { prefix }),
  });
  return Object.assign(locker, { [Symbol.asyncDispose]: () => locker.close() });
}

const keysOf = async (locker: Locker, pattern?: string): Promise<string[]> =>
  (await locker.query(pattern)).map(({ key }) => key);

describe('query on one server', () => {
  let server: RedisServer;
  let redis: Redis;

  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
  });

  afterAll(async () => {
    redis.disconnect();
    await server.stop();
  });

  it('finds the few locks among many other keys, by SCAN alone', async () => {
    const others = redis.pipeline();
    for (let i = 0; i < 20_000; i += 1) others.set(`lock:other:${i}`, 'x');
    await others.exec();
    await using locker = open(server.url);
    await Promise.all(['b', 'a', 'c'].map((key) => locker.acquire(key)));
    await redis.config('RESETSTAT');
    expect(await keysOf(locker)).toEqual(['a', 'b', 'c']);
    const stats = await redis.info('commandstats');
    expect(stats).toContain('cmdstat_scan:');
    expect(stats).not.toContain('cmdstat_keys:');
  });

  it('is not misled by keys of other types or makings that look alike', async () => {
    await redis.flushall();
    await using locker = open(server.url);
    await locker.acquire('k');
    await redis.rpush('lock:{list}', 'x');
    await redis.set('lock:{set by hand}', 'maintenance');
    await redis.set('lock:{%zz}', 'h 1 2 3 {}');
    await redis.set('lock:{}', 'x');
    await redis.zadd('lock:{ended}:q', 1, 'token');
    await redis.set(Buffer.from([...Buffer.from('lock:{'), 0xff, ...Buffer.from('}')]), 'x');
    expect(await keysOf(locker)).toEqual(['k']);
  });

  it("finds what is under the connection's own key prefix, and nothing else", async () => {
    await redis.flushall();
    const shop = new Redis(server.url, { keyPrefix: 'shop[1]*:', lazyConnect: true });
    await using ofShop = open(shop);
    await using plain = open(server.url);
    await ofShop.acquire('in the shop');
    await plain.acquire('outside');
    expect(await keysOf(ofShop)).toEqual(['in the shop']);
    expect(await keysOf(plain)).toEqual(['outside']);
    shop.disconnect();
  });

  it('fails within its bound where the server does not answer in the middle of it', async () => {
    await using proxy = await TcpProxy.start(server.port);
    await using locker = open(proxy.url);
    await locker.acquire('k');
    proxy.hold();
    const from = performance.now();
    await expect(locker.query()).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
      reason: 'no-answer',
    });
    expect(performance.now() - from).toBeLessThan(1_500);
    proxy.resume('down');
    proxy.resume('up');
  });
});

describe('query on a Cluster', () => {
  let redisCluster: RedisCluster;
  let nodes: readonly RedisServer[];
  let cluster: Cluster;

  beforeAll(async () => {
    redisCluster = await RedisCluster.start({ replicas: 0 });
    nodes = redisCluster.nodes;
    cluster = new Cluster([{ host: '127.0.0.1', port: nodes[0]?.port as number }], {
      lazyConnect: true,
    });
  }, 60_000);

  afterAll(async () => {
    cluster.disconnect();
    await redisCluster.stop();
  });

  it('finds the locks of all masters', async () => {
    await using locker = open(cluster);
    const keys = Array.from({ length: 60 }, (_, index) => `order:${100 + index}`);
    await Promise.all(keys.map((key) => locker.acquire(key)));
    const sizes = await Promise.all(nodes.map((node) => node.command('DBSIZE')));
    for (const size of sizes) expect(Number(size.slice(1))).toBeGreaterThan(5);
    expect(await keysOf(locker)).toEqual(keys);
    expect(await keysOf(locker, 'order:10?')).toEqual(keys.slice(0, 10));
  });

  it('fails where one of them cannot be asked: what it knows would be missing', async () => {
    await using locker = open(cluster);
    await locker.acquire('k');
    expect(await keysOf(locker, '*')).toContain('k');
    const paused = nodes[1] as RedisServer;
    paused.pause();
    try {
      const from = performance.now();
      await expect(locker.query()).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE' });
      expect(performance.now() - from).toBeLessThan(1_500);
    } finally {
      paused.resume();
    }
    await eventually(() => keysOf(locker), { timeout: 10_000 });
  });
});
