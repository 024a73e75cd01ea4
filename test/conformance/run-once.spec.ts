/**
 * The suite of runs over a real redis-server, over three independent ones and over this process's memory; and what only a server
 * can do: be away.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import type { ClaimOutcome, ClaimReply, ClaimRequest } from '../../lib/core/backend/run-store.js';
import type { Unavailable } from '../../lib/core/backend/unavailable.js';
import type { LockName } from '../../lib/core/lock-name.js';
import { Locker } from '../../lib/core/locker.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { openBareBackend } from '../support/bare-backend.js';
import { eventually } from '../support/eventually.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { describeRunOnce, type RunStoreUnderTest } from './run-once.suite.js';

let server: RedisServer;
let nodes: RedisServer[];

beforeAll(async () => {
  server = await RedisServer.start();
  nodes = await RedisServer.startMany(3);
});

afterAll(async () => {
  await Promise.all([server, ...nodes].map((each) => each.stop()));
});

describeRunOnce('Redis', async (): Promise<RunStoreUnderTest> => {
  const client = new Redis(server.url);
  return {
    open: (options, wallClock) => new Locker({ connection: server.url, ...options }, { wallClock }),
    openBackend: () => openBareBackend({ connection: server.url }),
    kept: (name) => client.pttl(name.runs),
    close: async () => {
      client.disconnect();
    },
  };
});

describeRunOnce('quorum of 3', async (): Promise<RunStoreUnderTest> => {
  const connection = nodes.map(({ url }) => url);
  // Where several busy processes share a machine, a node may take a while.
  const nodeTimeout = 1_000;
  const clients = connection.map((url) => new Redis(url));
  return {
    open: (options, wallClock) =>
      new Locker({ connection, nodeTimeout, ...options }, { wallClock }),
    openBackend: () => openBareBackend({ connection, nodeTimeout }),
    kept: async (name) =>
      Math.max(...(await Promise.all(clients.map((client) => client.pttl(name.proposals))))),
    close: async () => {
      for (const client of clients) client.disconnect();
    },
  };
});

describeRunOnce('memory', async (): Promise<RunStoreUnderTest> => {
  const store = new MemoryStore();
  return {
    open: (options, wallClock) =>
      new Locker(
        { connection: 'memory', ...options },
        { backend: new MemoryBackend({ application: options.application }, store), wallClock },
      ),
    openBackend: () => new MemoryBackend({ application: undefined }, store),
    kept: async (name) => (store.runs.get(name.owner)?.until ?? 0) - Date.now(),
    close: async () => {},
  };
});

describe('runOnce, where another program wrote to its records,', () => {
  const RUNS = 'lock:run:{job}:runs';
  const TICK = { per: '1m', at: new Date(60_000) } as const;
  let locker: Locker;
  let client: Redis;

  beforeEach(async () => {
    client = new Redis(server.url);
    await client.flushall();
    locker = new Locker({ connection: server.url, drainTimeout: 1 });
  });

  afterEach(async () => {
    await locker.close();
    client.disconnect();
  });

  const run = { token: 'strange', tick: 0, instant: 0, attempt: 1, start: 0, host: 'h', pid: 1 };

  it.each([
    ['is not JSON', '{"token":'],
    ['is a text', '"text"'],
    ['is null', 'null'],
    ['is empty', '{}'],
    ['is of another token', JSON.stringify({ ...run, token: 'another', state: 'done' })],
    ['is in no known state', JSON.stringify({ ...run, state: 'going' })],
    ['has no tick', JSON.stringify({ ...run, tick: undefined, state: 'done' })],
    ['runs under no lock', JSON.stringify({ ...run, state: 'running' })],
  ])('runs nothing and says what to do: one that %s', async (_, record) => {
    await client.hset(RUNS, 'strange', record);
    let runs = 0;
    const runJob = () => locker.runOnce('job', TICK, () => (runs += 1));
    for (const call of [runJob, () => locker.runs('job')]) {
      const error = (await call().then(
        () => undefined,
        (thrown: unknown) => thrown,
      )) as { cause?: Error } | undefined;
      expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE', key: 'job', reason: 'refused' });
      expect(error?.cause?.message).toContain(`"${RUNS}" has in its field "strange"`);
      expect(error?.cause?.message).toContain('HDEL');
    }
    expect(runs).toBe(0);
    await client.hdel(RUNS, 'strange');
    expect(await runJob()).toMatchObject({ kind: 'ran', result: 1 });
  });

  it('records the end of what runs all the same', async () => {
    await locker.runOnce('job', TICK, () => client.hset(RUNS, 'strange', 'not JSON'));
    await client.hdel(RUNS, 'strange');
    expect(await locker.runs('job')).toMatchObject([{ state: 'done' }]);
  });

  it('shows no result that is no JSON, and skips the tick that has it', async () => {
    await locker.runOnce('job', TICK, () => 'all well');
    const [[token, record] = []] = Object.entries(await client.hgetall(RUNS));
    const spoilt = { ...(JSON.parse(record as string) as object), result: 'all well' };
    await client.hset(RUNS, token as string, JSON.stringify(spoilt));
    const shown = { state: 'done', result: undefined, resultOmitted: 'not-json' };
    expect(await locker.runs('job')).toMatchObject([shown]);
    expect(await locker.runOnce('job', TICK, () => {})).toMatchObject({
      kind: 'skipped',
      reason: 'done',
      run: shown,
    });
  });
});

describe('runOnce, where Redis is away,', () => {
  const closables: { close(): Promise<void> }[] = [];

  function open(options: Partial<LockerOptions> = {}): Locker {
    const locker = new Locker({ connection: server.url, drainTimeout: 1, ...options });
    closables.push(locker);
    return locker;
  }

  afterEach(async () => {
    await Promise.all(closables.splice(0).map((each) => each.close()));
  });

  it('runs nothing, and says so', async () => {
    const nobody = open({ connection: 'redis://127.0.0.1:1', commandTimeout: 200 });
    let ran = false;
    const work = () => {
      ran = true;
    };
    await expect(nobody.runOnce('away', { per: '1m' }, work)).rejects.toMatchObject({
      name: 'LockUnavailableError',
      key: 'away',
    });
    await expect(nobody.runs('away')).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    expect(ran).toBe(false);
  });

  it.each([
    ['look', 0, 'hold'],
    ['lock', 1, 'hold'],
    ['claim', 2, 'hold'],
    ['look', 0, 'cut-after-reply'],
    ['lock', 1, 'cut-after-reply'],
    ['claim', 2, 'cut-after-reply'],
  ] as const)(
    'runs nothing where it goes away on the way to the work: %s, %i, %s',
    async (command, before, verdict) => {
      const proxy = await TcpProxy.start(server.port);
      closables.push(proxy);
      const locker = open({ connection: proxy.url, commandTimeout: 200 });
      // From here on the scripts and the server's clock are known.
      await locker.runOnce('warm', { per: '1m' }, () => undefined);
      let scripts = 0;
      proxy.onRequest = (bytes) => {
        if (!bytes.includes('evalsha')) return 'pass';
        scripts += 1;
        return scripts === before + 1 ? verdict : 'pass';
      };
      let ran = false;
      const call = locker.runOnce(`${command} ${verdict}`, { per: '1m' }, () => {
        ran = true;
      });
      await expect(call).rejects.toMatchObject({ name: 'LockUnavailableError' });
      expect(scripts).toBeGreaterThan(before);
      expect(ran).toBe(false);
    },
  );

  it.each([false, true])(
    'leaves the tick to another replica, and to a retry, where the answer to its claim is lost: retryCrashed %p',
    async (retryCrashed) => {
      const proxy = await TcpProxy.start(server.port);
      closables.push(proxy);
      const [locker, other] = [open({ connection: proxy.url }), open()];
      await locker.runOnce('warm', { per: '1m' }, () => undefined);
      for (const retrier of [locker, other]) {
        const job = `lost claim ${retryCrashed} ${retrier === other ? 'other' : 'same'}`;
        const options = { per: '1m', at: new Date(0), retryCrashed } as const;
        let scripts = 0;
        proxy.onRequest = (bytes) => {
          if (!bytes.includes('evalsha')) return 'pass';
          scripts += 1;
          return scripts === 3 ? 'cut-after-reply' : 'pass';
        };
        await expect(locker.runOnce(job, options, () => 'first')).rejects.toMatchObject({
          code: 'LOCK_UNAVAILABLE',
        });
        expect(scripts).toBeGreaterThanOrEqual(3);
        await eventually(async () => (await other.runs(job)).length === 0);
        expect(await retrier.runOnce(job, options, () => 'again')).toMatchObject({
          kind: 'ran',
          attempt: 1,
          result: 'again',
        });
        expect(await other.runs(job)).toMatchObject([{ state: 'done', attempt: 1 }]);
      }
    },
  );

  it('records the end of a run when it is back, while the lock lasts; others wait until then', async () => {
    const proxy = await TcpProxy.start(server.port);
    closables.push(proxy);
    const runner = open({ connection: proxy.url, commandTimeout: 200 });
    const other = open();
    const options = { per: '1m', ttl: '5s', retryCrashed: true } as const;
    const outcome = runner.runOnce('back', options, async () => {
      proxy.refuse();
      proxy.cutAll();
      return 'result';
    });
    await eventually(async () => (await other.runs('back'))[0]?.state === 'running');
    const waiting = other.runOnce('back', options, () => 'again');
    setTimeout(() => proxy.accept(), 600);
    expect(await outcome).toMatchObject({ kind: 'ran', result: 'result' });
    expect(await waiting).toMatchObject({ kind: 'skipped', reason: 'done' });
    expect(await other.runs('back')).toMatchObject([{ state: 'done', result: 'result' }]);
  });

  it('gives the result of a run whose end could not be recorded, within a ttl', async () => {
    const proxy = await TcpProxy.start(server.port);
    closables.push(proxy);
    const runner = open({ connection: proxy.url, commandTimeout: 100 });
    const other = open();
    const options = { per: '1m', ttl: 400 } as const;
    const started = performance.now();
    const outcome = await runner.runOnce('gone', options, async () => {
      proxy.hold();
      return 'result';
    });
    expect(outcome).toMatchObject({ kind: 'ran', result: 'result' });
    expect(performance.now() - started).toBeLessThan(3_000);
    await eventually(async () => (await other.runs('gone'))[0]?.state === 'crashed');
  });

  it('records the end of a run also where the server has no memory left', async () => {
    const locker = open();
    const client = new Redis(server.url);
    closables.push({ close: async () => client.disconnect() });
    try {
      await locker.runOnce('full', { per: '1m', at: new Date(0) }, async () => {
        await client.config('SET', 'maxmemory', '1');
      });
      const next = locker.runOnce('full', { per: '1m', at: new Date(60_000) }, () => 1);
      await expect(next).rejects.toMatchObject({ name: 'LockUnavailableError', reason: 'refused' });
      expect(await locker.runs('full')).toMatchObject([{ tick: new Date(0), state: 'done' }]);
    } finally {
      await client.config('SET', 'maxmemory', '0');
    }
  });
});

describe('runOnce, where its claim comes to nothing,', () => {
  const closables: Locker[] = [];

  afterEach(async () => {
    await Promise.all(closables.splice(0).map((each) => each.close()));
  });

  const lost: Unavailable = {
    kind: 'unavailable',
    reason: 'no-answer',
    cause: undefined,
    mayHaveRun: true,
  };

  type Claim = (name: LockName, request: ClaimRequest) => Promise<ClaimReply>;

  /** Two processes, of which the first has its claims answered by `answer`, with what would truly answer them. */
  function openTwo(
    answer: (claim: () => Promise<ClaimReply>, request: ClaimRequest) => Promise<ClaimOutcome>,
    options: Partial<LockerOptions> = {},
  ): readonly [Locker, Locker] {
    const store = new MemoryStore();
    const backend = new MemoryBackend({ application: undefined }, store);
    const claim: Claim = backend.runs.claim.bind(backend.runs);
    backend.runs.claim = ((name, request) =>
      request.run.lock === undefined
        ? claim(name, request)
        : answer(() => claim(name, request), request)) as Claim;
    // As a connection that's closed.
    const abandon = backend.runs.abandon.bind(backend.runs);
    let closed = false;
    backend.close = async () => {
      closed = true;
    };
    backend.runs.abandon = async (name, token) => (closed ? lost : abandon(name, token));
    const given = { connection: 'memory', drainTimeout: 1, ...options } as const;
    const first = new Locker(given, { backend });
    const second = new Locker(given, {
      backend: new MemoryBackend({ application: undefined }, store),
    });
    closables.push(first, second);
    return [first, second];
  }

  const at = new Date(0);

  it('undoes one that arrives after it was undone, too', async () => {
    let arrived = false;
    let delayed = true;
    const [first, second] = openTwo(
      async (claim) => {
        if (!delayed) return claim();
        delayed = false;
        setTimeout(() => void claim().then(({ kind }) => (arrived = kind === 'begun')), 50);
        return lost;
      },
      { commandTimeout: 200 },
    );
    const options = { per: '1m', at } as const;
    await expect(first.runOnce('job', options, () => 1)).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
    });
    await eventually(() => arrived);
    expect(await second.runs('job')).toHaveLength(1);
    // Its own process knows better, before it is undone for the second time.
    expect(await first.runOnce('job', options, () => 2)).toMatchObject({ kind: 'ran', attempt: 1 });
    expect(await second.runs('job')).toMatchObject([{ state: 'done', result: 2 }]);
  });

  it('is undone for the others once a claim that is late would be refused', async () => {
    const [first, second] = openTwo(
      async (claim) => {
        setTimeout(() => void claim(), 50);
        return lost;
      },
      { commandTimeout: 200 },
    );
    await expect(first.runOnce('job', { per: '1m', at }, () => 1)).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
    });
    await eventually(async () => (await second.runs('job')).length === 1);
    await eventually(async () => (await second.runs('job')).length === 0);
    expect(await second.runOnce('job', { per: '1m', at }, () => 2)).toMatchObject({ kind: 'ran' });
  });

  it('leaves the tick to others where its lock was gone before it knew that it had begun', async () => {
    const [first, second] = openTwo(async (claim) => {
      const reply = await claim();
      await new Promise((resolve) => setTimeout(resolve, 150));
      return reply;
    });
    let ran = false;
    const options = { per: '1m', at, maxHold: 100 } as const;
    const call = first.runOnce('job', options, () => {
      ran = true;
    });
    await expect(call).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
      cause: { reason: 'max-hold' },
    });
    expect(ran).toBe(false);
    expect(await second.runOnce('job', options, () => 2)).toMatchObject({
      kind: 'ran',
      attempt: 1,
      result: 2,
    });
  });

  it('is undone also where the locker closes meanwhile', async () => {
    let claimed!: () => void;
    const underWay = new Promise<void>((resolve) => (claimed = resolve));
    const [first, second] = openTwo(async (claim) => {
      const reply = await claim();
      claimed();
      await new Promise((resolve) => setTimeout(resolve, 100));
      return reply;
    });
    const call = first.runOnce('job', { per: '1m', at }, () => 1);
    const closed = underWay.then(() => first.close());
    await expect(call).rejects.toMatchObject({ code: 'LOCK_UNAVAILABLE' });
    await closed;
    expect(await second.runs('job')).toEqual([]);
  });

  it('tries again under another lock: that of the last try may be taken yet', async () => {
    // Where locks are kept by default, those of runs are for a moment.
    let unsure = true;
    const [first] = openTwo(
      async (claim) => {
        if (!unsure) return claim();
        unsure = false;
        return { kind: 'unsure', run: undefined, running: [] };
      },
      { holdAtLeast: '5s' },
    );
    expect(await first.runOnce('job', { per: '1m', at }, () => 1)).toMatchObject({ kind: 'ran' });
  });
});
