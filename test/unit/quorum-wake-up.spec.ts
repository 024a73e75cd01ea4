/** Wake-ups by several nodes: what is passed on, and when, of what each of them tells. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import { QuorumWakeUp } from '../../lib/core/backend/quorum-wake-up.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { WakeMessage } from '../../lib/core/wake-up.js';
import { FakeClock } from '../support/fake-clock.js';
import { FakeWakeUp } from './fake-backend.js';

const NAME = LockName.of('lock', 'k');
const WOKEN: WakeMessage = { kind: 'woken', token: 't', within: 0 };
const OTHERS_WAIT: WakeMessage = { kind: 'othersWait', owner: NAME.owner };

class FakeNode extends FakeWakeUp {
  hears = true;
}

describe('QuorumWakeUp of 5 nodes', () => {
  let nodes: FakeNode[];
  let wakeUp: QuorumWakeUp;
  let told: WakeMessage[];

  beforeEach(() => {
    nodes = Array.from({ length: 5 }, () => new FakeNode());
    wakeUp = new QuorumWakeUp(nodes, 3, new FakeClock(), () => 0.5);
    told = [];
    wakeUp.onWake((message) => told.push(message));
  });

  /** What is told after each of the nodes has sent this, one after the other. */
  function toldBy(message: WakeMessage): number[] {
    return nodes.map((node) => {
      node.tell(message);
      return told.length;
    });
  }

  it('wakes a waiter at once when a majority tells it, and lets it look soon when the first does', () => {
    expect(toldBy(WOKEN)).toEqual([1, 1, 2, 2, 2]);
    const [soon, atOnce] = told;
    expect(soon).toMatchObject({ kind: 'woken', token: 't' });
    expect((soon as { within: number }).within).toBeGreaterThan(0);
    expect(atOnce).toEqual(WOKEN);
  });

  it('tells holders that others wait when a majority does, and once', () => {
    expect(toldBy(OTHERS_WAIT)).toEqual([0, 0, 1, 1, 1]);
    expect(told).toEqual([OTHERS_WAIT]);
  });

  it('listens to a name where a majority of the nodes does: else who waits has to poll', () => {
    const listens = nodes.map((node) => {
      node.listening = false;
      return wakeUp.listensTo(NAME);
    });
    expect(listens).toEqual([true, true, false, false, false]);
  });

  it('lets everybody look when a majority begins to be heard', () => {
    for (const node of nodes) node.hears = false;
    const looks = nodes.map((node) => {
      node.hears = true;
      node.tell({ kind: 'listening' });
      return told.length;
    });
    expect(looks).toEqual([0, 0, 1, 1, 1]);
  });
});
