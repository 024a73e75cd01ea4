/**
 * What the network is like at the moment: how long things take, and how often they're lost or come twice. A scenario sets
 * it; when the simulation comes to its end, the sky clears.
 */
import type { Random } from './random.js';
import type { VirtualTime } from './virtual-time.js';

export interface Weather {
  /** Of a message on its way, in ms: usually between these. */
  readonly shortest: number;
  readonly longest: number;
  /** How often one takes much longer, and how long at most. */
  readonly spike: number;
  readonly longestSpike: number;
  /** How often a command is lost before it's run, or its reply after that. */
  readonly loseCommand: number;
  readonly loseReply: number;
  /** How often a command is run twice. */
  readonly duplicate: number;
  /** How often a message to a subscriber is lost. */
  readonly loseMessage: number;
  /** What is sent over one connection arrives in order. Not so through a client that asks other nodes again (Cluster). */
  readonly ordered: boolean;
}

export const CLEAR: Weather = {
  shortest: 0.1,
  longest: 1,
  spike: 0,
  longestSpike: 0,
  loseCommand: 0,
  loseReply: 0,
  duplicate: 0,
  loseMessage: 0,
  ordered: true,
};

/** What went wrong, by kind. */
export class FaultCount {
  readonly byKind: Record<string, number> = {};

  add(kind: string): void {
    this.byKind[kind] = (this.byKind[kind] ?? 0) + 1;
  }
}

/** The way between one process and the server. */
export class Route {
  weather: Weather = CLEAR;
  /** True time up to which nothing gets through, either way. */
  #cutUntil = 0;

  constructor(
    readonly time: VirtualTime,
    readonly random: Random,
    readonly faults: FaultCount,
  ) {}

  get isCut(): boolean {
    return this.time.now < this.#cutUntil;
  }

  /** What is under way or sent meanwhile, arrives afterwards. */
  partition(duration: number): void {
    this.#cutUntil = Math.max(this.#cutUntil, this.time.now + duration);
  }

  heal(): void {
    this.#cutUntil = 0;
  }

  latency(): number {
    const { shortest, longest, spike, longestSpike } = this.weather;
    if (spike > 0 && this.random.chance(spike)) {
      this.faults.add('slow message');
      return this.random.between(longest, longestSpike);
    }
    return this.random.between(shortest, longest);
  }
}

/** One connection over a route, from its opening to its end. */
export class Wire {
  #lastThere = 0;
  #lastBack = 0;
  #open = true;
  /** What was sent to the server before the end may still get there. */
  #ghosts = 0;

  constructor(private readonly route: Route) {}

  get isOpen(): boolean {
    return this.#open;
  }

  /** To the server. */
  send(deliver: () => void): void {
    const { time, weather } = this.route;
    const at = Math.max(time.now + this.route.latency(), weather.ordered ? this.#lastThere : 0);
    this.#lastThere = Math.max(this.#lastThere, at);
    this.#deliver(at, () => {
      if (!this.#open && !this.#isGhost()) return;
      deliver();
    });
  }

  /** To the process. */
  reply(deliver: () => void): void {
    const { time, weather } = this.route;
    const at = Math.max(time.now + this.route.latency(), weather.ordered ? this.#lastBack : 0);
    this.#lastBack = Math.max(this.#lastBack, at);
    this.#deliver(at, () => {
      if (this.#open) deliver();
    });
  }

  /** `survive`: how likely what is on its way to the server is still run. */
  close(survive: number): void {
    this.#open = false;
    this.#ghosts = survive;
  }

  #isGhost(): boolean {
    if (this.#ghosts === 0 || !this.route.random.chance(this.#ghosts)) return false;
    this.route.faults.add('run after its connection was cut');
    return true;
  }

  #deliver(at: number, work: () => void): void {
    const { time } = this.route;
    time.at(at, () => {
      if (!this.route.isCut) work();
      else this.#deliver(time.now + this.route.random.between(1, 20), work);
    });
  }
}
