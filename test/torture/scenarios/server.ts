/**
 * A server that fails: stopped, killed and started again with more or less of its data, emptied, short of memory.
 *
 * Where it loses what it has acknowledged, no lock without a guard can exclude others: the next to ask finds the key free.
 * What is promised then is that fencing tokens go on rising, that the resource takes no stale write, and that everybody ends
 * in time. The guard closes it: a server that isn't the one which gave the leases waits until they must have ended.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { machineNow } from '../../../bench/machine-clock.js';
import { EVERYTHING, everythingBut, UNORDERED, type Scenario, type Stage } from '../scenario.js';
import { DurableSite } from '../sites/durable.js';
import { SingleSite } from '../sites/single.js';

const dataKept = { promised: UNORDERED, guarded: UNORDERED, shows: [] } as const;

const dataLost = {
  promised: everythingBut('I1', 'I4', 'I6', 'I9'),
  guarded: everythingBut('I4', 'I6'),
  because:
    'The server forgets what it has acknowledged, and a key is given twice (I1, and I9 with it), unless the guard is on. Who lost his record is told that it was taken (I4).',
  shows: [
    { subject: 'ours', invariant: 'I1' },
    { subject: 'bare', invariant: 'I1' },
  ],
} as const;

export const serverStopped: Scenario<SingleSite> = {
  ...dataKept,
  name: 'server-stopped',
  topology: 'single',
  about: 'The server is stopped (SIGSTOP) for up to 2 ttl, and goes on.',
  // So that all have recovered before the next.
  pauses: [800, 1_600],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    const at = machineNow();
    stage.site.server.pause();
    await pause(stage.between(0.1, 2) * stage.ttl);
    stage.site.server.resume();
    stage.note('server stopped', { at, back: machineNow() });
  },
};

export const scriptsFlushed: Scenario<SingleSite> = {
  promised: EVERYTHING,
  guarded: EVERYTHING,
  shows: [],
  name: 'scripts-flushed',
  topology: 'single',
  about: 'SCRIPT FLUSH: the server knows none of the scripts any more.',
  pauses: [20, 200],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    await stage.site.server.command('SCRIPT', 'FLUSH');
    stage.note('scripts flushed');
  },
};

export const restartEmpty: Scenario<SingleSite> = {
  ...dataLost,
  name: 'restart-empty',
  topology: 'single',
  about: 'The server has no persistence, is killed (SIGKILL) and started again.',
  pauses: [1_500, 2_500],
  open: (processes) => SingleSite.open(processes),
  fault: restart,
};

export const restartEverySecond: Scenario<DurableSite> = {
  ...dataKept,
  name: 'restart-aof-everysec',
  topology: 'single',
  about:
    'The server appends to a file that is synced every second, is killed and started again: the system still has what it wrote.',
  pauses: [1_500, 2_500],
  open: (processes) => DurableSite.openDurable(processes, 'everysec'),
  fault: restart,
};

export const powerLostEverySecond: Scenario<DurableSite> = {
  ...dataLost,
  name: 'power-lost-aof-everysec',
  topology: 'single',
  about:
    'The same, but the machine loses its power: what was written within up to the last second is lost.',
  pauses: [1_500, 2_500],
  open: (processes) => DurableSite.openDurable(processes, 'everysec'),
  async fault(stage) {
    const at = machineNow();
    await stage.site.losePower(stage.between(200, 1_000));
    stage.note('power lost', { at, back: machineNow() });
  },
};

export const restartAlways: Scenario<DurableSite> = {
  ...dataKept,
  name: 'restart-aof-always',
  topology: 'single',
  about: 'The server syncs its file before each reply, is killed and started again.',
  pauses: [1_500, 2_500],
  open: (processes) => DurableSite.openDurable(processes, 'always'),
  fault: restart,
};

export const flushed: Scenario<SingleSite> = {
  ...dataLost,
  name: 'flushall',
  topology: 'single',
  about: 'FLUSHALL.',
  pauses: [1_500, 2_500],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    await stage.site.server.command('FLUSHALL');
    stage.note('flushed', { back: machineNow() });
  },
};

/** As many bytes as a server with so little memory can't keep. */
const FILLER = 'x'.repeat(20_000);
const FILLERS = 200;

export const evicted: Scenario<SingleSite> = {
  name: 'eviction',
  topology: 'single',
  about: 'The server evicts (maxmemory, allkeys-random) while others fill it with their data.',
  promised: dataLost.promised,
  guarded: dataLost.promised,
  because:
    "Keys of locks are evicted like any others (I1, I4, I9), and the guard doesn't see it: the server is the same. Locks need `maxmemory-policy noeviction`.",
  shows: [{ subject: 'bare', invariant: 'I1' }],
  pauses: [100, 200],
  open: (processes) =>
    SingleSite.open(processes, {
      args: ['--maxmemory', '4mb', '--maxmemory-policy', 'allkeys-random'],
    }),
  async fault(stage) {
    const redis = new Redis(stage.site.server.url);
    try {
      await Promise.all(
        Array.from({ length: FILLERS }, (_, n) => redis.set(`filler:${n}`, FILLER, 'PX', 500)),
      );
      stage.note('filled up');
    } finally {
      redis.disconnect();
    }
  },
};

export async function restart(stage: Stage<SingleSite>): Promise<void> {
  const at = machineNow();
  await stage.site.server.restart();
  stage.note('server restarted', { at, back: machineNow() });
}
