/** Callers in a line: who is first, the three ways to leave it, and what each of them leaves behind: nothing. */
import { getEventListeners } from 'node:events';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { Caller, type Deadlines, WaitingLine } from '../../lib/core/waiting-line.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { deadlinesOn, expectNoDeadline } from './deadlines.js';

class Person extends Caller<string> {
  constructor(
    readonly who: string,
    dueAt: number,
    signal: AbortSignal | undefined,
  ) {
    super(dueAt, signal);
  }
}

describe('WaitingLine', () => {
  let clock: FakeClock;
  let gaveUp: number;
  let deadlines: Deadlines;
  let line: WaitingLine<Person, string>;
  /** How the callers have left, in order. */
  let left: string[];

  beforeEach(() => {
    clock = new FakeClock();
    gaveUp = 0;
    left = [];
    deadlines = deadlinesOn(clock);
    line = new WaitingLine(deadlines, {
      timedOut: ({ who }) => `${who} timed out`,
      onGaveUp: () => (gaveUp += 1),
    });
  });

  function join(who: string, signal?: AbortSignal, within = 100) {
    const caller = new Person(who, clock.now() + within, signal);
    line.join(caller);
    caller.promise.then(
      (value) => left.push(`${who}: ${value}`),
      (error: unknown) => left.push(`${who}! ${String(error)}`),
    );
    return caller;
  }

  it('is first come, first served', async () => {
    const [a, b] = [join('a'), join('b')];
    expect([line.size, line.first]).toEqual([2, a]);
    expect(line.serve(a, 'yes')).toBe(true);
    expect(line.first).toBe(b);
    line.serve(b, 'yes');
    expect([line.size, line.first]).toEqual([0, undefined]);
    await settled();
    expect(left).toEqual(['a: yes', 'b: yes']);
  });

  it('serves nobody who has left', async () => {
    const caller = join('a');
    line.refuse(caller, 'no');
    line.refuse(caller, 'again');
    expect(line.serve(caller, 'yes')).toBe(false);
    await settled();
    expect(left).toEqual(['a! no']);
  });

  it('ends a wait at its deadline, once it is watched', async () => {
    const [a, b] = [join('a', undefined, 100), join('b', undefined, 50)];
    line.watch(a);
    await clock.advance(99);
    expect(left).toEqual([]);
    await clock.advance(1);
    expect(left).toEqual(['a! a timed out']);
    expect([line.size, gaveUp]).toEqual([1, 1]);
    // Its deadline has passed long ago.
    line.watch(b);
    await clock.advance(0);
    expect(left).toEqual(['a! a timed out', 'b! b timed out']);
  });

  it('has one timer for all callers, which keeps no process alive for those that have left', async () => {
    const [a, b] = [join('a'), join('b', undefined, 200)];
    for (const caller of [a, b, a]) line.watch(caller);
    expect(clock.pending).toEqual([{ in: 100, kind: 'foreground' }]);
    expect(deadlines.size).toBe(2);
    line.serve(a, 'yes');
    expect(clock.pending).toEqual([{ in: 100, kind: 'foreground' }]);
    line.serve(b, 'yes');
    expectNoDeadline(deadlines, clock);
    line.watch(b);
    expectNoDeadline(deadlines, clock);
    await clock.advance(100);
    expect(clock.pending).toEqual([]);
  });

  it("ends a wait with the signal's reason", async () => {
    const controller = new AbortController();
    line.watch(join('a', controller.signal));
    join('b');
    controller.abort('enough');
    await settled();
    expect(left).toEqual(['a! enough']);
    expect([line.size, gaveUp]).toEqual([1, 1]);
    expectNoDeadline(deadlines, clock);
  });

  it("doesn't let one join whose signal has aborted, whatever the reason", async () => {
    for (const reason of ['enough', 0, null]) {
      join(`${reason}`, AbortSignal.abort(reason));
    }
    await settled();
    expect(left).toEqual(['enough! enough', '0! 0', 'null! null']);
    expect(line.size).toBe(0);
  });

  it.each(['served', 'refused', 'timed out', 'aborted'])(
    'leaves nothing behind: %s',
    async (how) => {
      const controller = new AbortController();
      const caller = join('a', controller.signal);
      line.watch(caller);
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1);
      if (how === 'served') line.serve(caller, 'yes');
      if (how === 'refused') line.refuse(caller, 'no');
      if (how === 'timed out') await clock.advance(100);
      if (how === 'aborted') controller.abort();
      await settled();
      expect(left).toHaveLength(1);
      expect([line.size, line.first, caller.line]).toEqual([0, undefined, undefined]);
      expectNoDeadline(deadlines, clock);
      expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
      controller.abort();
      await clock.advance(1_000);
      expect(left).toHaveLength(1);
    },
  );

  it('serves all, or refuses those that are meant', async () => {
    for (const who of ['a', 'b', 'c', 'd']) join(who);
    line.refuseWhere(
      ({ who }) => who === 'b' || who === 'd',
      ({ who }) => `not ${who}`,
    );
    line.serveAll('yes');
    await settled();
    expect(left.toSorted()).toEqual(['a: yes', 'b! not b', 'c: yes', 'd! not d']);
    // Only callers give up by themselves.
    expect([line.size, gaveUp]).toEqual([0, 0]);
  });
});
