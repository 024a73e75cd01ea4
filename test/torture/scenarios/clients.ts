/** Clients that fail, over one server. Nothing of that may harm anybody else: all is promised with no options. */
import { setTimeout as pause } from 'node:timers/promises';
import { EVERYTHING, type Scenario, type Stage } from '../scenario.js';
import { SingleSite } from '../sites/single.js';

const promises = { promised: EVERYTHING, guarded: EVERYTHING, shows: [] } as const;

export const calm: Scenario<SingleSite> = {
  ...promises,
  name: 'calm',
  topology: 'single',
  about: 'Nothing fails: what is found here is wrong with the judge or with the load.',
  pauses: [200, 400],
  open: (processes) => SingleSite.open(processes),
  async fault() {},
};

export const clientKilled: Scenario<SingleSite> = {
  ...promises,
  name: 'client-killed',
  topology: 'single',
  about: 'A process is killed (SIGKILL) at a random moment, and replaced.',
  pauses: [100, 900],
  open: (processes) => SingleSite.open(processes),
  fault: killClient,
};

export async function killClient(stage: Stage): Promise<void> {
  const place = stage.place();
  stage.note('client killed', { killed: stage.crew.nameOf(place) });
  await stage.crew.replace(place);
}

export const clientStopped: Scenario<SingleSite> = {
  ...promises,
  name: 'client-stopped',
  topology: 'single',
  about: 'A process is stopped (SIGSTOP) for up to 2.5 ttl at a random moment, and goes on.',
  pauses: [50, 400],
  open: (processes) => SingleSite.open(processes),
  fault: stopClient,
};

export async function stopClient(stage: Stage): Promise<void> {
  const place = stage.place();
  stage.crew.pause(place);
  stage.note('client stopped');
  await pause(stage.between(0.1, 2.5) * stage.ttl);
  stage.crew.resume(place);
}

export const loopBlocked: Scenario<SingleSite> = {
  ...promises,
  name: 'loop-blocked',
  topology: 'single',
  about: "A process's event loop is busy for up to 2.5 ttl.",
  pauses: [200, 800],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    const length = stage.between(0.5, 2.5) * stage.ttl;
    stage.crew.block(stage.place(), length);
    stage.note('event loop blocked');
    await pause(length);
  },
};
