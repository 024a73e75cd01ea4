import { expect } from '@jest/globals';
import { Agenda } from '../../lib/core/agenda.js';
import type { Clock } from '../../lib/core/clock.js';
import type { AnyCaller, Deadlines } from '../../lib/core/waiting-line.js';
import type { FakeClock } from '../support/fake-clock.js';

/** The deadlines of callers as a locker keeps them: whoever's has passed, is told so by its own line. */
export function deadlinesOn(clock: Clock): Deadlines {
  const deadlines: Deadlines = new Agenda<AnyCaller>(clock, true, () => {
    const now = clock.now();
    for (let caller = deadlines.takeDue(now); caller; caller = deadlines.takeDue(now)) {
      caller.line?.timeOut(caller);
    }
  });
  return deadlines;
}

/** Nobody's deadline is watched any more. The timer may fire once more, in vain; meanwhile, it keeps no process alive. */
export function expectNoDeadline(deadlines: Deadlines, clock: FakeClock): void {
  expect(deadlines.size).toBe(0);
  expectNoTimerOf('foreground', clock);
  expect(clock.pending.length).toBeLessThanOrEqual(1);
}

export function expectNoTimerOf(kind: 'foreground' | 'background', clock: FakeClock): void {
  expect(clock.pending.filter((timer) => timer.kind === kind)).toEqual([]);
}
