/** What many seeds came to, in numbers, and which of them failed. It can be sent from process to process. */
import type { SimulationReport } from './simulation.js';

export interface Failure {
  readonly seed: number;
  readonly profile: string;
  readonly violations: readonly string[];
}

/** So many violations of one seed are kept: the first says most. */
const VIOLATIONS_KEPT = 5;

export class Tally {
  seeds = 0;
  events = 0;
  /** In ms. */
  virtualTime = 0;
  readonly profiles: Record<string, number> = {};
  readonly faults: Record<string, number> = {};
  readonly counts: Record<string, number> = {};
  readonly failures: Failure[] = [];

  add({ seed, profile, events, lasted, faults, counts, violations }: SimulationReport): void {
    this.seeds += 1;
    this.events += events;
    this.virtualTime += lasted;
    add(this.profiles, { [profile]: 1 });
    add(this.faults, faults);
    add(this.counts, counts);
    if (violations.length > 0) {
      this.failures.push({ seed, profile, violations: violations.slice(0, VIOLATIONS_KEPT) });
    }
  }

  merge(other: Tally): void {
    this.seeds += other.seeds;
    this.events += other.events;
    this.virtualTime += other.virtualTime;
    add(this.profiles, other.profiles);
    add(this.faults, other.faults);
    add(this.counts, other.counts);
    this.failures.push(...other.failures);
  }

  /** How many calls of the library were made: those that are bounded and end. */
  get calls(): number {
    let sum = 0;
    for (const [what, count] of Object.entries(this.counts)) if (what.includes(': ')) sum += count;
    return sum;
  }

  get grants(): number {
    return this.counts['grants of the server'] ?? 0;
  }

  get faultCount(): number {
    return Object.values(this.faults).reduce((sum, count) => sum + count, 0);
  }

  /** One line. */
  get summary(): string {
    return `${number(this.seeds)} seeds, ${number(this.calls)} calls, ${number(this.grants)} grants, ${number(this.faultCount)} faults, ${number(this.virtualTime / 3_600_000)} virtual hours, ${number(this.failures.length)} seeds failed`;
  }

  /** All of it. */
  get lines(): string[] {
    const section = (title: string, counts: Readonly<Record<string, number>>) => [
      '',
      title,
      ...Object.entries(counts)
        .toSorted(([a], [b]) => (a < b ? -1 : 1))
        .map(([what, count]) => `  ${number(count).padStart(12)}  ${what}`),
    ];
    return [
      this.summary,
      ...section('Seeds by kind of faults', this.profiles),
      ...section('Faults', this.faults),
      ...section('Calls and what happened', this.counts),
    ];
  }
}

function number(value: number): string {
  return value.toLocaleString('en', { maximumFractionDigits: value < 100 ? 1 : 0 });
}

function add(to: Record<string, number>, from: Readonly<Record<string, number>>): void {
  for (const [key, count] of Object.entries(from)) to[key] = (to[key] ?? 0) + count;
}
