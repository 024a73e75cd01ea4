/**
 * P1, P2, P4, P7 on a Cluster that changes under load: slots move step by step, and a master crashes, while three
 * processes take, wait for, renew and give back locks of every mode.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { LockName } from '../../lib/core/lock-name.js';
import { hashSlotOf } from '../../lib/core/redis/hash-slot.js';
import { eventually } from '../support/eventually.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { spawnWorker } from '../support/worker.js';
import { contradictions } from './support/beliefs.js';
import type {
  ClusterHold,
  ClusterTakerDone,
  ClusterTakerOptions,
} from './support/cluster-taker.js';

const PROCESSES = 3;
const WAIT_TIMEOUT = 10_000;
const COMMAND_TIMEOUT = 2_000;
const SLACK = 1_000;
const LIMIT = 2;
const TAKES: ClusterTakerOptions['takes'] = [
  ['a', {}],
  ['b', {}],
  ['rw', {}],
  ['limited', { limit: LIMIT }],
  ['rw', { mode: 'shared' }],
  ['c', {}],
  ['limited', { limit: LIMIT }],
  ['rw', { mode: 'shared' }],
];
const KEYS = [...new Set(TAKES.map(([key]) => key))];

/** Loads a Cluster from several processes while `during` runs, and says what they saw. */
async function underLoad(
  nodes: RedisCluster,
  during: () => Promise<void>,
): Promise<readonly ClusterTakerDone[]> {
  const options: ClusterTakerOptions = {
    nodes: nodes.addresses,
    locker: { ttl: 2_000, commandTimeout: COMMAND_TIMEOUT, waitTimeout: WAIT_TIMEOUT },
    takes: TAKES,
    workers: TAKES.length,
  };
  const takers = Array.from({ length: PROCESSES }, () =>
    spawnWorker<ClusterTakerDone | 'ready', 'stop'>(
      new URL('./support/cluster-taker.ts', import.meta.url),
      { args: [JSON.stringify(options)] },
    ),
  );
  try {
    await Promise.all(takers.map((taker) => taker.next((message) => message === 'ready', 20_000)));
    await during();
    for (const taker of takers) taker.send('stop');
    return await Promise.all(
      takers.map((taker) =>
        taker.next((message): message is ClusterTakerDone => message !== 'ready', 30_000),
      ),
    );
  } finally {
    await Promise.all(takers.map((taker) => taker.kill()));
  }
}

/** Holds of one key at one time that may not be: a writer beside anybody, more than the limit. */
function forbidden(holds: readonly ClusterHold[]): ClusterHold[][] {
  const found: ClusterHold[][] = [];
  for (const key of KEYS) {
    let inside: ClusterHold[] = [];
    for (const hold of holds.filter((one) => one.key === key).toSorted((x, y) => x.from - y.from)) {
      inside = [...inside.filter(({ to }) => to >= hold.from), hold];
      const alone = inside.some(({ mode }) => mode === 'exclusive') && inside.length > 1;
      const tooMany = hold.mode === 'limited' && inside.length > LIMIT;
      if (alone || tooMany) found.push(inside);
    }
  }
  return found;
}

function summed(done: readonly ClusterTakerDone[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { outcomes } of done) {
    for (const [outcome, count] of Object.entries(outcomes)) {
      sum[outcome] = (sum[outcome] ?? 0) + count;
    }
  }
  return sum;
}

describe('A Cluster under load', () => {
  it('may be resharded: nobody holds what another holds, nothing is lost, everybody is served', async () => {
    await using nodes = await RedisCluster.start({ masters: 3, replicas: 0 });
    let moves = 0;
    const done = await underLoad(nodes, async () => {
      const until = performance.now() + 6_000;
      while (performance.now() < until) {
        for (const key of KEYS) {
          const slot = hashSlotOf(LockName.of('lock', key).owner);
          const target = await nodes.masterOtherThan(await nodes.masterOf(slot));
          const move = await nodes.beginMove(slot, target);
          await pause(20);
          // Some come back as long as it isn't finished: a holder renews, a waiter asks.
          await eventually(async () => {
            await move.keys();
            await pause(20);
            await move.finish();
            return true;
          });
          moves += 1;
        }
      }
    });
    const holds = done.flatMap((each) => each.holds);
    expect(moves).toBeGreaterThan(KEYS.length);
    expect(forbidden(holds)).toEqual([]);
    expect(
      contradictions(holds.filter(({ mode, key }) => mode === 'exclusive' && key !== 'rw')),
    ).toEqual([]);
    expect(done.map(({ lost }) => lost)).toEqual(done.map(() => 0));
    const { granted = 0, ...others } = summed(done);
    expect([others, granted > 100]).toEqual([{}, true]);
  }, 90_000);

  it('may lose a master: every call ends within its bound, and all go on when its replica has taken over', async () => {
    await using nodes = await RedisCluster.start({ masters: 3, replicas: 1 });
    let recoveredAt = 0;
    const done = await underLoad(nodes, async () => {
      await pause(1_000);
      await nodes.killMaster(await nodes.masterOf(LockName.of('lock', 'a').owner));
      recoveredAt = Number(process.hrtime.bigint()) / 1e6;
      await pause(5_000);
    });
    for (const { longestCall, lastGrants } of done) {
      expect(longestCall).toBeLessThan(WAIT_TIMEOUT + COMMAND_TIMEOUT + SLACK);
      // Well after what was held at the crash has ended.
      expect(Math.min(...lastGrants)).toBeGreaterThan(recoveredAt + 1_000);
    }
  }, 90_000);
});
