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
  {
    workload: 'W4',
    case: '',
    about: 'turns/s',
    measure: 'rate',
    ratioTo: 'polling',
    atLeast: 1.25,
  },
  { workload: 'W4', case: '', about: 'turns max/min', measure: 'fairness', atMost: 1.5 },
  {
    workload: 'W4',
    case: '',
    about: 'fewest turns (nobody left out)',
    measure: 'turnsMin',
    atLeast: 1,
  },
  { workload: 'W4', case: '', about: 'hand-over p99, ms', measure: 'handOverP99', atMost: 1 },
  { workload: 'W5', case: '', about: 'commands/s while waiting', measure: 'commands', atMost: 2 },
  { workload: 'W5', case: '', about: 'client CPU, %', measure: 'clientCpu', atMost: 1 },
  { workload: 'W5', case: '', about: 'all 500 served, ms', measure: 'served', atMost: 10 },
  { workload: 'W6', case: '', about: 'commands/s', measure: 'commands', atMost: 3 },
  {
    workload: 'W6',
    case: '',
    about: 'client CPU',
    measure: 'clientCpu',
    ratioTo: 'batch',
    atMost: 1.2,
  },
  { workload: 'W8', case: 'held lock', about: 'heap, bytes', measure: 'bytes', atMost: 700 },
  { workload: 'W8', case: 'waiter', about: 'heap, bytes', measure: 'bytes', atMost: 400 },
  { workload: 'W9', case: '', about: 'p50', measure: 'p50', ratioTo: 'polling', atMost: 0.15 },
  { workload: 'W9', case: '', about: 'one-way messages', measure: 'messages', atMost: 3 },
  {
    workload: 'W10',
    case: 'queued waiters',
    about: 'server time per release, most / least',
    measure: 'growth',
    atMost: 1.5,
  },
  {
    workload: 'W10',
    case: 'held keys',
    about: 'client CPU per lease and renewal, µs',
    measure: 'most',
    atMost: 5,
  },
  ...[3, 5].flatMap((nodes): Target[] => [
    {
      workload: 'W11',
      case: `${nodes} nodes`,
      about: 'p50',
      measure: 'p50',
      library: 'ours-quorum',
      ratioTo: 'raw-quorum',
      atMost: 0.9,
    },
    {
      workload: 'W11',
      case: `${nodes} nodes`,
      about: 'p50 with the second phase',
      measure: 'p50',
      library: 'ours-quorum-at-odds',
      ratioTo: 'raw-quorum',
      atMost: 1.8,
    },
  ]),
  {
    workload: 'decorator',
    case: '',
    about: 'over the service, µs a call',
    measure: 'difference',
    library: 'ours-decorator',
    atMost: 3,
  },
];
