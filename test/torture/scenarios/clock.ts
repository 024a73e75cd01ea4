/**
 * A server's clock that is moved (libfaketime), while those of its clients go on. Leases end by the server's clock, so P1
 * presupposes that it runs at nearly the rate of others; a jump ahead ends all leases at once, and none of their holders
 * can know. Fencing tokens rise all the same.
 */
import { machineNow } from '../../../bench/machine-clock.js';
import { everythingBut, type Scenario, type Stage } from '../scenario.js';
import { ClockSite } from '../sites/clock.js';

const common = {
  topology: 'single',
  pauses: [800, 1_600],
  open: (processes: number) => ClockSite.open(processes),
  unavailable: () => ClockSite.unavailable(),
} as const;

export const clockAhead: Scenario<ClockSite> = {
  ...common,
  name: 'clock-ahead',
  about: "The server's clock jumps ahead by up to an hour.",
  promised: everythingBut('I1', 'I4', 'I6', 'I9'),
  guarded: everythingBut('I1', 'I4', 'I6', 'I9'),
  because:
    'All leases end at the server, while their holders believe in them: clocks that run at nearly one rate are what P1 presupposes.',
  shows: [{ subject: 'bare', invariant: 'I1' }],
  fault: (stage) => move(stage, stage.pick([stage.between(1, 3) * stage.ttl, 3_600_000])),
};

export const clockBack: Scenario<ClockSite> = {
  ...common,
  name: 'clock-back',
  about: "The server's clock is set back by up to 3 ttl.",
  promised: everythingBut('I5', 'I6'),
  guarded: everythingBut('I5', 'I6'),
  because: 'Leases last longer at the server by as much, and so does what a crash has left (I5).',
  shows: [],
  fault: (stage) => move(stage, -stage.between(0.5, 3) * stage.ttl),
};

async function move(stage: Stage<ClockSite>, by: number): Promise<void> {
  await stage.site.moveClock(by);
  stage.note(`clock moved by ${Math.round(by)} ms`, { back: machineNow() });
}
