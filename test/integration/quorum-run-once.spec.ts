/**
 * `runOnce` over several independent nodes: a tick is claimed once, whichever of them are away, come back or have lost what they
 * knew, and wherever a claim is interrupted.
 *
 * Model: nodes, of which a minority is lost at any time, and lockers of this process, each with connections of its own. Ticks
 * are told by their instant, so that nothing depends on a clock.
 */
import { afterEach, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';
import { QuorumBackend } from '../../lib/core/backend/quorum-backend.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import type { Ballot, RunAcceptor } from '../../lib/core/backend/run-acceptor.js';
import type { ClaimRequest, StoredRun } from '../../lib/core/backend/run-store.js';
import { systemClock } from '../../lib/core/clock.js';
import type { LockUnavailableError } from '../../lib/core/errors.js';
import { LockEmitter } from '../../lib/core/events.js';
import { Locker } from '../../lib/core/locker.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { LockerOptions } from '../../lib/core/options.js';
import { eventually } from '../support/eventually.js';
import { RedisServer, type RedisServerOptions } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const MINUTE = 60_000;
const DAY = 1_440 * MINUTE;
const JOB = 'report';
const RUNS = LockName.of('lock:run', JOB);

let servers: RedisServer[] = [];
const opened: { close(): unknown }[] = [];

async function start(count: number, options: RedisServerOptions = {}): Promise<void> {
  servers = await RedisServer.startMany(count, options);
}

function open(options: Partial<LockerOptions> = {}): Locker {
  const connection = servers.map(({ url }) => url);
  const locker = new Locker({ connection, drainTimeout: 1, nodeTimeout: 500, ...options });
  opened.push(locker);
  return locker;
}

function node(index: number): RedisServer {
  return servers[index] as RedisServer;
}

const BARE = {
  commandTimeout: 1_000,
  prefix: 'lock',
  wakeUp: 'publish',
  application: undefined,
} as const;

/** The bare backend of one node. */
function openNode(index: number): RedisBackend {
  const options = { ...BARE, connection: node(index).url };
  const backend = new RedisBackend(options, systemClock, new LockEmitter());
  opened.push(backend);
  return backend;
}

/** The bare backend of all nodes; `watch` may replace what an acceptor does. */
function openAll(watch: (acceptor: RunAcceptor) => void = () => {}): QuorumBackend {
  const backend = new QuorumBackend(
    { ...BARE, connection: servers.map(({ url }) => url), nodeTimeout: 1_000 },
    systemClock,
    Math.random,
    new LockEmitter(),
    (options, events) => {
      const ofNode = new RedisBackend(options, systemClock, events);
      watch(ofNode.acceptor);
      return ofNode;
    },
  );
  opened.push(backend);
  return backend;
}

/** A claim of the tick 0 for a run that holds a lock. */
function claimOf(token: string): ClaimRequest {
  const fence = String(Date.now() * 1_000);
  return {
    run: { token, lock: token, fence, tick: 0, host: token, pid: 1 },
    ...{ instant: 0, per: MINUTE, overlap: 'skip', attempts: 1, keep: 10, retain: DAY },
    ...{ within: MINUTE, dead: [], alive: [], abandoned: [] },
  };
}

function optionsOf(tick: number) {
  return { per: '1m', at: new Date(tick * MINUTE) } as const;
}

function runTick<R>(locker: Locker, tick: number, work: () => R | Promise<R>) {
  return locker.runOnce(JOB, optionsOf(tick), work);
}

/** What is recorded, newest first: tick, state, attempt. */
async function recorded(locker: Locker): Promise<string[]> {
  const records = await locker.runs(JOB);
  return records.map(
    ({ tick, state, attempt }) => `${tick.getTime() / MINUTE} ${state} ${attempt}`,
  );
}

/** What a node knows of the job. */
async function knownAt(index: number): Promise<readonly StoredRun[]> {
  const client = new Redis(node(index).url);
  try {
    const runs = await client.hget(RUNS.proposals, 'runs');
    return JSON.parse(runs ?? '[]') as StoredRun[];
  } finally {
    client.disconnect();
  }
}

/** Waits until the last step is known everywhere: a majority decides, and the others are told as well. */
async function knownEverywhere(count: number): Promise<void> {
  await eventually(
    async () => {
      const known = await Promise.all(servers.map((_, index) => knownAt(index)));
      return known.every(
        (runs) => runs.length === count && runs.every(({ state }) => state !== 'running'),
      );
    },
    { message: 'every node knows of the runs' },
  );
}

afterEach(async () => {
  await Promise.all(opened.splice(0).map((one) => one.close()));
  await Promise.all(servers.map((server) => server.stop()));
});

it.each([3, 4, 5])('a tick is run by one of many who come at once: %i nodes', async (count) => {
  await start(count);
  const lockers = Array.from({ length: 6 }, () => open({ commandTimeout: '5s' }));
  await Promise.all(lockers.map((locker) => locker.connect()));
  for (let tick = 0; tick < 3; tick += 1) {
    let runs = 0;
    const outcomes = await Promise.all(
      lockers.map((locker) => runTick(locker, tick, () => (runs += 1))),
    );
    expect(runs).toBe(1);
    expect(outcomes.filter(({ kind }) => kind === 'ran')).toHaveLength(1);
  }
  expect(await recorded(open())).toEqual(['2 done 1', '1 done 1', '0 done 1']);
});

it('who is outvoted finds the tick claimed, and outvotes nobody any more', async () => {
  await start(3);
  const winner = openAll();
  let promises = 0;
  let won: Promise<unknown> | undefined;
  const loser = openAll((acceptor) => {
    const promise = acceptor.promise.bind(acceptor);
    const accept = acceptor.accept.bind(acceptor);
    acceptor.promise = (...args) => {
      promises += 1;
      return promise(...args);
    };
    acceptor.accept = async (...args) => {
      won ??= winner.runs.claim(RUNS, claimOf('winner'));
      expect(await won).toMatchObject({ kind: 'begun' });
      return accept(...args);
    };
  });
  expect(await loser.runs.claim(RUNS, claimOf('loser'))).toMatchObject({
    kind: 'running',
    run: { token: 'winner' },
  });
  expect(promises).toBe(3);
});

describe('a node that is away', () => {
  it('when a tick is run, cannot give it again when it is back', async () => {
    await start(3);
    await node(2).kill();
    expect(await runTick(open(), 0, () => 'done')).toMatchObject({ kind: 'ran' });
    await node(2).restart();
    // Of the two that know of it, only one is left.
    await node(0).kill();
    expect(await knownAt(2)).toEqual([]);
    const other = open();
    expect(await runTick(other, 0, () => 'again')).toMatchObject({
      kind: 'skipped',
      reason: 'done',
      run: { result: 'done' },
    });
    expect(await recorded(other)).toEqual(['0 done 1']);
    // And it learned of it.
    expect(await knownAt(2)).toMatchObject([{ state: 'done' }]);
  });

  it('when a run ends, does not keep it from having ended', async () => {
    await start(3);
    const [runner, other] = [open(), open()];
    await runTick(runner, 0, () => node(1).kill());
    expect(await recorded(other)).toEqual(['0 done 1']);
    expect(await runTick(other, 1, () => 1)).toMatchObject({ kind: 'ran' });
  });

  it('frozen, is waited for once', async () => {
    await start(3);
    const locker = open({ commandTimeout: '2s', nodeTimeout: 500 });
    await runTick(locker, 0, () => 0);
    node(0).pause();
    try {
      const since = performance.now();
      for (let tick = 1; tick <= 10; tick += 1) {
        expect(await runTick(locker, tick, () => tick)).toMatchObject({ kind: 'ran' });
      }
      expect((performance.now() - since) / (10 * 500)).toBeLessThan(0.5);
    } finally {
      node(0).resume();
    }
  });

  it('with another one leaves no majority: nothing is run, and all goes on when it is back', async () => {
    await start(3);
    const locker = open();
    await runTick(locker, 0, () => 0);
    await knownEverywhere(1);
    await Promise.all([node(0).kill(), node(1).kill()]);
    let ran = false;
    await expect(runTick(locker, 1, () => (ran = true))).rejects.toMatchObject({
      code: 'LOCK_UNAVAILABLE',
      reason: 'quorum',
    });
    await expect(locker.runs(JOB)).rejects.toMatchObject({ reason: 'quorum' });
    expect(ran).toBe(false);
    await node(1).restart();
    const outcome = await eventually(() => runTick(locker, 1, () => 1).catch(() => undefined));
    expect(outcome).toMatchObject({ kind: 'ran', attempt: 1 });
  });
});

describe('a node that comes back empty', () => {
  it.each([
    ['beside both others', undefined],
    ['beside one other', 2],
  ])('gives no tick again, %s, and is told of it', async (_, away) => {
    await start(3);
    await runTick(open(), 0, () => 'done');
    await knownEverywhere(1);
    await node(0).restart({ keepData: false });
    if (away !== undefined) await node(away).kill();
    const other = open();
    expect(await runTick(other, 0, () => 'again')).toMatchObject({
      kind: 'skipped',
      reason: 'done',
    });
    expect(await runTick(other, 1, () => 'next')).toMatchObject({ kind: 'ran' });
    await eventually(async () => (await knownAt(0)).length === 2);
  });

  it('in the middle of a run, changes nothing for it', async () => {
    await start(3);
    const [runner, other] = [open(), open()];
    const outcome = await runTick(runner, 0, async () => {
      await node(0).restart({ keepData: false });
      // Once it's heard again by the other process: whether the run's lock is held, the rest says.
      await eventually(async () => {
        const skipped = await runTick(other, 0, () => 'again');
        return skipped.kind === 'skipped' && skipped.reason === 'claimed';
      });
      return 'first';
    });
    expect(outcome).toMatchObject({ kind: 'ran', result: 'first' });
    expect(await recorded(other)).toEqual(['0 done 1']);
  });
});

describe('a node that comes back with older data', () => {
  it('gives no tick again, though another one was away when it was run, and the third is slow', async () => {
    await start(3, { persistence: 'aof' });
    await runTick(open(), 0, () => 'done');
    await knownEverywhere(1);
    const client = new Redis(node(0).url);
    opened.push({ close: () => client.disconnect() });
    const older = await client.dumpBuffer(RUNS.proposals);
    await node(2).kill();
    expect(await runTick(open(), 1, () => 'done')).toMatchObject({ kind: 'ran' });
    await eventually(async () => (await knownAt(0))[0]?.state === 'done');
    await node(2).restart();
    await client.restore(RUNS.proposals, DAY, older, 'REPLACE');
    const way = await TcpProxy.start(node(1).port);
    opened.push(way);
    way.delay(50, 'down');
    const connection = [node(0).url, way.url, node(2).url];
    const other = open({ connection, nodeTimeout: 1_000 });
    expect(await runTick(other, 1, () => 'again')).toMatchObject({
      kind: 'skipped',
      reason: 'done',
    });
    expect(await recorded(open())).toEqual(['1 done 1', '0 done 1']);
  });
});

describe('a claimant that crashes between the nodes', () => {
  /** It has promises of all, and only the first node accepts its claim. Its lock is held nowhere. */
  async function claimAtFirstOnly(): Promise<void> {
    const acceptors = servers.map((_, index) => openNode(index).acceptor);
    const ballot: Ballot = { number: Date.now() * 1_000, by: 'crashed' };
    for (const acceptor of acceptors) {
      expect(await acceptor.promise(RUNS, ballot, DAY)).toMatchObject({ kind: 'promised' });
    }
    const run: StoredRun = {
      token: 'crashed',
      lock: 'crashedclaim',
      fence: String(ballot.number),
      tick: 0,
      instant: 0,
      host: 'gone',
      pid: 1,
      state: 'running',
      attempt: 1,
      start: Date.now(),
    };
    expect(await acceptors[0]?.accept(RUNS, ballot, DAY, [run])).toEqual({ kind: 'accepted' });
  }

  it('has claimed the tick, where the next step hears of it', async () => {
    await start(3);
    await claimAtFirstOnly();
    await node(2).kill();
    const other = open();
    expect(await runTick(other, 0, () => 'again')).toMatchObject({
      kind: 'skipped',
      reason: 'crashed',
      run: { host: 'gone' },
    });
    // From now on it counts, whoever is asked.
    await node(2).restart();
    await node(0).kill();
    expect(await recorded(open())).toEqual(['0 crashed 1']);
  });

  it('has it run once more where that is asked for', async () => {
    await start(3);
    await claimAtFirstOnly();
    await node(2).kill();
    const options = { ...optionsOf(0), retryCrashed: true };
    expect(await open().runOnce(JOB, options, () => 'again')).toMatchObject({
      kind: 'ran',
      attempt: 2,
    });
  });

  it('has claimed nothing, where it does not: and never will have', async () => {
    await start(3, { persistence: 'aof' });
    await claimAtFirstOnly();
    await node(0).kill();
    expect(await runTick(open(), 0, () => 'mine')).toMatchObject({ kind: 'ran', attempt: 1 });
    await node(0).restart();
    await node(1).kill();
    expect(await knownAt(0)).toMatchObject([{ state: 'running', host: 'gone' }]);
    const other = open();
    expect(await runTick(other, 0, () => 'again')).toMatchObject({
      kind: 'skipped',
      reason: 'done',
      run: { result: 'mine' },
    });
    expect(await recorded(other)).toEqual(['0 done 1']);
  });

  it('is overtaken by who comes later: its late command is refused', async () => {
    await start(3);
    const late = openNode(0).acceptor;
    const ballot: Ballot = { number: 1, by: 'late' };
    expect(await late.promise(RUNS, ballot, DAY)).toMatchObject({ kind: 'promised' });
    await runTick(open(), 0, () => 'mine');
    await knownEverywhere(1);
    expect(await late.accept(RUNS, ballot, DAY, [])).toMatchObject({ kind: 'outvoted' });
    // Nor is it accepted by one that has forgotten all promises.
    await node(0).command('FLUSHALL');
    expect(await late.accept(RUNS, ballot, DAY, [])).toMatchObject({ kind: 'outvoted' });
  });
});

describe('a claim whose answers are lost', () => {
  /** A locker that reaches the nodes by proxies; of its next claim, so many answers are lost. */
  async function openLosing(answers: number): Promise<{ runner: Locker; lost: () => number }> {
    await start(3);
    const ways = await Promise.all(servers.map(({ port }) => TcpProxy.start(port)));
    opened.push(...ways);
    const runner = open({ connection: ways.map(({ url }) => url), nodeTimeout: 300 });
    await runTick(runner, 0, () => 0);
    let lost = 0;
    for (const way of ways.slice(0, answers)) {
      way.onRequest = (bytes) => {
        if (lost >= answers || !bytes.includes('"state":"running"')) return 'pass';
        lost += 1;
        return 'cut-after-reply';
      };
    }
    return { runner, lost: () => lost };
  }

  it('by one of three nodes counts', async () => {
    const { runner, lost } = await openLosing(1);
    expect(await runTick(runner, 1, () => 1)).toMatchObject({ kind: 'ran' });
    expect(lost()).toBe(1);
    expect(await recorded(open())).toEqual(['1 done 1', '0 done 1']);
  });

  it.each([2, 3])(
    'by %i of three nodes is taken back, and the tick left to others',
    async (count) => {
      const { runner, lost } = await openLosing(count);
      const other = open();
      let ran = false;
      await expect(runTick(runner, 1, () => (ran = true))).rejects.toMatchObject({
        code: 'LOCK_UNAVAILABLE',
        reason: 'quorum',
      });
      expect([lost(), ran]).toEqual([count, false]);
      await eventually(async () => (await recorded(other)).length === 1);
      expect(await runTick(other, 1, () => 'other')).toMatchObject({ kind: 'ran', attempt: 1 });
      expect(await recorded(runner)).toEqual(['1 done 1', '0 done 1']);
    },
  );
});

describe('A node to whose records another program wrote', () => {
  const whole = { token: 't', state: 'done', tick: 0, instant: 0, attempt: 1, start: 0 };
  const strange: readonly (readonly [string, Record<string, string>])[] = [
    ['is not JSON', { runs: '[{' }],
    ['is no list', { runs: '{}' }],
    ['lists what is no run', { runs: '[null]' }],
    ['lists a run without a tick', { runs: JSON.stringify([{ ...whole, tick: undefined }]) }],
    ['lists a run that holds no lock', { runs: JSON.stringify([{ ...whole, state: 'running' }]) }],
    ['was accepted under no number', { accepted: 'x', runs: JSON.stringify([whole]) }],
  ];

  async function spoil(index: number, fields: Record<string, string>): Promise<void> {
    const client = new Redis(node(index).url);
    await client.hset(RUNS.proposals, fields);
    client.disconnect();
  }

  it.each(strange)('has no say, and is told by the others: what %s', async (_, fields) => {
    await start(3);
    const locker = open();
    expect(await runTick(locker, 0, () => 1)).toMatchObject({ kind: 'ran' });
    await knownEverywhere(1);
    await spoil(0, fields);
    expect(await runTick(locker, 0, () => 2)).toMatchObject({ kind: 'skipped', reason: 'done' });
    expect(await recorded(locker)).toEqual(['0 done 1']);
    expect(await runTick(locker, 1, () => 3)).toMatchObject({ kind: 'ran' });
    await knownEverywhere(2);
    expect(await recorded(locker)).toEqual(['1 done 1', '0 done 1']);
  });

  it('is no majority with another such: nothing is run, and the error says what to do', async () => {
    await start(3);
    const locker = open();
    await runTick(locker, 0, () => 1);
    await knownEverywhere(1);
    for (const index of [0, 1]) await spoil(index, { runs: 'not JSON' });
    let runs = 0;
    const run = (tick: number) => runTick(locker, tick, () => (runs += 1));
    for (const call of [() => run(0), () => run(1), () => locker.runs(JOB)]) {
      const error = (await call().then(
        () => undefined,
        (thrown: unknown) => thrown,
      )) as LockUnavailableError | undefined;
      expect(error).toMatchObject({ code: 'LOCK_UNAVAILABLE', key: JOB, reason: 'quorum' });
      expect(error?.nodes?.map(({ answer }) => answer)).toEqual(['refused', 'refused', 'done']);
      expect(String(error?.cause)).toContain(`"${RUNS.proposals}"`);
      expect(error?.message).toContain('Remove that key');
    }
    expect(runs).toBe(0);
    await Promise.all([0, 1].map((index) => node(index).command('DEL', RUNS.proposals)));
    expect(await run(0)).toMatchObject({ kind: 'skipped', reason: 'done' });
    expect(await run(1)).toMatchObject({ kind: 'ran' });
  });
});

it('what is asked for changes nothing and leaves nothing', async () => {
  await start(3);
  const locker = open();
  expect(await locker.runs('never')).toEqual([]);
  expect(await locker.query('*', { runs: true })).toEqual([]);
  for (const { url } of servers) {
    const client = new Redis(url);
    expect(await client.keys('*')).toEqual([]);
    client.disconnect();
  }
});
