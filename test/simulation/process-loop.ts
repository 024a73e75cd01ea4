/**
 * One simulated process as far as time goes: its clock, which starts anywhere and runs a little fast or slow, and its event
 * loop, which may stand still.
 *
 *     running ◀──thaw── frozen
 *        │ └──freeze──▶ │
 *        └────kill──────┴──▶ dead: nothing of it happens any more
 *
 * While it's frozen, time passes for the others. What would have happened in it, happens when it thaws: its timers, all
 * late, and what has arrived; either first, or mixed.
 */
import type { Clock, Timer } from '../../lib/core/clock.js';
import type { Random } from './random.js';
import type { VirtualTime } from './virtual-time.js';

/** How late a timer comes at most in a loop that is free, in ms; a little early is possible as well, as in Node. */
export const TIMER_LATE = 1.5;
const TIMER_EARLY = 0.5;

export class ProcessLoop implements Clock {
  /** When it stood still, in true time. */
  readonly freezes: { readonly from: number; readonly to: number }[] = [];
  #state: LoopState = 'running';
  /** What waits for the thaw, in order. */
  #due: { readonly kind: 'timer' | 'arrival'; readonly work: () => void }[] = [];
  readonly #timers = new Set<SimulatedTimer>();

  constructor(
    readonly time: VirtualTime,
    private readonly random: Random,
    /** Local ms that pass in a true one. */
    readonly rate: number,
    readonly offset: number,
    /** Told of each thing that happens in it. */
    private readonly onRun: () => void,
  ) {}

  get isFrozen(): boolean {
    return this.#state === 'frozen';
  }

  get isDead(): boolean {
    return this.#state === 'dead';
  }

  now(): number {
    return this.offset + this.time.now * this.rate;
  }

  trueTimeOf(local: number): number {
    return (local - this.offset) / this.rate;
  }

  /** How many timers are set. */
  get pending(): number {
    return this.#timers.size;
  }

  after(delay: number, callback: () => void): Timer {
    if (!(delay < Number.POSITIVE_INFINITY)) throw new Error(`A timer of ${delay} ms.`);
    const timer = new SimulatedTimer((ended) => this.#timers.delete(ended));
    this.#timers.add(timer);
    this.#wake(delay, () => {
      if (!this.#timers.delete(timer)) return;
      callback();
    });
    return timer;
  }

  /** A pause of the program that runs here, which isn't one of the library's timers. */
  sleep(duration: number): Promise<void> {
    return new Promise((resolve) => this.#wake(duration, resolve));
  }

  /** The same as a callback, for what stands in for ioredis. */
  later(delay: number, work: () => void): void {
    this.#wake(delay, work);
  }

  /** Something comes in from outside. */
  arrive(work: () => void): void {
    this.#run('arrival', work);
  }

  freeze(duration: number): void {
    if (this.#state !== 'running') return;
    this.#state = 'frozen';
    const from = this.time.now;
    const freeze = { from, to: from + duration };
    this.freezes.push(freeze);
    this.time.at(freeze.to, () => {
      if (this.#state !== 'frozen') return;
      this.#state = 'running';
      const due = this.#due;
      this.#due = [];
      const first = this.random.pick(['timer', 'arrival', 'mixed'] as const);
      const order =
        first === 'mixed'
          ? due
          : [
              ...due.filter(({ kind }) => kind === first),
              ...due.filter(({ kind }) => kind !== first),
            ];
      for (const { kind, work } of order) this.time.at(this.time.now, () => this.#run(kind, work));
    });
  }

  /** How long it stood still between two true times, in true ms. */
  frozenBetween(from: number, to: number): number {
    let sum = 0;
    for (const freeze of this.freezes) {
      sum += Math.max(0, Math.min(to, freeze.to) - Math.max(from, freeze.from));
    }
    return sum;
  }

  kill(): void {
    this.#state = 'dead';
    this.#due = [];
  }

  #wake(delay: number, work: () => void): void {
    const early = delay > 2 ? TIMER_EARLY : 0;
    const jitter = this.random.between(-early, TIMER_LATE);
    // Node's shortest is one ms.
    const at = this.time.now + Math.max(1, delay / this.rate) + jitter;
    this.time.at(at, () => this.#run('timer', work));
  }

  #run(kind: 'timer' | 'arrival', work: () => void): void {
    if (this.#state === 'dead') return;
    if (this.#state === 'frozen') {
      this.#due.push({ kind, work });
      return;
    }
    this.onRun();
    work();
  }
}

type LoopState = 'running' | 'frozen' | 'dead';

class SimulatedTimer implements Timer {
  constructor(private readonly onEnd: (timer: SimulatedTimer) => void) {}

  cancel(): void {
    this.onEnd(this);
  }

  keepAlive(): void {}
}
