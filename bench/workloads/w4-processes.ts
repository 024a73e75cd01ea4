import { setTimeout as pause } from 'node:timers/promises';

import { Redis } from 'ioredis';

import type { LockClient } from '../adapters/adapter.js';
import { type ClientSpending, clientSpending, spentSince } from '../client-meter.js';
import { machineNow } from '../machine-clock.js';
import { percentile } from '../statistics.js';
import type { Bench, Measured, PeerSide, Workload } from './workload.js';

const PROCESSES = 4;
const WAITERS = 10;
const KEY = 'key';
const COUNTER = 'counter';
const HOLD = 1;
const WARM_UP = 300;
const DURATION = { quick: 1_500, full: 5_000 } as const;

/** When a process begins and ends, by the machine's clock. */
interface Period {
  readonly from: number;
  readonly to: number;
}

/** What one process saw: each of its turns by the machine's clock, in the order in which they began. */
interface Witness {
  readonly grants: Float64Array;
  readonly releases: Float64Array;
  /** Empty where the library has none. */
  readonly fencingTokens: Float64Array;
  /** Within the period. */
  readonly turns: readonly number[];
  readonly longestWait: number;
  readonly spent: ClientSpending;
}

/** The callers of one process, and what they saw. */
class Contenders {
  readonly #client: LockClient;
  readonly #redis: Redis;
  readonly #period: Period;
  readonly #grants: number[] = [];
  readonly #releases: number[] = [];
  readonly #fencingTokens: number[] = [];
  #longestWait = 0;

  constructor(client: LockClient, redis: Redis, period: Period) {
    this.#client = client;
    this.#redis = redis;
    this.#period = period;
  }

  async run(): Promise<Witness> {
    const before = clientSpending();
    let spent: ClientSpending | undefined;
    const contend = async (): Promise<number> => {
      let turns = 0;
      for (;;) {
        const asked = machineNow();
        if (asked >= this.#period.to) {
          spent ??= spentSince(before);
          return turns;
        }
        if (await this.#turn(asked)) turns += 1;
      }
    };
    const turns = await Promise.all(Array.from({ length: WAITERS }, contend));
    return {
      grants: Float64Array.from(this.#grants),
      releases: Float64Array.from(this.#releases),
      fencingTokens: Float64Array.from(this.#fencingTokens),
      turns,
      longestWait: this.#longestWait,
      spent: spent ?? spentSince(before),
    };
  }

  /** One turn, with the work that shows whether it was alone: a read, a pause, and the write of one more. */
  async #turn(asked: number): Promise<boolean> {
    const held = await this.#client.acquire(KEY);
    const granted = machineNow();
    const index = this.#grants.push(granted) - 1;
    if (this.#client.fencingToken !== undefined) {
      this.#fencingTokens.push(this.#client.fencingToken(held));
    }
    const count = Number(await this.#redis.get(COUNTER));
    await pause(HOLD);
    await this.#redis.set(COUNTER, count + 1);
    this.#releases[index] = machineNow();
    await this.#client.release(held);
    if (granted < this.#period.from || granted >= this.#period.to) return false;
    this.#longestWait = Math.max(this.#longestWait, granted - asked);
    return true;
  }
}

async function contender({ url, open, send, next }: PeerSide): Promise<void> {
  const client = await open();
  const redis = new Redis(url);
  await redis.ping();
  send('open');
  send(await new Contenders(client, redis, await next<Period>()).run());
}

async function contended({ startPeer, redis, meter, scale }: Bench): Promise<Measured> {
  const peers = await Promise.all(Array.from({ length: PROCESSES }, () => startPeer('contender')));
  await Promise.all(peers.map((peer) => peer.next()));
  const from = machineNow() + WARM_UP;
  const period: Period = { from, to: from + DURATION[scale] };
  const phase = await meter.begin();
  for (const peer of peers) peer.send(period);
  const witnesses = await Promise.all(peers.map((peer) => peer.next<Witness>()));
  const { serverCpu } = await phase.end();
  const history = new History(witnesses);
  const written = Number(await redis.get(COUNTER));
  const turns = witnesses.flatMap((witness) => witness.turns);
  const inPeriod = turns.reduce((sum, own) => sum + own, 0);
  const sum = (of: (spent: ClientSpending) => number): number =>
    witnesses.reduce((total, { spent }) => total + of(spent), 0);
  const gaps = history.gaps(period);
  // The counting begins with the warm-up, so it's shared among all turns of it; those of the work itself, a read and a
  // write a turn, are none of the library's.
  const untilEnd = history.turnsBefore(period.to);
  return {
    values: {
      rate: (inPeriod / DURATION[scale]) * 1_000,
      commands: sum(({ commands }) => commands) / untilEnd - 2,
      clientCpu: sum(({ cpu }) => cpu) / untilEnd,
      serverCpu: serverCpu / history.turns,
      turnsMin: Math.min(...turns),
      turnsMax: Math.max(...turns),
      fairness: Math.max(...turns) / Math.min(...turns),
      longestWait: Math.max(...witnesses.map(({ longestWait }) => longestWait)),
      handOverP50: percentile(gaps, 0.5),
      handOverP99: percentile(gaps, 0.99),
    },
    violations: history.overlaps + history.tokensNotRising + (history.turns - written),
    errors: 0,
  };
}

interface Turn {
  readonly granted: number;
  readonly released: number;
  readonly token: number | undefined;
}

/** All turns of all processes in the order in which they were granted. */
class History {
  readonly #turns: readonly Turn[];

  constructor(witnesses: readonly Witness[]) {
    this.#turns = witnesses
      .flatMap(({ grants, releases, fencingTokens }) =>
        Array.from(grants, (granted, i) => ({
          granted,
          released: releases[i] as number,
          token: fencingTokens[i],
        })),
      )
      .toSorted((a, b) => a.granted - b.granted);
  }

  get turns(): number {
    return this.#turns.length;
  }

  turnsBefore(time: number): number {
    return this.#turns.filter(({ granted }) => granted < time).length;
  }

  /** How often one was granted before the last had begun its release. */
  get overlaps(): number {
    return this.#pairs().filter(([last, next]) => next.granted < last.released).length;
  }

  get tokensNotRising(): number {
    return this.#pairs().filter(
      ([last, next]) =>
        last.token !== undefined && next.token !== undefined && next.token <= last.token,
    ).length;
  }

  /** From the beginning of each release to the next grant, in ms: nobody works meanwhile. */
  gaps({ from, to }: Period): number[] {
    return this.#pairs()
      .filter(([last, next]) => last.granted >= from && next.granted < to)
      .map(([last, next]) => next.granted - last.released);
  }

  #pairs(): [last: Turn, next: Turn][] {
    return this.#turns.slice(1).map((next, i) => [this.#turns[i] as Turn, next]);
  }
}

/** A hot key among processes. */
export const w4Processes: Workload = {
  id: 'W4',
  title: '4 processes x 10 waiters on one key',
  about:
    'Four processes with ten callers each come back for one key over and over. The work is a read-modify-write at Redis with a pause of 1 ms in between, so that two at a time would show. A hand-over is the time from the beginning of a release to the next grant, in whatever process.',
  cases: [
    {
      id: '',
      needs: ['waiting', 'processes'],
      measures: [
        { id: 'rate', title: 'turns/s', unit: '', digits: 0, ratioTo: ['polling'] },
        { id: 'handOverP50', title: 'hand-over p50', unit: 'ms', digits: 2 },
        { id: 'handOverP99', title: 'p99', unit: 'ms', digits: 2 },
        { id: 'turnsMin', title: 'turns min', unit: '', digits: 0 },
        { id: 'turnsMax', title: 'max', unit: '', digits: 0 },
        { id: 'fairness', title: 'max/min', unit: '', digits: 2 },
        { id: 'longestWait', title: 'longest wait', unit: 'ms', digits: 0 },
        { id: 'commands', title: 'commands/turn', unit: '', digits: 2 },
        { id: 'clientCpu', title: 'client CPU/turn', unit: 'µs', digits: 0 },
        { id: 'serverCpu', title: 'server CPU/turn', unit: 'µs', digits: 0 },
      ],
      run: contended,
    },
  ],
  roles: { contender },
};
