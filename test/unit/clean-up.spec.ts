/** What an unknown outcome may have left is undone: retried, done twice where the command may still be on its way, bounded. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { CleanUp } from '../../lib/core/clean-up.js';
import { LockName } from '../../lib/core/lock-name.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { FakeBackend, noAnswer, unreachable } from './fake-backend.js';

const TTL = 2_000;
const held = { name: LockName.of('lock', 'k'), token: 't', ttl: TTL };

describe('CleanUp', () => {
  let clock: FakeClock;
  let backend: FakeBackend;
  let cleanUp: CleanUp;
  let start: number;
  /** When each cancel was sent. */
  let sent: number[];

  beforeEach(() => {
    clock = new FakeClock();
    start = clock.now();
    backend = new FakeBackend();
    cleanUp = new CleanUp(backend, clock, () => 0.5);
    sent = [];
  });

  /** Answers each cancel at once. */
  function answer(reply: (n: number) => 'cancelled' | 'unavailable'): void {
    backend.cancels.auto = () => {
      sent.push(clock.now() - start);
      return reply(sent.length) === 'cancelled' ? { kind: 'cancelled' } : noAnswer;
    };
  }

  it('cancels at once, and once is enough where no command is in doubt', async () => {
    answer(() => 'cancelled');
    cleanUp.cancel(held);
    expect(backend.cancels.made).toMatchObject([{ token: 't' }]);
    expect(cleanUp.size).toBe(1);
    await clock.advance(10 * TTL);
    expect(sent).toEqual([0]);
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
  });

  it('cancels once more when a command in doubt would be refused as late', async () => {
    answer(() => 'cancelled');
    cleanUp.cancel(held, start + 800);
    await clock.advance(10 * TTL);
    // 50 ms later than that, by which our idea of the server's clock may be wrong.
    expect(sent).toEqual([0, 850]);
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
  });

  it('cancels only once a command in doubt that would be refused by now', async () => {
    answer(() => 'cancelled');
    cleanUp.cancel(held, start - 51);
    await clock.advance(10 * TTL);
    expect(sent).toEqual([0]);
  });

  it("doesn't take a cancel for the last that was sent before the command would be refused", async () => {
    cleanUp.cancel(held, start + 100);
    await clock.advance(400);
    await backend.cancels.answer({ kind: 'cancelled' });
    await clock.advance(0);
    expect(backend.cancels.made).toHaveLength(2);
    await backend.cancels.answer({ kind: 'cancelled' });
    expect(cleanUp.size).toBe(0);
  });

  it('tries again, with growing pauses, until it succeeds', async () => {
    answer((n) => (n === 5 ? 'cancelled' : 'unavailable'));
    cleanUp.cancel(held);
    await clock.advance(10 * TTL);
    // Pauses of 75, 100, 150 and 250 ms.
    expect(sent).toEqual([0, 75, 175, 325, 575]);
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
  });

  it('gives up when the key has expired anyway', async () => {
    answer(() => 'unavailable');
    cleanUp.cancel(held);
    await clock.advance(10 * TTL);
    expect(sent.at(-1)).toBeGreaterThan(TTL / 2);
    expect(sent.at(-1)).toBeLessThan(TTL + 1_000);
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
  });

  it('gives up later after a command that may yet take the key', async () => {
    answer(() => 'unavailable');
    cleanUp.cancel(held, start + 5_000);
    await clock.advance(60_000);
    expect(sent.at(-1)).toBeGreaterThan(5_000 + TTL / 2);
    expect(sent.at(-1)).toBeLessThan(5_050 + TTL + 1_000);
  });

  it('keeps no process alive by its pauses', async () => {
    answer(() => 'unavailable');
    cleanUp.cancel(held);
    await settled();
    expect(clock.pending).toMatchObject([{ kind: 'background' }]);
  });

  it('goes on with a release, each time with what is left of holdAtLeast', async () => {
    let keepFor = 500;
    cleanUp.release(() => ({ ...held, lastFence: 7, keepFor }));
    await backend.releases.answer(unreachable);
    keepFor = 300;
    await clock.advance(75);
    expect(backend.releases.made.map((request) => request.keepFor)).toEqual([500, 300]);
    await backend.releases.answer({ kind: 'taken' });
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
    expect(backend.cancels.made).toEqual([]);
  });

  it('undoes what a few nodes may have left of a release that most know nothing of', async () => {
    backend.losesInPart = true;
    cleanUp.release(() => ({ ...held, lastFence: 7, keepFor: 0 }));
    await backend.releases.answer({ kind: 'taken' });
    expect(backend.cancels.made).toMatchObject([{ token: 't', lastFence: 7 }]);
    await backend.cancels.answer({ kind: 'cancelled' });
    expect([cleanUp.size, clock.pending]).toEqual([0, []]);
  });

  it('works on many at a time', async () => {
    answer((n) => (n <= 10 ? 'unavailable' : 'cancelled'));
    for (let n = 0; n < 10; n += 1) cleanUp.cancel({ ...held, token: `t${n}` });
    expect(cleanUp.size).toBe(10);
    await clock.advance(75);
    expect(backend.cancels.made).toHaveLength(20);
    expect(cleanUp.size).toBe(0);
  });

  describe('close', () => {
    it('waits for what is under way', async () => {
      const closed: string[] = [];
      cleanUp.cancel(held);
      void cleanUp.close().then(() => closed.push('closed'));
      await settled();
      expect(closed).toEqual([]);
      await backend.cancels.answer({ kind: 'cancelled' });
      expect(closed).toEqual(['closed']);
    });

    it('makes the last try at once, without waiting for a pause', async () => {
      answer(() => 'unavailable');
      cleanUp.cancel(held);
      cleanUp.cancel({ ...held, token: 'in doubt' }, start + 60_000);
      await settled();
      expect(sent).toEqual([0, 0]);
      await cleanUp.close();
      expect(sent).toEqual([0, 0, 0, 0]);
      expect([cleanUp.size, clock.pending]).toEqual([0, []]);
    });

    it('gives a try that failed while closing one more, and then ends', async () => {
      cleanUp.cancel(held);
      const closed = cleanUp.close();
      await backend.cancels.answer(noAnswer);
      await backend.cancels.answer(noAnswer);
      await closed;
      expect(backend.cancels.made).toHaveLength(2);
      expect([cleanUp.size, clock.pending]).toEqual([0, []]);
    });

    it('ends at once where nothing is under way', async () => {
      await cleanUp.close();
      expect(backend.cancels.made).toEqual([]);
    });
  });
});
