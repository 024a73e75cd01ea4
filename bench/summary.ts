import type { MeasurementOutcome } from './process/measurement.js';
import { median } from './statistics.js';
import type { Measure } from './workloads/workload.js';

/** One run that was made, as the result file keeps it. */
export interface Run {
  readonly workload: string;
  readonly case: string;
  readonly library: string;
  readonly round: number;
  /** How long it took in all, in ms. */
  readonly took: number;
  readonly outcome: MeasurementOutcome;
}

/** A figure over all rounds. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** What all rounds of one library say, in one case. */
export class Summary {
  readonly #own: readonly Run[];
  readonly #all: readonly Run[];

  /** @param all the runs of this case, of all libraries */
  constructor(all: readonly Run[], library: string) {
    this.#all = all;
    this.#own = all.filter((run) => run.library === library);
  }

  get rounds(): number {
    return this.#own.length;
  }

  spread(measure: string): Spread | undefined {
    return spreadOf(this.#own.flatMap((run) => valueIn(run, measure) ?? []));
  }

  /** Beside another library, round by round: what both had in common in a round cancels out. */
  ratio(measure: string, other: string): Spread | undefined {
    const ratios = this.#own.flatMap((run) => {
      const base = this.#all.find(({ library, round }) => library === other && round === run.round);
      const [value, beside] = [valueIn(run, measure), base && valueIn(base, measure)];
      return value === undefined || beside === undefined ? [] : [value / beside];
    });
    return spreadOf(ratios);
  }

  get violations(): number {
    return this.#own.reduce((sum, { outcome }) => sum + count(outcome, 'violations'), 0);
  }

  get errors(): number {
    return this.#own.reduce((sum, { outcome }) => sum + count(outcome, 'errors'), 0);
  }

  /** What the runs said that came to no result. */
  get failures(): readonly string[] {
    return this.#own.flatMap(({ outcome }) => ('failed' in outcome ? [outcome.failed] : []));
  }
}

/** All ratios and spreads of a case's measures, for the result file. */
export function summaryRecord(summary: Summary, measures: readonly Measure[]): object {
  return Object.fromEntries(
    measures.map(({ id, ratioTo = [] }) => [
      id,
      {
        ...summary.spread(id),
        ratios: Object.fromEntries(ratioTo.map((other) => [other, summary.ratio(id, other)])),
      },
    ]),
  );
}

function valueIn({ outcome }: Run, measure: string): number | undefined {
  return 'measured' in outcome ? outcome.measured.values[measure] : undefined;
}

function count(outcome: MeasurementOutcome, what: 'violations' | 'errors'): number {
  return 'measured' in outcome ? outcome.measured[what] : 0;
}

function spreadOf(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}
