import type { Clock, Timer } from '../clock.js';
import type { LockName } from '../lock-name.js';
import type { WakeListener, WakeMessage, WakeUp } from '../wake-up.js';

/** Messages that belong together come within this, in ms: for so long a node keeps a key for who was woken. */
const ROUND = 1_000;
/** How soon one looks whom too few nodes have woken, in ms: at random, and each time later. */
const FIRST_LOOK = 20;
const LONGEST_LOOK = 500;
/** How soon holders look at their leases where fewer than a majority tell of one that was released by force, in ms. */
const FORCED_LOOK = 100;
/** So many rounds are kept, and the old ones dropped then. */
const MANY = 1_000;

/**
 * Wake-ups by several independent nodes. Each keeps its own queue, in nearly the same order, and tells who is first there
 * when it's free. A waiter that's told by a majority is woken: it finds them kept for it.
 *
 *     told by one ──▶ looks soon, at random ──told by a majority──▶ woken at once
 *
 * Who is told by fewer isn't woken at once. A node may be free while the holder has a majority without it: whoever takes it
 * and gives it back wakes the next there, or itself, and all who wait would go on waking each other. Nor is it ignored:
 * where places were lost, several may be the first, each at some nodes, and one of them has to give way. A single one
 * at a time is woken so, since a node keeps its key for one.
 *
 * All other messages are passed on when a majority of the nodes has sent them. One of a release by force that fewer send may be
 * all that's told of a lease that a majority no longer has, since some never had it: then holders look at what they hold.
 */
export class QuorumWakeUp implements WakeUp {
  #listener: WakeListener = () => {};
  readonly #wakeUps: readonly WakeUp[];
  /** How many do, be it for holders alone. */
  readonly #hearing: () => number;
  readonly #everHeard = new Set<number>();
  /** By what is told. */
  readonly #rounds = new Map<string, Round>();
  readonly #looks = new Set<Timer>();

  constructor(
    wakeUps: readonly NodeWakeUp[],
    private readonly majority: number,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {
    this.#wakeUps = wakeUps;
    this.#hearing = () => wakeUps.filter(({ hears }) => hears).length;
    for (const [index, wakeUp] of wakeUps.entries()) {
      wakeUp.onWake((message) => this.#told(index, message));
    }
  }

  listensTo(name: LockName): boolean {
    return this.#wakeUps.filter((each) => each.listensTo(name)).length >= this.majority;
  }

  async subscribe(name: LockName): Promise<void> {
    await Promise.all(this.#wakeUps.map((each) => each.subscribe(name)));
  }

  unsubscribe(name: LockName): void {
    for (const each of this.#wakeUps) each.unsubscribe(name);
  }

  attend(): void {
    for (const each of this.#wakeUps) each.attend();
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  check(name: LockName): void {
    for (const each of this.#wakeUps) each.check(name);
  }

  #told(index: number, message: WakeMessage): void {
    switch (message.kind) {
      case 'listening': {
        const again = this.#everHeard.has(index);
        this.#everHeard.add(index);
        const hearing = this.#hearing();
        // Those who waited poll until a majority is heard. Of one more that is heard again: what it has told meanwhile, a
        // caller may have told by too few of the others.
        if (hearing === this.majority || (again && hearing > this.majority))
          this.#listener(message);
        return;
      }
      case 'woken': {
        const round = this.#count(`${message.within === 0 ? '' : '~'}${message.token}`, index);
        if (round.nodes.size === this.majority) {
          round.failures = 0;
          this.#listener(message);
        } else if (round.nodes.size === 1 && message.within === 0) {
          const longest = Math.min(LONGEST_LOOK, FIRST_LOOK * 2 ** round.failures);
          this.#listener({ ...message, within: longest * (0.5 + this.random()) });
        }
        return;
      }
      case 'othersWait':
        this.#passOn(`+${message.owner}`, index, message);
        return;
      case 'forced': {
        const round = this.#passOn(`!${message.token} ${message.owner}`, index, message);
        if (round.nodes.size === 1) this.#lookUnlessTold(round);
      }
    }
  }

  /** What hasn't been passed on is not, from now on. The nodes' own connections are closed with them. */
  close(): void {
    for (const timer of this.#looks) timer.cancel();
    this.#looks.clear();
  }

  /** Later, when the others have told it, if they do: they say by whom. */
  #lookUnlessTold(round: Round): void {
    const look = () => {
      this.#looks.delete(timer);
      if (round.nodes.size < this.majority) this.#listener({ kind: 'listening' });
    };
    const timer = this.clock.after(FORCED_LOOK, look, 'background');
    this.#looks.add(timer);
  }

  #passOn(what: string, index: number, message: WakeMessage): Round {
    const round = this.#count(what, index);
    if (round.nodes.size === this.majority) this.#listener(message);
    return round;
  }

  /** Who has told this, in the present round. A node that tells it once more begins the next. */
  #count(what: string, index: number): Round {
    const now = this.clock.now();
    let round = this.#rounds.get(what);
    if (round === undefined || now - round.since > ROUND) {
      if (this.#rounds.size >= MANY) this.#dropOld(now);
      round = { since: now, nodes: new Set(), failures: 0 };
      this.#rounds.set(what, round);
    } else if (round.nodes.has(index)) {
      if (round.nodes.size < this.majority) round.failures += 1;
      round.since = now;
      round.nodes.clear();
    }
    round.nodes.add(index);
    return round;
  }

  #dropOld(now: number): void {
    for (const [what, { since }] of this.#rounds)
      if (now - since > ROUND) this.#rounds.delete(what);
  }
}

export interface NodeWakeUp extends WakeUp {
  /** Whether what the node tells is heard, be it by holders alone. */
  readonly hears: boolean;
}

interface Round {
  since: number;
  readonly nodes: Set<number>;
  /** How often in succession too few have told. */
  failures: number;
}
