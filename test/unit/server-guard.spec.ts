/**
 * What the guard of a server believes of what it was told, with a runner that answers as the test says. What it's worth is
 * shown with real servers: test/integration/guard.spec.ts.
 */
import { describe, expect, it } from '@jest/globals';

import { LockEmitter } from '../../lib/core/events.js';
import { Script } from '../../lib/core/redis/script.js';
import type { ScriptRunner } from '../../lib/core/redis/script-runner.js';
import { acquireScript } from '../../lib/core/redis/scripts.generated.js';
import { ServerGuard } from '../../lib/core/redis/server-guard.js';
import { FakeClock } from '../support/fake-clock.js';

const OPEN = `${'a'.repeat(40)} 1 1000 0 0 -`;
const ACQUIRE = new Script<[owner: string], [token: string], unknown>(acquireScript);

describe('ServerGuard', () => {
  it('believes nothing that it heard over a connection that is gone', async () => {
    let link = 1;
    /** Which record each acquire was told to expect. */
    const told: unknown[] = [];
    let onCheck = () => {};
    const answer = (name: string, record: unknown): unknown => {
      if (name === 'check-guard') {
        onCheck();
        return ['1', OPEN, 0, '-'];
      }
      told.push(record);
      return record === OPEN ? ['1', 'granted'] : ['1', 'guard'];
    };
    const runner = {
      run: async ({ name }: { name: string }, _keys: unknown, args: readonly unknown[]) => {
        const reply = answer(name, args.at(-1));
        return { kind: 'reply', reply, sentAt: 0, receivedAt: 0 };
      },
    } as unknown as ScriptRunner;
    const settings = {
      ...{ longestTtl: 1_000, lag: 0, keyPrefix: '', isCluster: false },
      link: () => link,
    };
    const guard = new ServerGuard(runner, settings, new FakeClock(), new LockEmitter());
    const acquire = () => guard.run(ACQUIRE, ['lock:{k}'], ['t']);

    // Its answer comes over the old connection; what is sent next, leaves over another, perhaps to another server.
    onCheck = () => (link += 1);
    expect(await acquire()).toMatchObject({ kind: 'unavailable', reason: 'guard' });
    // (How often is tried, is bounded.)
    expect(told.splice(0)).toEqual(['', '', '', '', '']);
    onCheck = () => {};
    expect(await acquire()).toMatchObject({ kind: 'reply' });
    expect(told.splice(0)).toEqual(['', OPEN]);
    // And so where it's known already.
    link += 1;
    expect(await acquire()).toMatchObject({ kind: 'reply' });
    expect(told).toEqual(['', OPEN]);
  });

  it('tells of a place in the queue also where the next attempt comes to nothing', async () => {
    const outcomes = [
      { kind: 'reply', reply: ['1', 'guard', 100] },
      { kind: 'reply', reply: ['1', OPEN, 0, '-'] },
      { kind: 'unavailable', reason: 'unreachable', mayHaveRun: false },
    ];
    const runner = { run: async () => outcomes.shift() } as unknown as ScriptRunner;
    const settings = { longestTtl: 1_000, lag: 0, keyPrefix: '', isCluster: false, link: () => 1 };
    const guard = new ServerGuard(runner, settings, new FakeClock(), new LockEmitter());
    expect(await guard.run(ACQUIRE, ['lock:{k}'], ['t'])).toEqual({
      ...{ kind: 'unavailable', reason: 'unreachable', mayHaveRun: false },
      sequence: 100,
    });
  });
});
