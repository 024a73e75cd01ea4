/** What the groups of servers promise to the specs that use them. */
import { describe, expect, it } from '@jest/globals';
import { eventually } from './eventually.js';
import { RedisCluster } from './redis-cluster.js';
import { RedisReplication } from './redis-replication.js';
import { RedisSentinels } from './redis-sentinel.js';
import type { RedisServer } from './redis-server.js';

const LONG = 60_000;
const has = async (server: RedisServer, key: string) =>
  (await server.order('EXISTS', key)) === ':1\r\n';

describe('RedisReplication', () => {
  it('replicates; a cut link loses what is written meanwhile, for one replica alone', async () => {
    await using group = await RedisReplication.start({ replicas: 2 });
    const [cut, linked] = group.replicas as [RedisServer, RedisServer];
    await group.master.order('SET', 'before', '1');
    await group.inSync();
    expect(await has(cut, 'before')).toBe(true);

    await group.cutLink(cut);
    await group.master.order('SET', 'meanwhile', '1');
    await group.inSync([linked]);
    expect(await has(linked, 'meanwhile')).toBe(true);
    expect(await has(cut, 'meanwhile')).toBe(false);

    await group.restoreLink(cut);
    await group.inSync();
    expect(await has(cut, 'meanwhile')).toBe(true);
  });

  it('promotes a replica with what it has; the old master follows it, also after a restart', async () => {
    await using group = await RedisReplication.start();
    const [old, replica] = group.servers as [RedisServer, RedisServer];
    await group.cutLink(replica);
    await old.order('SET', 'lost', '1');
    await group.promote(replica);
    expect(group.master).toBe(replica);
    await group.inSync();
    expect(await old.command('SET', 'a', '1')).toMatch(/^-READONLY/);
    expect(await has(old, 'lost')).toBe(false);
    await old.restart();
    await group.inSync();
  });

  it('promotes a replica behind the back of the old master, which goes on', async () => {
    await using group = await RedisReplication.start();
    const [old, replica] = group.servers as [RedisServer, RedisServer];
    await group.promote(replica, { oldMaster: 'stays' });
    expect(await old.order('SET', 'a', '1')).toBe('+OK\r\n');
    expect(await replica.order('SET', 'a', '2')).toBe('+OK\r\n');
  });
});

describe('RedisSentinels', () => {
  it(
    'elects another master: planned, when it is killed, and when it is isolated but still takes writes',
    async () => {
      await using watched = await RedisSentinels.start();
      const first = watched.master;
      await first.order('SET', 'a', '1');
      await watched.inSync();

      const second = await watched.failover();
      expect(second).not.toBe(first);
      expect(await has(second, 'a')).toBe(true);
      await watched.inSync();
      expect(await first.command('SET', 'b', '1')).toMatch(/^-READONLY/);

      const third = await watched.killMaster();
      expect(third).not.toBe(second);
      await second.restart();
      await watched.inSync();

      const fourth = await watched.isolateMaster();
      expect(fourth).not.toBe(third);
      expect(await third.order('SET', 'c', '1')).toBe('+OK\r\n');
      expect(await has(fourth, 'c')).toBe(false);
      await watched.rejoin(third);
      await eventually(async () => (await third.info('replication'))['role'] === 'slave', {
        timeout: 30_000,
      });
      await watched.inSync();
    },
    2 * LONG,
  );
});

describe('RedisCluster', () => {
  it(
    'moves a slot step by step: ASK, TRYAGAIN, then MOVED',
    async () => {
      await using cluster = await RedisCluster.start();
      expect(await cluster.masters()).toHaveLength(3);
      const slot = await cluster.slotOf('{k}');
      const source = await cluster.masterOf('{k}');
      const target = await cluster.masterOtherThan(source);
      await source.order('MSET', '{k}1', '1', '{k}2', '1');

      const move = await cluster.beginMove(slot, target);
      expect(await source.command('GET', '{k}3')).toBe(`-ASK ${slot} 127.0.0.1:${target.port}\r\n`);
      await move.keys(['{k}1']);
      expect(await source.command('MGET', '{k}1', '{k}2')).toMatch(/^-(TRYAGAIN|ASK)/);
      await move.keys();
      await move.finish();
      expect(await source.command('GET', '{k}1')).toBe(
        `-MOVED ${slot} 127.0.0.1:${target.port}\r\n`,
      );
      expect(await target.command('EXISTS', '{k}1', '{k}2')).toBe(':2\r\n');
      await cluster.isOk();
      expect(await cluster.masterOf('{k}')).toBe(target);
      await cluster.moveSlot(slot, source);
      expect(await cluster.masterOf('{k}')).toBe(source);
    },
    LONG,
  );

  it(
    'a replica takes over from its master: planned, and when it is killed',
    async () => {
      await using cluster = await RedisCluster.start();
      const master = await cluster.masterOf('k');
      await master.order('SET', 'k', '1');
      await cluster.inSync();
      const heir = await cluster.failover(master);
      expect(await cluster.masterOf('k')).toBe(heir);
      expect(await has(heir, 'k')).toBe(true);
      await cluster.inSync();
      expect(await cluster.killMaster(heir)).toBe(master);
      await heir.restart();
      await cluster.isOk();
      await cluster.inSync();
    },
    LONG,
  );
});
