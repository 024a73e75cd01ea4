/**
 * Five independent servers, of which one fails at a time, in turn: a majority of the others goes on. Only one that comes back
 * without its data weakens the majority, where that follows another before the leases of then have ended: the guard makes
 * it wait for these.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../../bench/machine-clock.js';
import { UNORDERED, everythingBut, type Scenario, type Stage } from '../scenario.js';
import { NodesSite } from '../sites/nodes.js';

const common = {
  topology: 'nodes',
  promised: UNORDERED,
  guarded: UNORDERED,
  shows: [],
  pauses: [200, 800],
  open: (processes: number) => NodesSite.open(processes),
} as const;

export const nodeFrozen: Scenario<NodesSite> = {
  ...common,
  name: 'node-frozen',
  about: 'A node is stopped (SIGSTOP) for up to 2 ttl, and goes on.',
  async fault(stage) {
    const server = stage.pick(stage.site.servers);
    server.pause();
    stage.note('node stopped');
    await pause(stage.between(0.1, 2) * stage.ttl);
    server.resume();
  },
};

export const nodePartitioned: Scenario<NodesSite> = {
  ...common,
  name: 'node-partitioned',
  about: 'A process and up to two of the nodes hear nothing of each other for up to 2 ttl.',
  async fault(stage) {
    const place = stage.place();
    const first = Math.floor(stage.random() * stage.site.servers.length);
    const cut = [first, (first + 1) % stage.site.servers.length].slice(0, stage.pick([1, 2]));
    const proxies = cut.map((server) => stage.site.proxy(place, server));
    for (const proxy of proxies) proxy.hold();
    stage.note('partition');
    await pause(stage.between(0.1, 2) * stage.ttl);
    for (const proxy of proxies) proxy.resume();
  },
};

export const clientCutOff: Scenario<NodesSite> = {
  ...common,
  name: 'client-cut-off',
  about:
    'A process hears only a minority of the nodes, for 1.5 to 4 ttl. It gets nothing from them; others go on.',
  shortest: 8,
  async fault(stage) {
    const { site, crew, ttl } = stage;
    const place = stage.place();
    const first = Math.floor(stage.random() * site.servers.length);
    const proxies = [0, 1, 2].map((n) => site.proxy(place, (first + n) % site.servers.length));
    for (const proxy of proxies) proxy.hold();
    const at = machineNow();
    await pause(stage.between(1.5, 4) * ttl);
    stage.note('cut off', { at, cutOff: crew.nameOf(place), until: machineNow() });
    for (const proxy of proxies) proxy.resume();
  },
};

export const nodeKilled: Scenario<NodesSite> = {
  ...common,
  name: 'node-killed',
  about: 'A node is killed (SIGKILL), and comes back, empty, when all leases of then have ended.',
  async fault(stage) {
    const server = stage.pick(stage.site.servers);
    await server.kill();
    stage.note('node killed');
    await pause(1.1 * stage.ttl);
    await server.restart();
  },
};

export const nodesRestartedEmpty: Scenario<NodesSite> = {
  ...common,
  name: 'nodes-restarted-empty',
  about: 'Three nodes, one after the other, are killed and come back at once, empty.',
  promised: everythingBut('I1', 'I4', 'I6', 'I9'),
  guarded: everythingBut('I4', 'I6'),
  because:
    'A majority has forgotten a lease that still lasts (I1, I9), unless the guard is on; who lost his record at a majority is told so (I4).',
  shows: [{ subject: 'ours', invariant: 'I1' }],
  pauses: [2_000, 3_000],
  fault: restartThree,
};

async function restartThree(stage: Stage<NodesSite>): Promise<void> {
  const at = machineNow();
  for (const server of stage.site.servers.slice(0, 3)) await server.restart();
  stage.note('nodes restarted', { at, back: machineNow() });
}
