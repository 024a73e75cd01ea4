/**
 * A scenario: a topology, what's done to it again and again, and what is promised of our library meanwhile.
 *
 * What is promised depends on the options: `promised` holds with none, `guarded` with `guard: true`. `shows` is what must
 * be seen to go wrong, or the run proves nothing: a judge that never finds anything may be blind, and a fault that harms
 * nobody may not have happened.
 */
import { machineNow } from '../../bench/machine-clock.js';
import type { Crew } from './crew.js';
import { type Fault, type Invariant, INVARIANTS } from './judge.js';
import type { Site } from './sites/site.js';
import type { Protocol } from './steps.js';

export interface Scenario<S extends Site = Site> {
  readonly name: string;
  readonly topology: S['topology'];
  /** What's done, in a sentence. */
  readonly about: string;
  /** Of our library with no options. */
  readonly promised: readonly Invariant[];
  /** The same with its guard. */
  readonly guarded: readonly Invariant[];
  /** Why not everything is promised, where it isn't. */
  readonly because?: string;
  /** Who must be seen to break what. */
  readonly shows: readonly { readonly subject: string; readonly invariant: Invariant }[];
  /** In ms, where it must be longer than what the scenario does takes. @default 600 */
  readonly ttl?: number;
  /** How long a server that was replaced may go on granting, in ms: what the guard has to reckon with. @default 0 */
  readonly lag?: number;
  /** How many keys there are to take. @default 4 */
  readonly keys?: number;
  /** How many may hold a key at a time. @default one */
  readonly limit?: number;
  /** Processes are struck in steps of the protocol: only for those whose steps a proxy can tell. */
  readonly steps?: true;
  /** How long a trial takes at least, in s: for as long as a fault takes. @default 5 */
  readonly shortest?: number;
  /** Why it can't be run here, if it can't. */
  unavailable?(): string | undefined;
  open(processes: number): Promise<S>;
  /** Does one fault, from its beginning to its end. */
  fault(stage: Stage<S>): Promise<void>;
  /** The pause between two faults: from, to, in ms. */
  readonly pauses: readonly [number, number];
}

/** What a fault has to work with. */
export class Stage<S extends Site = Site> {
  readonly faults: Fault[] = [];
  #turn = 0;

  constructor(
    readonly site: S,
    readonly crew: Crew,
    readonly ttl: number,
    readonly lag: number,
    /** Random numbers of the run's seed. */
    readonly random: () => number,
    readonly protocol: Protocol | undefined,
  ) {}

  /** One after the other, from a random one on. */
  nextOf<T>(all: readonly T[]): T {
    if (this.#turn === 0) this.#turn = 1 + Math.floor(this.random() * all.length);
    this.#turn += 1;
    return all[this.#turn % all.length] as T;
  }

  /** A number between two. */
  between(from: number, to: number): number {
    return from + this.random() * (to - from);
  }

  /** One of several. */
  pick<T>(all: readonly T[]): T {
    return all[Math.floor(this.random() * all.length)] as T;
  }

  /** A place in the crew. */
  place(): number {
    return Math.floor(this.random() * this.crew.size);
  }

  note(name: string, facts: Partial<Omit<Fault, 'name'>> = {}): void {
    this.faults.push({ name, at: machineNow(), ...facts });
  }
}

/** What is judged where so many may hold a key at a time: of those who share it, neither order nor losses nor writes. */
const OF_LIMITS: readonly Invariant[] = ['I2', 'I4', 'I5', 'I7', 'I8', 'I10'];
/** What is judged of a lock for one. */
export const EVERYTHING: readonly Invariant[] = INVARIANTS.filter((each) => each !== 'I8');

export function judgedOf(limit: number | undefined): readonly Invariant[] {
  return limit === undefined ? EVERYTHING : OF_LIMITS;
}

/**
 * The same where a place in the queue may be lost: with the server's data, on a way that's cut, behind a master that's replaced.
 * Over several nodes each has a queue of its own.
 */
export const UNORDERED: readonly Invariant[] = everythingBut('I6');

export function everythingBut(...without: Invariant[]): readonly Invariant[] {
  return EVERYTHING.filter((invariant) => !without.includes(invariant));
}
