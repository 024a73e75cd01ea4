/**
 * What we set out to reach, as data: a measure of ours in a case, and its bound. Printed beside what was measured; a
 * target that is missed fails nothing, since timings depend on the machine.
 */
export interface Target {
  readonly workload: string;
  readonly case: string;
  /** What is bounded, for the reader. */
  readonly about: string;
  readonly measure: string;
  /** By default 'ours'. */
  readonly library?: string;
  /** Where the bound is on the ratio to another library in the same round. */
  readonly ratioTo?: string;
  readonly atMost?: number;
  readonly atLeast?: number;
}

export const targets: readonly Target[] = [
  { workload: 'W1', case: '', about: 'p50', measure: 'p50', ratioTo: 'raw', atMost: 1.15 },
  { workload: 'W1', case: '', about: 'round trips a cycle', measure: 'commands', atMost: 2 },
  { workload: 'W2', case: '', about: 'cycles/s', measure: 'rate', ratioTo: 'raw', atLeast: 1 },
  {
    workload: 'W2',
    case: '',
    about: 'client CPU/cycle',
    measure: 'clientCpu',
    ratioTo: 'raw',
    atMost: 0.8,
  },
  ...['hold 0', 'hold 0, next turn'].flatMap((one): Target[] => [
    {
      workload: 'W3',
      case: one,
      about: 'total time',
      measure: 'turn',
      ratioTo: 'polling',
      atMost: 0.1,
    },
    {
      workload: 'W3',
      case: one,
      about: 'total time',
      measure: 'turn',
      ratioTo: 'async-mutex',
      atMost: 1.2,
    },
    {
      workload: 'W3',
      case: one,
      about: 'commands/acquisition',
      measure: 'commands',
      atMost: 0.05,
    },
    { workload: 'W3', case: one, about: 'turns max/min', measure: 'fairness', atMost: 1.1 },
  ]),
  ...['burst', 'burst, hold 1 ms'].map((one): Target => ({
    workload: 'W3',
    case: one,
    about: 'all served',
    measure: 'total',
    ratioTo: 'async-mutex',
    atMost: 1.05,
  })),
];
