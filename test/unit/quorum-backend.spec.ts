/** A quorum over nodes that a test answers for: what it makes of too few answers, and of some that differ. */
import { describe, expect, it } from '@jest/globals';

import {
  type HolderState,
  type LockState,
  standingOf,
} from '../../lib/core/backend/lock-backend.js';
import { QuorumBackend } from '../../lib/core/backend/quorum-backend.js';
import type { NodeBackend } from '../../lib/core/backend/quorum-node.js';
import { LockEmitter } from '../../lib/core/events.js';
import { EVERY_KEY } from '../../lib/core/key-pattern.js';
import { LockName } from '../../lib/core/lock-name.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { FakeBackend, noAnswer, unreachable } from './fake-backend.js';

const NAME = LockName.of('lock', 'k');
const LEASE = { name: NAME, token: 't', ttl: 5_000 };

function open(count: number): {
  quorum: QuorumBackend;
  nodes: readonly FakeBackend[];
  clock: FakeClock;
} {
  const nodes: FakeBackend[] = [];
  const clock = new FakeClock();
  const quorum = new QuorumBackend(
    {
      connection: Array.from({ length: count }, (_, index) => `redis://node-${index}`),
      ...{ commandTimeout: 1_000, nodeTimeout: 200, prefix: 'lock', application: undefined },
      wakeUp: 'publish',
    },
    clock,
    () => 0.5,
    new LockEmitter(),
    () => {
      const node = new FakeBackend();
      nodes.push(node);
      return node as unknown as NodeBackend;
    },
  );
  return { quorum, nodes, clock };
}

function state(...fences: number[]): { readonly kind: 'found'; readonly state: LockState } {
  const held = fences.map((fencingToken): HolderState => ({
    ...{ fencingToken, since: new Date(0), remaining: 900, host: 'h', pid: 1 },
    ...{ application: undefined, label: undefined, kept: false, access: 'exclusive' },
  }));
  return { kind: 'found', state: { key: 'k', held, pending: [] } };
}

describe('A quorum', () => {
  it.each([
    ['all nodes answer, shows whom a majority shows', [state(7), state(7), state()], [7], 'held'],
    ['all nodes answer, leaves out whom too few show', [state(7), state(), state()], [], 'gone'],
    [
      'a node is silent that would make a majority, shows its holder',
      [state(7), state(), noAnswer],
      [7],
      'perhaps',
    ],
    [
      'a node is silent that is not needed, shows its holder',
      [state(7), state(7), noAnswer],
      [7],
      'held',
    ],
  ])('that is queried and %s', async (_what, answers, fences, standing) => {
    const { quorum, nodes } = open(3);
    const querying = quorum.query(NAME);
    for (const [index, answer] of answers.entries()) await nodes[index]?.queries.answer(answer);
    const outcome = await querying;
    if (outcome.kind !== 'found') throw new Error(`Expected to be answered, got ${outcome.kind}.`);
    expect(outcome.state.held.map(({ fencingToken }) => fencingToken)).toEqual(fences);
    expect(standingOf(outcome, 'exclusive', 7)).toBe(standing);
  });

  it('leaves no place in the queue of a node that was silent, also where the key is to be kept', async () => {
    const { quorum, nodes } = open(3);
    const releasing = quorum.release({ ...LEASE, lastFence: 7, keepFor: 3_000 });
    await nodes[0]?.releases.answer({ kind: 'released' });
    await nodes[1]?.releases.answer({ kind: 'released' });
    expect(await releasing).toEqual({ kind: 'released' });
    await nodes[2]?.releases.answer(noAnswer);
    // It's kept there as well, if it was held there.
    expect(await nodes[2]?.releases.answer({ kind: 'taken' })).toMatchObject({ keepFor: 3_000 });
    expect(nodes[2]?.cancels.made).toMatchObject([{ name: NAME, token: 't' }]);
  });

  it('closes in time, also while a walk through all keys of its nodes goes on', async () => {
    const { quorum, nodes, clock } = open(3);
    void quorum.names('lock', EVERY_KEY);
    let isClosed = false;
    void quorum.close().then(() => (isClosed = true));
    await clock.advance(399);
    expect(nodes.map(({ closed }) => closed)).toEqual([false, false, false]);
    await clock.advance(1);
    expect([isClosed, nodes.every(({ closed }) => closed)]).toEqual([true, true]);
    expect(clock.pending).toEqual([]);
  });

  it('closes as soon as what is under way has ended', async () => {
    const { quorum, nodes, clock } = open(3);
    const querying = quorum.query(NAME);
    const closing = quorum.close();
    for (const { queries } of nodes) await queries.answer(state());
    await Promise.all([querying, closing]);
    expect(clock.pending).toEqual([]);
  });

  it('undoes a grant that comes to a node after the release was done there', async () => {
    const { quorum, nodes, clock } = open(3);
    const releasing = quorum.release({ ...LEASE, lastFence: 7, keepFor: 3_000 });
    for (const index of [0, 1]) await nodes[index]?.releases.answer({ kind: 'released' });
    await releasing;
    await nodes[2]?.releases.answer(unreachable);
    await nodes[2]?.releases.answer({ kind: 'taken' });
    await nodes[2]?.cancels.answer({ kind: 'cancelled' });
    // Now a grant that is still on its way is refused there.
    await clock.advance(250);
    await nodes[2]?.cancels.answer({ kind: 'cancelled' });
    expect(nodes[2]?.cancels.openCount).toBe(0);
  });

  it('undoes what a silent node may still hold of a lease that was found lost by its release', async () => {
    const { quorum, nodes } = open(3);
    const releasing = quorum.release({ ...LEASE, lastFence: 7, keepFor: 0 });
    await nodes[0]?.releases.answer({ kind: 'taken' });
    await nodes[1]?.releases.answer({ kind: 'taken' });
    expect(await releasing).toEqual({ kind: 'taken' });
    await nodes[2]?.releases.answer(noAnswer);
    await settled();
    expect(nodes[2]?.cancels.made).toMatchObject([{ name: NAME, token: 't' }]);
    // Of those that don't have it, a waiter's place isn't touched.
    expect(nodes[0]?.cancels.made).toEqual([]);
  });
});
