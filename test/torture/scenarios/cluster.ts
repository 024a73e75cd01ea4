/** A Cluster whose masters fail over and whose slots move. As with Sentinels, a failover may lose what was acknowledged. */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../../bench/machine-clock.js';
import { UNORDERED, everythingBut, type Scenario } from '../scenario.js';
import { ClusterSite } from '../sites/cluster.js';

/** How long a node says nothing until others take it for gone, in ms. */
const NODE_TIMEOUT = 1_000;

export const clusterFailover: Scenario<ClusterSite> = {
  name: 'cluster-failover-lost-write',
  topology: 'cluster',
  about:
    "A master's link to its replica is cut, the master is killed a moment later, and the replica takes over. The old master comes back as a replica.",
  promised: everythingBut('I1', 'I4', 'I6', 'I9'),
  guarded: everythingBut('I4', 'I6'),
  because: 'A key is given twice (I1, I9), unless the guard is on; a record is lost (I4).',
  shows: [{ subject: 'bare', invariant: 'I1' }],
  // A failover takes some seconds.
  ttl: 6_000,
  keys: 24,
  lag: NODE_TIMEOUT,
  pauses: [1_500, 3_000],
  shortest: 40,
  open: () => ClusterSite.open(NODE_TIMEOUT),
  async fault(stage) {
    const { site } = stage;
    const { cluster } = site;
    const master = stage.pick(await cluster.masters());
    await site.cutReplicas(master);
    await pause(stage.between(1_000, 2_500));
    const at = machineNow();
    await cluster.killMaster(master);
    stage.note('failover', { at, back: machineNow() });
    await master.restart();
    await cluster.isOk();
    await cluster.inSync();
  },
};

export const slotMoved: Scenario<ClusterSite> = {
  name: 'slot-moved',
  topology: 'cluster',
  about: 'The slot of a key moves to another master, with the key.',
  promised: UNORDERED,
  guarded: UNORDERED,
  shows: [],
  pauses: [200, 800],
  shortest: 15,
  open: () => ClusterSite.open(NODE_TIMEOUT),
  async fault(stage) {
    const { cluster } = stage.site;
    const key = stage.pick(stage.crew.keys);
    // redis-semaphore's is called by another name.
    const slot = await cluster.slotOf(stage.pick([key, key, `mutex:${key}`]));
    const target = await cluster.masterOtherThan(await cluster.masterOf(slot));
    const move = await cluster.beginMove(slot, target);
    await pause(stage.between(0, 100));
    await move.keys();
    await move.finish();
    stage.note('slot moved');
  },
};
