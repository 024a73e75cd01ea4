/**
 * What a seed makes up: how many processes, how they're set, what they want, and which faults they meet. The kinds of
 * faults take turns from seed to seed, so that each gets its share.
 */
import { Random } from './random.js';
import { CLEAR, type Weather } from './weather.js';

export type Fault =
  | 'connection cut'
  | 'subscription cut'
  | 'partition'
  | 'process frozen'
  | 'process killed'
  | 'process closed'
  | 'server frozen'
  | 'server restarted'
  | 'server restarted without data'
  /** Of a quorum: away for long, with its data, or without and for as long as any lease that it knew. */
  | 'server away'
  | 'server away, back without data';

interface Profile {
  readonly name: string;
  readonly weather: Weather;
  readonly faults: readonly Fault[];
  /** How long from one of them to the next on average, in ms. */
  readonly every: number;
  /** How much faster or slower than true time a clock runs at most; the promise is for two that differ by 1 %. */
  readonly drift: number;
  /** One command can't take keys together, as in a Cluster. */
  readonly apart?: boolean;
  /** How far the clocks of the independent servers of a quorum are apart at most, in ms; left out: there is one server. */
  readonly quorum?: readonly number[];
}

const ROUGH: Weather = {
  ...CLEAR,
  longest: 4,
  spike: 0.05,
  longestSpike: 400,
  loseCommand: 0.01,
  loseReply: 0.02,
  loseMessage: 0.2,
};

/** Also by more than a server lets itself be told (see `_fence-floor.lua`). */
const ANY_CLOCK = [0, 2, 50, 5_000, 600_000];

const PROFILES: readonly Profile[] = [
  { name: 'calm', weather: CLEAR, faults: [], every: 0, drift: 0.0004 },
  {
    name: 'network',
    weather: ROUGH,
    faults: ['connection cut', 'subscription cut', 'partition'],
    every: 600,
    drift: 0.0004,
  },
  {
    name: 'processes',
    weather: { ...CLEAR, longest: 3, loseMessage: 0.05 },
    faults: ['process frozen', 'process frozen', 'process killed', 'process closed'],
    every: 400,
    drift: 0.005,
  },
  {
    name: 'server',
    weather: { ...CLEAR, longest: 3, spike: 0.01, longestSpike: 100 },
    faults: ['server frozen', 'server frozen', 'server restarted'],
    every: 600,
    drift: 0.0004,
  },
  {
    name: 'cluster',
    weather: { ...ROUGH, ordered: false, duplicate: 0.05 },
    faults: ['connection cut', 'partition', 'process frozen'],
    every: 800,
    drift: 0.005,
    apart: true,
  },
  {
    name: 'everything',
    weather: ROUGH,
    faults: [
      'connection cut',
      'subscription cut',
      'partition',
      'process frozen',
      'process frozen',
      'process killed',
      'process closed',
      'server frozen',
      'server restarted',
    ],
    every: 300,
    drift: 0.005,
  },
  {
    name: 'lost data',
    weather: { ...CLEAR, longest: 4, spike: 0.02, longestSpike: 200, loseReply: 0.01 },
    faults: ['server restarted without data', 'process frozen', 'connection cut'],
    every: 700,
    drift: 0.005,
  },
  {
    name: 'quorum, calm',
    weather: CLEAR,
    faults: [],
    every: 0,
    drift: 0.0004,
    quorum: ANY_CLOCK,
  },
  {
    name: 'quorum, network',
    weather: { ...ROUGH, longestSpike: 200 },
    faults: ['connection cut', 'subscription cut', 'partition'],
    every: 400,
    drift: 0.005,
    quorum: ANY_CLOCK,
  },
  {
    name: 'quorum, nodes',
    weather: { ...CLEAR, longest: 3, spike: 0.02, longestSpike: 100 },
    faults: ['server frozen', 'server restarted', 'server away', 'process frozen'],
    every: 300,
    drift: 0.005,
    quorum: ANY_CLOCK,
  },
  {
    name: 'quorum, lost data',
    weather: { ...CLEAR, longest: 4, spike: 0.02, longestSpike: 200, loseReply: 0.01 },
    faults: ['server away, back without data', 'process frozen', 'connection cut'],
    every: 400,
    drift: 0.005,
    // What a node has forgotten, the others' clocks must make up for.
    quorum: [0, 2, 50],
  },
  {
    name: 'quorum, everything',
    weather: ROUGH,
    faults: [
      'connection cut',
      'subscription cut',
      'partition',
      'process frozen',
      'process killed',
      'process closed',
      'server frozen',
      'server restarted',
      'server away',
    ],
    every: 250,
    drift: 0.005,
    quorum: ANY_CLOCK,
  },
];

export const PROFILE_NAMES: readonly string[] = PROFILES.map(({ name }) => name);

export interface Scenario {
  readonly seed: number;
  readonly profile: string;
  readonly weather: Weather;
  readonly faults: readonly Fault[];
  readonly every: number;
  readonly drift: number;
  readonly apart: boolean;
  /** How far each server's clock is ahead, in ms: one, or the nodes of a quorum. */
  readonly servers: readonly number[];
  readonly processes: number;
  /** Callers in each process, and what each does, one after the other. */
  readonly callers: number;
  readonly steps: number;
  /** Keys that are held in any way but under a limit, and whether there's one that is. */
  readonly keys: readonly string[];
  readonly limit: number | undefined;
  readonly ttl: number;
  readonly commandTimeout: number;
  /** Of a quorum, for one node. */
  readonly nodeTimeout: number;
  readonly drainTimeout: number;
  readonly localHandover: boolean;
  readonly detectDeadlocks: boolean;
  readonly polls: boolean;
  /** How long the work under a lock takes at most. */
  readonly longestWork: number;
}

export function scenarioOf(seed: number): Scenario {
  const random = Random.of(seed, 'scenario');
  const profile = PROFILES[seed % PROFILES.length] as Profile;
  const { quorum } = profile;
  // Each command goes to all nodes, so that there are fewer.
  const processes = random.whole(2, quorum === undefined ? 4 : 3);
  const callers = random.whole(1, quorum === undefined ? 4 : 3);
  const operations = quorum === undefined ? random.whole(30, 60) : random.whole(10, 18);
  const ttl = random.pick([100, 100, 250, 800, 5_000]);
  const limit = random.chance(0.4) ? random.whole(1, 3) : undefined;
  const commandTimeout = random.pick([50, 100, 300, 1_000]);
  return {
    seed,
    profile: profile.name,
    weather: profile.weather,
    faults: profile.faults,
    every: profile.every,
    drift: profile.drift,
    apart: profile.apart ?? false,
    servers: quorum === undefined ? [0] : clocksOf(quorum, random),
    processes,
    callers,
    steps: Math.ceil(operations / processes / callers),
    keys: ['a', 'b', 'c'].slice(0, random.whole(1, 3)),
    // Majorities don't preserve counts.
    limit: quorum === undefined ? limit : undefined,
    ttl,
    commandTimeout,
    nodeTimeout: Math.min(commandTimeout, random.pick([25, 50, 100, 200])),
    drainTimeout: random.pick([1, 100, 1_000]),
    localHandover: random.chance(0.7),
    detectDeadlocks: random.chance(0.8),
    polls: random.chance(0.1),
    longestWork: random.pick([5, 50, Math.min(1_000, ttl), Math.min(2_000, 2 * ttl)]),
  };
}

function clocksOf(apart: readonly number[], random: Random): readonly number[] {
  const furthest = random.pick(apart);
  const count = random.pick([3, 3, 3, 4, 5]);
  return Array.from({ length: count }, () => random.whole(0, furthest));
}
