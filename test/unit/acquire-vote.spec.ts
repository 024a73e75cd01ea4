/** One try at several nodes: what each order of answers comes to, and what is undone where. */
import { beforeEach, describe, expect, it } from '@jest/globals';

import { AcquireVote, type NodePlace } from '../../lib/core/backend/acquire-vote.js';
import type {
  AcquireOutcome,
  CancelOutcome,
  HeldToken,
  Unavailable,
} from '../../lib/core/backend/lock-backend.js';
import type { QuorumNode } from '../../lib/core/backend/quorum-node.js';
import { LockName } from '../../lib/core/lock-name.js';
import { FakeClock, settled } from '../support/fake-clock.js';
import { Calls, FakeBackend, noAnswer, unreachable } from './fake-backend.js';

const NAME = LockName.of('lock', 'k');
const START = 900;
const NOT_AFTER = 1_000;
const ENDS_AT = 1_500;
const PLACE: NodePlace = { aliveFor: 5_000, sequence: 77 };
const BUSY = { kind: 'busy', remaining: 900, sequence: 77 } as const;

function granted(fencingToken: number, sentAt = 10): AcquireOutcome {
  return { kind: 'granted', fencingToken, sentAt, othersWait: false };
}

/** A node that a test answers for. */
class FakeNode {
  readonly standBacks: Calls<unknown, CancelOutcome>;
  readonly backend: FakeBackend & { standBack(request: unknown): Promise<CancelOutcome> };
  /** From when on what is in doubt would be refused, of each token that was undone. */
  readonly undone: (number | undefined)[] = [];
  /** Who is asked for the holder. */
  readonly holders: Calls<LockName, string | undefined>;
  underWay = 0;

  constructor(readonly address: string) {
    const backend = new FakeBackend();
    this.standBacks = new Calls('standBack', backend.log);
    this.holders = new Calls('holderOf', backend.log);
    this.backend = Object.assign(backend, {
      standBack: (request: unknown) => this.standBacks.call(request),
    });
  }

  begin(): void {
    this.underWay += 1;
  }

  end(): void {
    this.underWay -= 1;
  }

  holderOf(name: LockName): Promise<string | undefined> {
    return this.holders.call(name);
  }

  undo(held: HeldToken, refusedAfter?: number): void {
    expect(held).toMatchObject({ name: NAME, token: 't' });
    this.undone.push(refusedAfter);
  }

  answer({ kind }: AcquireOutcome): { readonly node: string; readonly answer: string } {
    return { node: this.address, answer: kind };
  }
}

describe('A vote', () => {
  let nodes: FakeNode[];
  let clock: FakeClock;
  let outcome: AcquireOutcome | undefined;

  beforeEach(() => {
    clock = new FakeClock(START);
    outcome = undefined;
  });

  function ask(count: number, place?: NodePlace): void {
    nodes = Array.from({ length: count }, (_, index) => new FakeNode(`n${index}`));
    const request = {
      name: NAME,
      token: 't',
      ttl: 5_000,
      notAfter: NOT_AFTER,
      endsAt: ENDS_AT,
      place,
    };
    void new AcquireVote(nodes as unknown as QuorumNode[], request, clock, () => 0.5)
      .run()
      .then((its) => (outcome = its));
  }

  const node = (index: number) => nodes[index] as FakeNode;
  const answer = (index: number, its: AcquireOutcome) =>
    node(index).backend.tryAcquires.answer(its);
  const undone = () => nodes.map((each) => each.undone);
  const raised = () =>
    nodes.map(({ backend }) => backend.joins.made.map(({ fencingToken }) => fencingToken));

  it.each([
    [3, 2],
    [4, 3],
    [5, 3],
    [6, 4],
  ])('at %i nodes is won by %i', async (count, majority) => {
    ask(count);
    for (let index = 0; index < majority - 1; index += 1) await answer(index, granted(5));
    expect(outcome).toBeUndefined();
    await answer(majority - 1, granted(5));
    expect(outcome).toEqual(granted(5));
    expect(undone()).toStrictEqual(nodes.map(() => []));
  });

  it('counts from when the first of its majority was asked', async () => {
    ask(3);
    await answer(0, granted(5, 12));
    await answer(1, granted(5, 11));
    expect(outcome).toMatchObject({ sentAt: 11 });
  });

  describe('where the nodes give different fencing tokens', () => {
    it.each([
      ['the larger first', [9, 5], 1],
      ['the larger last', [5, 9], 0],
    ])('is granted the larger, once a majority holds it: %s', async (_order, fences, lower) => {
      ask(3);
      for (const [index, fence] of fences.entries()) await answer(index, granted(fence));
      expect(outcome).toBeUndefined();
      expect(raised()).toEqual(nodes.map((_, index) => (index === lower ? [9] : [])));
      await node(lower).backend.joins.answer({
        ...{ kind: 'granted', fencingToken: 9, sentAt: 50, othersWait: false },
      });
      expect(outcome).toEqual(granted(9));
    });

    it('is held by a straggler as well, which makes the majority', async () => {
      ask(3);
      await answer(0, granted(9));
      await answer(1, granted(5));
      await answer(2, granted(9));
      expect(outcome).toEqual(granted(9));
    });

    it('tells a straggler that gave less or more, and waits for it no longer', async () => {
      ask(5);
      for (const index of [0, 1, 2]) await answer(index, granted(9));
      expect(outcome).toEqual(granted(9));
      await answer(3, granted(5));
      await answer(4, granted(12));
      expect(raised()).toEqual([[], [], [], [9], [9]]);
    });

    it('fails where too few can be told', async () => {
      ask(3);
      await answer(0, granted(9));
      await answer(1, granted(5));
      await answer(2, unreachable);
      expect(outcome).toBeUndefined();
      await node(1).backend.joins.answer(noAnswer);
      expect(outcome).toMatchObject({ kind: 'unavailable', reason: 'quorum', mayHaveRun: true });
    });
  });

  describe('that fails', () => {
    it('is undone where it was granted and where it is in doubt, and nowhere else', async () => {
      ask(5);
      await answer(0, granted(5));
      await answer(1, BUSY);
      await answer(2, noAnswer);
      await answer(3, BUSY);
      await answer(4, BUSY);
      expect(outcome).toMatchObject({ kind: 'busy' });
      expect(undone()).toStrictEqual([[undefined], [], [NOT_AFTER], [], []]);
    });

    it('is undone at a straggler when its answer comes', async () => {
      ask(5);
      for (const index of [0, 1, 2]) await answer(index, BUSY);
      expect(outcome).toMatchObject({ kind: 'busy' });
      await answer(3, granted(5));
      await answer(4, noAnswer);
      expect(undone()).toStrictEqual([[], [], [], [undefined], [NOT_AFTER]]);
    });

    it('without a majority of answers says what each node said', async () => {
      ask(3);
      await answer(0, unreachable);
      await answer(1, granted(5));
      await answer(2, unreachable);
      expect(outcome).toMatchObject({
        ...{ kind: 'unavailable', reason: 'quorum', mayHaveRun: true },
        facts: {
          nodes: [
            { node: 'n0', answer: 'unavailable' },
            { node: 'n1', answer: 'granted' },
            { node: 'n2', answer: 'unavailable' },
          ],
        },
      });
    });

    it.each([
      ['who holds the key at a busy node', 'process 7', 0],
      ['only that a node is busy, where it says no more', undefined, 0],
      ['only that a node is busy, where it says no more in time', 'process 7', ENDS_AT - START],
    ])('says %s', async (_, holder, after) => {
      ask(3);
      await answer(0, unreachable);
      await answer(1, BUSY);
      await answer(2, unreachable);
      expect(outcome).toBeUndefined();
      await clock.advance(after);
      await node(1).holders.answer(holder);
      const told = after === 0 && holder !== undefined ? { holder } : {};
      expect(outcome).toMatchObject({ kind: 'unavailable', reason: 'quorum' });
      expect((outcome as Unavailable).facts?.nodes?.[1]).toEqual({
        ...{ node: 'n1', answer: 'busy' },
        ...told,
      });
      expect(clock.pending).toEqual([]);
      expect(node(1).holders.made).toEqual([NAME]);
      expect(nodes[0]?.holders.made).toEqual([]);
    });

    it('by a split vote is tried again soon', async () => {
      ask(4);
      for (const index of [0, 1]) await answer(index, granted(5));
      for (const index of [2, 3]) await answer(index, BUSY);
      expect(outcome).toMatchObject({ kind: 'busy', remaining: 17 });
    });
  });

  describe('of one who waits', () => {
    it('that fails stands in line again where it was granted, before it ends', async () => {
      ask(3, PLACE);
      await answer(0, granted(5));
      await answer(1, BUSY);
      await answer(2, BUSY);
      expect(outcome).toBeUndefined();
      const asked = await node(0).standBacks.answer({ kind: 'cancelled' });
      // The caller is answered in time, whatever is undone.
      expect(asked).toMatchObject({ token: 't', place: PLACE, notAfter: ENDS_AT });
      expect(outcome).toEqual({ kind: 'busy', remaining: 900, sequence: 77 });
      expect(undone()).toStrictEqual([[], [], []]);
    });

    it('whose token may be left somewhere has it undone, and takes another', async () => {
      ask(3, PLACE);
      await answer(0, granted(5));
      await answer(1, BUSY);
      await answer(2, BUSY);
      await node(0).standBacks.answer(noAnswer);
      expect(outcome).toMatchObject({ kind: 'busy', spent: true });
      expect(undone()).toStrictEqual([[NOT_AFTER], [undefined], [undefined]]);
    });

    it('that is won leaves no place in the queues of the others', async () => {
      ask(3, PLACE);
      await answer(0, BUSY);
      await answer(1, granted(5));
      await answer(2, granted(5));
      expect(outcome).toEqual(granted(5));
      expect(undone()).toStrictEqual([[undefined], [], []]);
    });
  });

  it('has ended everywhere once each node has answered', async () => {
    ask(3);
    expect(nodes.map(({ underWay }) => underWay)).toEqual([1, 1, 1]);
    for (const index of [0, 1, 2]) await answer(index, granted(5));
    await settled();
    expect(nodes.map(({ underWay }) => underWay)).toEqual([0, 0, 0]);
  });
});
