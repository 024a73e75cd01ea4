/**
 * P1, P3, P4, P5 while everything fails at once, again and again.
 *
 * Model: 4 processes of 3 workers each take one lock with a short ttl, each process through a proxy of its own. For some
 * seconds one fault follows another, several at a time: connections cut, hung, slowed, replies lost after their command
 * ran, processes and the server stopped, scripts flushed, subscribers thrown out. The server never loses data, since
 * without a guard that may give a key away twice (DESIGN.md section 5).
 *
 * Each worker writes down when it believed that it held the lock, on the one monotonic clock of the machine. Then no
 * two of these times may overlap, and their order must be that of their fencing tokens. The faults are drawn from a
 * seed, which a failure names: `STORM_SEED` draws them again, `STORM_SECONDS` makes it last longer.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { seededRandom } from '../support/seeded-random.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import { Observer } from './support/faults.js';
import type { Hold, StormCall, StormDone, StormOptions } from './support/storm-taker.js';

const PROCESSES = 4;
const WORKERS = 3;
const TTL = 400;
const COMMAND_TIMEOUT = 250;
const WAIT_TIMEOUT = 1_500;
const SLACK = 300;
const SECONDS = Number(process.env['STORM_SECONDS'] ?? 12);
const SEED = Number(process.env['STORM_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

type Taker = TestWorker<StormDone | 'ready', 'stop'>;

describe(`A storm of faults (STORM_SEED=${SEED})`, () => {
  let server: RedisServer;
  let observer: Observer;
  const proxies: TcpProxy[] = [];
  let takers: Taker[] = [];
  let holds: Hold[];
  let calls: StormCall[];
  const faults: Record<string, number> = {};

  beforeAll(
    async () => {
      server = await RedisServer.start();
      observer = new Observer(server.url);
      for (let n = 0; n < PROCESSES; n += 1) proxies.push(await TcpProxy.start(server.port));
      takers = proxies.map((proxy) => {
        const options: StormOptions = {
          locker: {
            connection: proxy.url,
            ttl: TTL,
            commandTimeout: COMMAND_TIMEOUT,
            waitTimeout: WAIT_TIMEOUT,
          },
          workers: WORKERS,
          work: 2 * TTL,
        };
        return spawnWorker(new URL('./support/storm-taker.ts', import.meta.url), {
          args: [JSON.stringify(options)],
        });
      });
      await Promise.all(
        takers.map((taker) => taker.next((message) => message === 'ready', 20_000)),
      );
      await rage();
      for (const taker of takers) taker.send('stop');
      const done = await Promise.all(
        takers.map((taker) =>
          taker.next((message): message is StormDone => message !== 'ready', 20_000),
        ),
      );
      holds = done.flatMap((each) => each.holds).toSorted((a, b) => a.fence - b.fence);
      calls = done.flatMap((each) => each.calls);
      report();
    },
    60_000 + SECONDS * 1_000,
  );

  afterAll(async () => {
    await Promise.all(takers.map((taker) => taker.kill()));
    await Promise.all(proxies.map((proxy) => proxy.close()));
    observer?.[Symbol.dispose]();
    await server?.stop();
  });

  async function rage(): Promise<void> {
    const random = seededRandom(SEED);
    const end = performance.now() + SECONDS * 1_000;
    const running = new Set<Promise<void>>();
    while (performance.now() < end) {
      const fault = FAULTS[Math.floor(random() * FAULTS.length)] as Fault;
      const n = Math.floor(random() * PROCESSES);
      const length = random() ** 2 * 2 * TTL;
      faults[fault.name] = (faults[fault.name] ?? 0) + 1;
      const work = fault(proxies[n] as TcpProxy, takers[n] as Taker, length).finally(() =>
        running.delete(work),
      );
      running.add(work);
      await pause(20 + random() * 200);
    }
    await Promise.all(running);
  }

  type Fault = (proxy: TcpProxy, taker: Taker, length: number) => Promise<void>;

  const FAULTS: readonly Fault[] = [
    async function cut(proxy) {
      proxy.cutAll();
    },
    async function hang(proxy, _taker, length) {
      proxy.hold();
      await pause(length);
      proxy.resume();
    },
    async function holdRequests(proxy, _taker, length) {
      proxy.hold('up');
      await pause(length);
      proxy.resume('up');
    },
    async function holdReplies(proxy, _taker, length) {
      proxy.hold('down');
      await pause(length);
      proxy.resume('down');
    },
    async function loseReply(proxy) {
      proxy.dropReplies(1);
    },
    async function loseOneConnectionForGood(proxy) {
      let silent = false;
      proxy.onRequest = () => {
        const verdict = silent ? 'pass' : 'hold';
        silent = true;
        return verdict;
      };
    },
    async function refuse(proxy, _taker, length) {
      proxy.refuse();
      proxy.cutAll();
      await pause(length);
      proxy.accept();
    },
    async function slow(proxy, _taker, length) {
      proxy.delay(length / 10);
      await pause(length);
      proxy.delay(0);
    },
    async function stopProcess(_proxy, taker, length) {
      taker.pause();
      await pause(length);
      taker.resume();
    },
    async function stopServer(_proxy, _taker, length) {
      server.pause();
      await pause(length / 2);
      server.resume();
    },
    async function flushScripts() {
      await observer.redis.script('FLUSH');
    },
    async function throwOutSubscribers() {
      await observer.redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    },
  ];

  function report(): void {
    const outcomes: Record<string, number> = {};
    for (const { what, outcome } of calls) {
      outcomes[`${what}: ${outcome}`] = (outcomes[`${what}: ${outcome}`] ?? 0) + 1;
    }
    process.stdout.write(
      `storm: seed ${SEED}, ${SECONDS} s, faults ${JSON.stringify(faults)}, ${JSON.stringify(outcomes)}\n`,
    );
  }

  it('no two holders ever believed at the same time that they held the lock', () => {
    const byTime = holds.toSorted((a, b) => a.from - b.from);
    const overlaps = byTime.flatMap((hold, i) => {
      const next = byTime[i + 1];
      return next !== undefined && hold.to > next.from
        ? [{ hold, next, by: hold.to - next.from }]
        : [];
    });
    expect(overlaps).toEqual([]);
    // Something was held at all, also by those who had to wait for others.
    expect(holds.length).toBeGreaterThan(SECONDS);
  });

  it('fencing tokens increase in the order of the holds, and none is given twice', () => {
    const inversions = holds.flatMap((hold, i) => {
      const next = holds[i + 1];
      const right = next === undefined || (hold.fence < next.fence && hold.from < next.from);
      return right ? [] : [{ hold, next }];
    });
    expect(inversions).toEqual([]);
  });

  it('every call ended within its bound, with an outcome of its own', () => {
    const bounds = {
      acquire: WAIT_TIMEOUT + COMMAND_TIMEOUT + SLACK,
      release: COMMAND_TIMEOUT + SLACK,
    };
    const late = calls.filter(({ what, took, stalled }) => !stalled && took > bounds[what]);
    expect(late).toEqual([]);
    const known = [
      'granted',
      'LOCK_TIMEOUT',
      'LOCK_UNAVAILABLE',
      'released',
      'lost',
      'unconfirmed',
    ];
    expect(calls.filter(({ outcome }) => !known.includes(outcome))).toEqual([]);
  });

  it('every process lived through it and ended by itself, and nothing remains in Redis', async () => {
    const exits = await Promise.all(takers.map(({ exited }) => exited));
    expect(exits).toEqual(takers.map(() => ({ code: 0, signal: null })));
    await eventually(async () => (await observer.remains()).length === 0, {
      timeout: TTL + COMMAND_TIMEOUT + SLACK,
    });
  });
});
