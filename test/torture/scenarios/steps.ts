/**
 * Clients that are killed or stopped in each step of the protocol, in turn: the proxy before them recognises the step by
 * the command or the reply that passes. Where a command was on its way, it arrives at the server all the same, after its
 * sender's end.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { machineNow } from '../../../bench/machine-clock.js';
import { type Scenario, type Stage, UNORDERED } from '../scenario.js';
import { SingleSite } from '../sites/single.js';
import { type Step, Trap } from '../steps.js';

/** How long a step may take to come, in ms. */
const PATIENCE = 2_000;

const common = {
  topology: 'single',
  // To have it connect, its connection is cut.
  promised: UNORDERED,
  guarded: UNORDERED,
  shows: [],
  pauses: [20, 100],
  // Long enough for each step, some times.
  shortest: 20,
  steps: true,
  open: (processes: number) => SingleSite.open(processes),
} as const;

export const killedInSteps: Scenario<SingleSite> = {
  ...common,
  name: 'client-killed-in-steps',
  about:
    'A process is killed (SIGKILL) in a step of the protocol, each step in turn, and replaced. What it had sent arrives.',
  async fault(stage) {
    const place = stage.place();
    const killed = stage.crew.nameOf(place);
    const step = await strike(stage, place, () => stage.crew.kill(place));
    stage.site.proxy(place).resume();
    if (step === undefined) return;
    await stage.crew.replace(place);
    stage.note('client killed', { ...step, killed });
  },
};

export const stoppedInSteps: Scenario<SingleSite> = {
  ...common,
  name: 'client-stopped-in-steps',
  about:
    'A process is stopped (SIGSTOP) in a step of the protocol, each step in turn, for up to 2.5 ttl; what was on its way arrives meanwhile.',
  async fault(stage) {
    const place = stage.place();
    const stopped = stage.crew.nameOf(place);
    const step = await strike(stage, place, () => stage.crew.pause(place));
    stage.site.proxy(place).resume();
    if (step === undefined) return;
    await pause(stage.between(0.1, 2.5) * stage.ttl);
    stage.crew.resume(place);
    stage.note('client stopped', { ...step, stopped });
  },
};

/** Strikes a process in the step whose turn it is; when, or undefined where the step didn't come. */
async function strike(
  stage: Stage<SingleSite>,
  place: number,
  send: () => void,
): Promise<{ readonly step: Step; readonly at: number } | undefined> {
  const { protocol } = stage;
  if (protocol === undefined) throw new Error("Nobody knows this subject's steps.");
  const step = stage.nextOf(protocol.steps);
  let at = 0;
  const trap = new Trap(stage.site.proxy(place), protocol, () => {
    at = machineNow();
    send();
  });
  const caught = await trap.catch(step, stage.random() < 0.5, PATIENCE);
  return caught ? { step, at } : undefined;
}
