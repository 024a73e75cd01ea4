/**
 * Failovers by Sentinels. Replication is asynchronous: what the master acknowledged and the replica hasn't heard of yet is
 * lost with the master, and until clients hear of a new one, two may grant. The guard closes both, where it's told how long
 * an old master may go on (`lag`), and the servers are told to stop by then (`min-replicas-to-write`).
 */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../../bench/machine-clock.js';
import { everythingBut, type Scenario, type Stage } from '../scenario.js';
import { SentinelSite } from '../sites/sentinel.js';

/** How long a Sentinel waits until it takes a server for gone, in ms. */
const DOWN_AFTER = 800;
/** How old the last word of a replica may be for a master to take writes, in s. */
const MAX_LAG = 2;

const common = {
  topology: 'sentinel',
  promised: everythingBut('I1', 'I4', 'I6', 'I9'),
  guarded: everythingBut('I4', 'I6'),
  // A failover takes some seconds; leases that end meanwhile can't be given twice.
  ttl: 6_000,
  keys: 24,
  lag: (MAX_LAG + 1) * 1_000,
  pauses: [1_500, 3_000],
  shortest: 40,
} as const;

export const failoverLostWrite: Scenario<SentinelSite> = {
  ...common,
  name: 'failover-lost-write',
  about:
    'The links to the replicas are cut, the master is killed a moment later, and a replica is elected that has missed what was granted in between. The old master comes back as a replica.',
  because: 'A key is given twice (I1, I9), unless the guard is on; a record is lost (I4).',
  shows: [
    { subject: 'ours', invariant: 'I1' },
    { subject: 'bare', invariant: 'I1' },
  ],
  open: () => SentinelSite.open({ downAfter: DOWN_AFTER }),
  async fault(stage) {
    const { site } = stage;
    const { group } = site;
    await site.cutReplicas();
    await pause(stage.between(1_000, 2_500));
    const at = machineNow();
    const old = group.master;
    await group.killMaster();
    stage.note('failover', { at, back: machineNow() });
    await old.restart();
    await site.restoreLinks();
    await pause(stage.ttl);
    await stage.site.settled();
  },
};

export const masterIsolated: Scenario<SentinelSite> = {
  ...common,
  name: 'master-isolated',
  about: `The master is cut off from Sentinels and replicas, and another is elected, while its clients still reach it. It takes no more writes once no replica was heard of for ${MAX_LAG} s (min-replicas-to-write 1, min-replicas-max-lag ${MAX_LAG}). Then it's made a replica.`,
  because: 'Two masters grant for a while (I1, I9), unless the guard is on; a record is lost (I4).',
  // With these settings it's rare: the old master stops soon after the new one is elected.
  shows: [],
  open: () =>
    SentinelSite.open({
      downAfter: DOWN_AFTER,
      args: ['--min-replicas-to-write', '1', '--min-replicas-max-lag', String(MAX_LAG)],
    }),
  fault: isolateMaster,
};

export const masterIsolatedWritable: Scenario<SentinelSite> = {
  ...common,
  name: 'master-isolated-writable',
  about:
    'The same without min-replicas-to-write: the old master takes what is written up to its end. A process that starts meanwhile is sent to the new one.',
  guarded: everythingBut('I1', 'I4', 'I6', 'I9'),
  because:
    'Two masters grant at a time (I1, I9), and what the old one granted is lost (I4). The guard has the new master wait for as long as it was told that an old one may go on (`lag`); here nothing makes the old one stop. `diagnose()` asks for `min-replicas-to-write`.',
  shows: [{ subject: 'bare', invariant: 'I1' }],
  open: () => SentinelSite.open({ downAfter: DOWN_AFTER }),
  async fault(stage) {
    await isolateMaster(stage, async () => {
      const place = stage.place();
      stage.note('client killed', { killed: stage.crew.nameOf(place) });
      await stage.crew.replace(place);
      await pause(stage.lag + stage.ttl);
    });
  },
};

async function isolateMaster(
  stage: Stage<SentinelSite>,
  meanwhile = () => Promise.resolve(),
): Promise<void> {
  const { group } = stage.site;
  const at = machineNow();
  const old = group.master;
  await group.isolateMaster();
  stage.note('failover', { at, back: machineNow() });
  await meanwhile();
  await pause(stage.ttl);
  await group.rejoin(old);
  await stage.site.settled();
}

export const failoverPlanned: Scenario<SentinelSite> = {
  ...common,
  name: 'failover-planned',
  about: 'A failover is ordered (SENTINEL FAILOVER), with all links whole.',
  because:
    'What was granted in the last moment may not have reached the replica: a key may be given twice (I1, I9), unless the guard is on; a record may be lost (I4).',
  shows: [],
  open: () => SentinelSite.open({ downAfter: DOWN_AFTER }),
  async fault(stage) {
    const at = machineNow();
    await stage.site.group.failover();
    stage.note('failover', { at, back: machineNow() });
    await stage.site.settled();
  },
};
