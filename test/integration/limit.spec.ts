/**
 * A limit over processes of which one has its clock an hour ahead and one gets killed: by the server's time alone a place
 * is free, so a fast clock frees nobody else's, and a crashed holder's comes back after its ttl.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { type RemoteLocker, Replica } from './support/replica.js';

const LIMIT = 3;
const PROCESSES = 4;
const TTL = 1_000;
const TURNS = 60;

describe(`limit ${LIMIT}, ${PROCESSES} processes`, () => {
  let server: RedisServer;
  let redis: Redis;
  let replicas: Replica[];
  let lockers: RemoteLocker[];

  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    replicas = await Replica.startMany(PROCESSES);
    await replicas[0]?.skewWallClock(3_600_000);
    lockers = await Promise.all(
      replicas.map((replica) => {
        const options = {
          connection: server.url,
          limit: LIMIT,
          ttl: TTL,
          waitTimeout: '30s',
        } as const;
        return replica.open(options);
      }),
    );
  }, 60_000);

  afterAll(async () => {
    await Promise.all(replicas.map((replica) => (replica.alive ? replica.quit() : undefined)));
    redis?.disconnect();
    await server?.stop();
  });

  it('one of them with its clock 1 h ahead: never more than the limit, each with a fencing token of its own', async () => {
    let most = 0;
    const fences: number[] = [];
    await Promise.all(
      Array.from({ length: TURNS }, async (_, i) => {
        const locker = lockers[i % PROCESSES] as RemoteLocker;
        const lock = await locker.acquire('places');
        fences.push(lock.fencingToken);
        most = Math.max(most, await redis.incr('inside'));
        // Longer than the ttl now and then: renewed meanwhile, whatever a clock says.
        await new Promise((resolve) => setTimeout(resolve, i % 10 === 0 ? 1.5 * TTL : 20));
        await redis.decr('inside');
        await lock.release();
      }),
    );
    expect(most).toBe(LIMIT);
    expect(new Set(fences).size).toBe(TURNS);
  }, 60_000);

  it("a killed holder's place comes back after its ttl", async () => {
    const killed = lockers[PROCESSES - 1] as RemoteLocker;
    const [first, second, third] = [
      await killed.acquire('place'),
      await (lockers[0] as RemoteLocker).acquire('place'),
      await (lockers[1] as RemoteLocker).acquire('place'),
    ];
    const waiting = (lockers[2] as RemoteLocker).acquire('place');
    await eventually(
      async () => (await (lockers[0] as RemoteLocker).inspect('place')).value.pending.length === 1,
    );
    await replicas[PROCESSES - 1]?.kill();
    const next = await waiting;
    expect(next.fencingToken).toBeGreaterThan(first.fencingToken);
    expect((await (lockers[0] as RemoteLocker).inspect('place')).value.held).toHaveLength(LIMIT);
    for (const lock of [second, third, next]) await lock.release();
  }, 30_000);
});
