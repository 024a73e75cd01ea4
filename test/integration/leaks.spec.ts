/**
 * P5: nothing stays in the process, nothing stays at the server, and nothing keeps the process from ending.
 *
 * Model: a process with one locker on an ioredis client of its application, and another that holds what the first
 * waits for. It first does everything once, so that what is made once is made; then it's counted before and after
 * 10,000 locks on 10,000 keys, and before and after 1,000 waits that end in every possible way.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import { Observer } from './support/faults.js';
import type { Census, ProbeDone, ProbeTask } from './support/leak-probe.js';

const KEYS = 10_000;
const WAITS = 1_000;
/** What 10,000 keys may leave on the heap, in bytes each: caches of the engine's own making, not one object a key. */
const NOISE = 60;

let server: RedisServer;
let observer: Observer;

beforeAll(async () => {
  server = await RedisServer.start();
  observer = new Observer(server.url);
});

afterAll(async () => {
  observer[Symbol.dispose]();
  await server.stop();
});

describe('A process that has taken and given back many locks', () => {
  let probe: TestWorker<ProbeDone | 'ready', ProbeTask>;
  let before: Census;
  let serverBefore: ServerCensus;

  async function run(task: ProbeTask): Promise<ProbeDone> {
    probe.send(task);
    return probe.next((message): message is ProbeDone => message !== 'ready', 60_000);
  }

  beforeAll(async () => {
    probe = spawnWorker(new URL('./support/leak-probe.ts', import.meta.url), {
      args: [server.url],
    });
    await probe.next((message) => message === 'ready', 20_000);
    await run({ task: 'uncontended', keys: 2_000, from: 1_000_000 });
    await run({ task: 'contended', waits: 200 });
    ({ census: before } = await run({ task: 'uncontended', keys: 100, from: 2_000_000 }));
    serverBefore = await serverCensus();
  }, 60_000);

  afterAll(async () => {
    await probe.kill();
  });

  it('keeps nothing of the single lock, to begin with', () => {
    expect(before.objects).toEqual({
      Locker: 2,
      CleanUp: 2,
      Lease: 0,
      HeldLock: 0,
      LockName: 0,
      Reentry: 0,
      WaitQueue: 0,
      // The prototypes of its two kinds.
      Caller: 2,
    });
  });

  it(`has no object, timer, listener, socket or command more after ${KEYS} keys`, async () => {
    const { census: after, warnings } = await run({ task: 'uncontended', keys: KEYS, from: 0 });
    expect(after.objects).toEqual(before.objects);
    expect(after.resources).toEqual(before.resources);
    expect(after.clients).toEqual(before.clients);
    expect(after.heap - before.heap).toBeLessThan(KEYS * NOISE);
    expect(warnings).toEqual([]);
    expect(await serverCensus()).toEqual(serverBefore);
    // Of each key the last fencing token is left, and it has an expiry.
    expect(await observer.remains()).toEqual([]);
    const ends = await observer.redis.pttl('lock:{k0}');
    expect(ends === -2 || (ends > 0 && ends <= 20_000)).toBe(true);
  });

  it(`has none more after ${WAITS} contended waits: served, timed out, aborted`, async () => {
    const { census: after, outcomes, warnings } = await run({ task: 'contended', waits: WAITS });
    const { served, AbortError: aborted, LockTimeoutError: timedOut = 0 } = outcomes;
    expect([served, aborted]).toEqual([WAITS / 8, WAITS / 2]);
    // Those whose time was up before the first answer came, on a machine that is busy, say that there was none.
    expect(timedOut + (outcomes['LockUnavailableError'] ?? 0)).toBe(WAITS * (1 / 2 - 1 / 8));
    expect(timedOut).toBeGreaterThan(0);
    expect(after.objects).toEqual(before.objects);
    expect(after.resources).toEqual(before.resources);
    expect(after.clients).toEqual(before.clients);
    expect(warnings).toEqual([]);
    expect(await serverCensus()).toEqual(serverBefore);
    await eventually(async () => (await observer.remains()).length === 0);
  });

  it('may use one signal for many waits: no listener stays on it, and Node warns of none', async () => {
    const done = await run({ task: 'shared signal', waits: 100 });
    const { census: after, outcomes, warnings } = done;
    expect(outcomes).toEqual({ listenersAfterServed: 0, listeners: 0 });
    expect(warnings).toEqual([]);
    expect(after.objects).toEqual(before.objects);
  });

  it('ends by itself after close(), with no connection left at the server', async () => {
    const { census: closed } = await run({ task: 'close' });
    expect(closed.resources['Timeout'] ?? 0).toBe(0);
    const exit = await Promise.race([
      probe.exited,
      new Promise<string>((resolve) => {
        setTimeout(() => resolve('still there'), 3_000).unref();
      }),
    ]);
    expect(exit).toEqual({ code: 0, signal: null });
    await eventually(async () => (await serverCensus()).connections === 1);
    expect(await observer.redis.pubsub('CHANNELS', '*')).toEqual([]);
  });
});

describe('A Nest application', () => {
  it.each(['there', 'frozen', 'gone'])(
    'ends by itself after app.close(), with Redis %s',
    async (state) => {
      await using own = await RedisServer.start();
      const { url } = own;
      if (state === 'frozen') own.pause();
      if (state === 'gone') await own.kill();
      await using app = spawnWorker<string>(new URL('./support/nest-probe.ts', import.meta.url), {
        args: [url],
      });
      // With Redis there, the one who waits is refused by the shutdown; otherwise, since nobody can be asked.
      expect(await app.next(() => true, 20_000)).toBe('LockUnavailableError');
      const exit = await Promise.race([
        app.exited,
        new Promise<string>((resolve) => {
          setTimeout(() => resolve('still there'), 3_000).unref();
        }),
      ]);
      expect(exit).toEqual({ code: 0, signal: null });
    },
  );
});

/** What the server sees of its clients. */
interface ServerCensus {
  readonly connections: number;
  readonly subscriptions: number;
}

async function serverCensus(): Promise<ServerCensus> {
  const clients = String(await observer.redis.client('LIST'));
  const channels = (await observer.redis.pubsub('CHANNELS', '*')) as string[];
  return {
    connections: clients.trim().split('\n').length,
    subscriptions: channels.length,
  };
}
