/** The one place inside a held lock: one at a time, in turn, and for nobody once the holder is done. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { Reentry } from '../../lib/core/reentry.js';
import type { Deadlines } from '../../lib/core/waiting-line.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { deadlinesOn, expectNoDeadline } from './deadlines.js';

describe('Reentry', () => {
  let clock: FakeClock;
  let deadlines: Deadlines;
  let reentry: Reentry;
  let heard: string[];

  beforeEach(() => {
    clock = new FakeClock();
    heard = [];
    deadlines = deadlinesOn(clock);
    reentry = new Reentry(deadlines, () => 'timed out');
  });

  async function enter(who: string, signal?: AbortSignal): Promise<void> {
    const now = clock.now();
    reentry.enter({ key: 'k', since: now, dueAt: now + 100, signal, heldKeys: [] }).then(
      (outcome) => heard.push(`${who} ${outcome}`),
      (error: unknown) => heard.push(`${who} ${String(error)}`),
    );
    await settled();
  }

  it('lets one in, and the next when it leaves, in turn', async () => {
    for (const who of ['a', 'b', 'c']) await enter(who);
    expect(heard).toEqual(['a entered']);
    for (let n = 0; n < 3; n += 1) {
      reentry.leave();
      await settled();
    }
    expect(heard).toEqual(['a entered', 'b entered', 'c entered']);
    expectNoDeadline(deadlines, clock);
    await enter('d');
    expect(heard.at(-1)).toBe('d entered');
  });

  it('says "busy" to one that does not wait, also between two turns', async () => {
    expect(reentry.tryEnter()).toBe('entered');
    expect(reentry.tryEnter()).toBe('busy');
    await enter('a');
    reentry.leave();
    expect(reentry.tryEnter()).toBe('busy');
    reentry.leave();
    expect(reentry.tryEnter()).toBe('entered');
  });

  it('tells those who wait that it has ended', async () => {
    for (const who of ['a', 'b', 'c']) await enter(who);
    reentry.end();
    await settled();
    expect(heard).toEqual(['a entered', 'b ended', 'c ended']);
    // The one that was inside leaves afterwards.
    reentry.leave();
    expectNoDeadline(deadlines, clock);
  });

  it('ends a wait at its deadline or by its signal, and passes the turn over it', async () => {
    const controller = new AbortController();
    await enter('a');
    await enter('b', controller.signal);
    await clock.advance(50);
    await enter('c');
    controller.abort('aborted');
    await clock.advance(50);
    await enter('d');
    await clock.advance(50);
    expect(heard).toEqual(['a entered', 'b aborted', 'c timed out']);
    reentry.leave();
    await settled();
    expect(heard.at(-1)).toBe('d entered');
  });

  it('refuses those that are meant', async () => {
    for (const who of ['a', 'b']) await enter(who);
    reentry.refuse(
      () => true,
      () => 'refused',
    );
    await settled();
    expect(heard).toEqual(['a entered', 'b refused']);
    reentry.leave();
    expect(reentry.tryEnter()).toBe('entered');
  });
});
