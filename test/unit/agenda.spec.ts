/** Things that are due at some time: told in their order, each once, by one timer that keeps alive whom it should. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Agenda, type AgendaEntry } from '../../lib/core/agenda.js';
import type { Clock, Timer } from '../../lib/core/clock.js';
import { FakeClock } from '../support/fake-clock.js';

class Entry implements AgendaEntry {
  heapIndex = -1;

  constructor(
    public dueAt: number,
    readonly what: string = String(dueAt),
  ) {}
}

describe('Agenda', () => {
  let clock: FakeClock;
  let start: number;
  let agenda: Agenda<Entry>;
  /** What was told, and when. */
  let told: string[];
  /** What happens besides, when an entry is told. */
  let then: (entry: Entry) => void;
  let timersSet: number;

  function open({ keepsAlive = true, on = clock as Clock } = {}): void {
    const counting: Clock = {
      now: () => on.now(),
      after: (delay, callback, kind) => {
        timersSet += 1;
        return on.after(delay, callback, kind);
      },
    };
    agenda = new Agenda(counting, keepsAlive, () => {
      const now = clock.now();
      for (let entry = agenda.takeDue(now); entry; entry = agenda.takeDue(now)) {
        told.push(`${now - start} ${entry.what}`);
        then(entry);
      }
    });
  }

  beforeEach(() => {
    clock = new FakeClock();
    start = clock.now();
    told = [];
    then = () => {};
    timersSet = 0;
    open();
  });

  function add(after: number, what = String(after)): Entry {
    const entry = new Entry(start + after, what);
    agenda.add(entry);
    return entry;
  }

  /** Takes all off, in their order. */
  function takeAll(): string[] {
    const taken: string[] = [];
    const all = Number.POSITIVE_INFINITY;
    for (let entry = agenda.takeDue(all); entry; entry = agenda.takeDue(all)) {
      taken.push(entry.what);
    }
    return taken;
  }

  describe('order', () => {
    it('is by dueAt, however they came', async () => {
      for (const after of [50, 10, 40, 20, 30, 60, 5]) add(after);
      expect([agenda.size, agenda.first?.what]).toEqual([7, '5']);
      await clock.advance(60);
      expect(told).toEqual(['5 5', '10 10', '20 20', '30 30', '40 40', '50 50', '60 60']);
      expect([agenda.size, agenda.first, clock.pending]).toEqual([0, undefined, []]);
    });

    it('takes off only what is due by then', () => {
      for (const after of [10, 20, 30]) add(after);
      expect(agenda.takeDue(start + 9)).toBeUndefined();
      expect(agenda.takeDue(start + 20)?.what).toBe('10');
      expect(agenda.takeDue(start + 20)?.what).toBe('20');
      expect(agenda.takeDue(start + 20)).toBeUndefined();
      expect(agenda.size).toBe(1);
    });

    it('shows all entries, as a copy', () => {
      const entries = [30, 10, 20].map((after) => add(after));
      const shown = agenda.entries;
      expect(new Set(shown)).toEqual(new Set(entries));
      for (const entry of shown) agenda.remove(entry);
      expect([shown.length, agenda.size]).toEqual([3, 0]);
    });
  });

  describe('an entry', () => {
    it.each([0, 1, 2, 3, 4, 5, 6])('can leave from anywhere: number %d', (n) => {
      // As a heap: [10, 40, 20, 60, 50, 30, 25], where the last must move up if 60 leaves.
      const entries = [10, 40, 20, 60, 50, 30, 25].map((after) => add(after));
      const [leaving] = entries.splice(n, 1) as [Entry];
      agenda.remove(leaving);
      expect(leaving.heapIndex).toBe(-1);
      const order = entries.map(({ dueAt }) => dueAt - start).toSorted((a, b) => a - b);
      expect(takeAll()).toEqual(order.map(String));
    });

    it('that has left, leaves no second time, and takes nobody along', () => {
      const [a] = [add(10), add(20)];
      agenda.remove(a);
      agenda.remove(a);
      agenda.moved(a);
      expect(takeAll()).toEqual(['20']);
    });

    it('can come again', async () => {
      const entry = add(10);
      agenda.remove(entry);
      entry.dueAt = start + 30;
      agenda.add(entry);
      await clock.advance(30);
      expect(told).toEqual(['30 10']);
    });

    it.each([
      ['sooner', 'c', 5, ['5 c', '10 a', '20 b']],
      ['later', 'a', 25, ['20 b', '25 a', '30 c']],
      ['later, as the last', 'a', 35, ['20 b', '30 c', '35 a']],
      ['nowhere', 'b', 20, ['10 a', '20 b', '30 c']],
    ])('can move: %s', async (_where, what, after, expected) => {
      const entries = { a: add(10, 'a'), b: add(20, 'b'), c: add(30, 'c') };
      const entry = entries[what as 'a' | 'b' | 'c'];
      entry.dueAt = start + after;
      agenda.moved(entry);
      await clock.advance(100);
      expect(told).toEqual(expected);
    });
  });

  describe('its timer', () => {
    it('is one, set for the first', () => {
      for (const after of [50, 70, 30, 40, 60]) add(after);
      expect(clock.pending).toEqual([{ in: 30, kind: 'foreground' }]);
    });

    it('is set anew only for what is due sooner', () => {
      for (const after of [50, 70, 60, 30, 40, 30]) add(after);
      expect(timersSet).toBe(2);
    });

    it('stays when the first leaves, fires in vain, and is set for the next', async () => {
      const first = add(30);
      add(50);
      agenda.remove(first);
      expect(clock.pending).toEqual([{ in: 30, kind: 'foreground' }]);
      await clock.advance(30);
      expect(told).toEqual([]);
      expect(clock.pending).toEqual([{ in: 20, kind: 'foreground' }]);
      await clock.advance(20);
      expect([told, timersSet]).toEqual([['50 50'], 2]);
    });

    it('serves one after the other where each leaves before it is due: no timer each', () => {
      for (let n = 0; n < 1_000; n += 1) agenda.remove(add(1_000 + n));
      expect(timersSet).toBe(1);
    });

    it('that fires too early is set anew', async () => {
      const early: Clock = {
        now: () => clock.now(),
        // As timers of whole milliseconds do.
        after: (delay, callback, kind) =>
          clock.after(Math.max(1, Math.floor(delay)), callback, kind),
      };
      open({ on: early });
      add(10.75);
      await clock.advance(10);
      expect([told, clock.pending]).toEqual([[], [{ in: 1, kind: 'foreground' }]]);
      await clock.advance(1);
      expect(told).toEqual(['11 10.75']);
      expect(clock.pending).toEqual([]);
    });

    it('after a blocked event loop tells all that is due at once', async () => {
      for (const after of [10, 30, 20, 500]) add(after);
      clock.block(100);
      await clock.advance(0);
      expect(told).toEqual(['100 10', '100 20', '100 30']);
      expect(clock.pending).toEqual([{ in: 400, kind: 'foreground' }]);
    });

    it('is set for at once where an entry is due already', async () => {
      add(-5);
      await clock.advance(0);
      expect(told).toEqual(['0 -5']);
    });
  });

  describe('keeps the process alive', () => {
    /** Of its one timer. */
    const kinds = () => clock.pending.map(({ kind }) => kind);

    it('only while something stands on it', async () => {
      const [a, b] = [add(10), add(20)];
      expect(kinds()).toEqual(['foreground']);
      agenda.remove(a);
      expect(kinds()).toEqual(['foreground']);
      agenda.remove(b);
      expect(kinds()).toEqual(['background']);
      // Due later than the timer that is still set, and sooner.
      const c = add(30);
      expect(kinds()).toEqual(['foreground']);
      agenda.remove(c);
      expect(kinds()).toEqual(['background']);
      const d = add(5);
      expect(kinds()).toEqual(['foreground']);
      expect(agenda.takeDue(d.dueAt)).toBe(d);
      expect(kinds()).toEqual(['background']);
      await clock.advance(10);
      expect([kinds(), told]).toEqual([[], []]);
    });

    it('also by a timer that was set while another fired', async () => {
      add(10);
      add(20);
      await clock.advance(10);
      expect(kinds()).toEqual(['foreground']);
    });

    it('never, where it is not meant to', async () => {
      open({ keepsAlive: false });
      const entry = add(10);
      expect(kinds()).toEqual(['background']);
      agenda.remove(entry);
      add(20);
      expect(kinds()).toEqual(['background']);
      await clock.advance(20);
      expect([told, kinds()]).toEqual([['20 20'], []]);
    });

    it('says so to a timer only where something changes', () => {
      const said: boolean[] = [];
      const on: Clock = {
        now: () => clock.now(),
        after: (): Timer => ({ cancel: () => {}, keepAlive: (keep) => said.push(keep) }),
      };
      open({ on });
      const entries = [10, 20, 30].map((after) => add(after));
      for (const entry of entries) agenda.remove(entry);
      add(40);
      add(50);
      expect(said).toEqual([false, true]);
    });
  });

  describe('while it tells', () => {
    it('entries may be added: those that are due are told, the others get the timer', async () => {
      then = ({ what }) => {
        if (what === '10') [5, 10, 25].forEach((after) => add(after, `new ${after}`));
      };
      add(10);
      add(30);
      await clock.advance(10);
      expect(told).toEqual(['10 10', '10 new 5', '10 new 10']);
      expect(clock.pending).toEqual([{ in: 15, kind: 'foreground' }]);
      await clock.advance(20);
      expect(told.slice(3)).toEqual(['25 new 25', '30 30']);
      expect(clock.pending).toEqual([]);
    });

    it('entries may be removed: they are not told, though they are due', async () => {
      const [, second, third] = [add(10, 'a'), add(10, 'b'), add(10, 'c'), add(20, 'd')];
      then = ({ what }) => {
        if (what === 'a') for (const entry of [second, third]) agenda.remove(entry);
      };
      await clock.advance(20);
      expect(told).toEqual(['10 a', '20 d']);
    });

    it('an entry may put itself on again', async () => {
      then = (entry) => {
        if (entry.dueAt >= start + 30) return;
        entry.dueAt += 10;
        agenda.add(entry);
      };
      add(10, 'beat');
      await clock.advance(100);
      expect(told).toEqual(['10 beat', '20 beat', '30 beat']);
    });

    it('what is not taken is told again, and stops nothing', async () => {
      let rounds = 0;
      const lazy: Agenda<Entry> = new Agenda(clock, true, () => {
        rounds += 1;
        if (rounds === 3) lazy.takeDue(clock.now());
      });
      lazy.add(new Entry(start + 10));
      await clock.advance(10);
      expect([rounds, lazy.size]).toEqual([3, 0]);
    });

    it('the agenda may be stopped', async () => {
      then = () => agenda.stop();
      add(10);
      add(20);
      await clock.advance(100);
      expect([told, clock.pending]).toEqual([['10 10'], []]);
    });
  });

  describe('stopped', () => {
    it('tells nothing any more, and sets no timer, also for entries that come later', async () => {
      add(10);
      agenda.stop();
      expect(clock.pending).toEqual([]);
      add(5);
      add(20);
      await clock.advance(100);
      expect([told, clock.pending]).toEqual([[], []]);
    });

    it('can still be left', () => {
      const entry = add(10);
      agenda.stop();
      agenda.stop();
      agenda.remove(entry);
      expect([agenda.size, clock.pending]).toEqual([0, []]);
    });
  });

  it('is as a sorted list, whatever comes, moves, leaves and falls due', async () => {
    const at = fc.integer({ min: 0, max: 200 });
    const which = fc.nat({ max: 1_000 });
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ do: fc.constant('add' as const), at }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('move' as const), at, which }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), which }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('advance' as const), at }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('block' as const), at }) },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 60 }),
        fc.boolean(),
        async (steps, keepsAlive) => {
          clock = new FakeClock();
          const onIt = new Set<Entry>();
          const late: number[] = [];
          let blockedAt = clock.now();
          let last = 0;
          agenda = new Agenda(clock, keepsAlive, () => {
            const now = clock.now();
            let before = 0;
            for (let entry = agenda.takeDue(now); entry; entry = agenda.takeDue(now)) {
              // In order within one tick, and each as soon as it could be told.
              if (entry.dueAt < before || !onIt.delete(entry)) late.push(entry.dueAt);
              before = entry.dueAt;
              if (now > Math.max(entry.dueAt, blockedAt, last)) late.push(now - entry.dueAt);
            }
          });
          for (const [n, each] of steps.entries()) {
            const some = [...onIt][('which' in each ? each.which : 0) % Math.max(1, onIt.size)];
            last = clock.now();
            if (each.do === 'add') {
              const entry = new Entry(clock.now() + each.at, `n${n}`);
              onIt.add(entry);
              agenda.add(entry);
            } else if (each.do === 'advance') {
              await clock.advance(each.at);
            } else if (each.do === 'block') {
              clock.block(each.at);
              blockedAt = clock.now();
            } else if (some !== undefined && each.do === 'move') {
              some.dueAt = clock.now() + each.at;
              agenda.moved(some);
            } else if (some !== undefined) {
              onIt.delete(some);
              agenda.remove(some);
            }
            const first = Math.min(...[...onIt].map(({ dueAt }) => dueAt));
            expect(agenda.first?.dueAt ?? Number.POSITIVE_INFINITY).toBe(first);
            expect(new Set(agenda.entries)).toEqual(onIt);
            expect(
              agenda.entries.map(({ heapIndex }) => heapIndex).toSorted((a, b) => a - b),
            ).toEqual([...agenda.entries.keys()]);
            // One timer at most, not later than the first is due, and alive while it should be.
            const timer =
              onIt.size > 0 ? [clock.now() + (clock.pending[0]?.in ?? 1e9) <= first] : [];
            expect(timer).toEqual(onIt.size > 0 ? [true] : []);
            expect(clock.pending.length).toBeLessThanOrEqual(1);
            const kind = keepsAlive && onIt.size > 0 ? 'foreground' : 'background';
            expect(clock.pending.every((pending) => pending.kind === kind)).toBe(true);
          }
          await clock.advance(1_000);
          expect([late, agenda.size, onIt.size, clock.pending]).toEqual([[], 0, 0, []]);
        },
      ),
      { numRuns: 500 },
    );
  });
});
