/**
 * The scripts beside a model: every interleaving of a few clients' commands on one key, up to a bounded depth, through the
 * real scripts on a real Redis, compared after each step with a small pure model of what they should do.
 *
 * The search goes breadth first over the model's states. A state of Redis is kept as a dump of the key's three values, and
 * put under a fresh name for each next step, so that no path is walked twice. Time passes by a script that moves every time
 * that is written down, and else stands still.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';

import { type Access, capacityOf, limitsDiffer } from '../../lib/core/access.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { LockName } from '../../lib/core/lock-name.js';
import { RedisServer } from '../support/redis-server.js';

const TTL = 5_000;
const ALIVE_FOR = 20_000;
/** What ends by so much time passing: reservations; leases too; places in the queue as well. */
const PASSING = { reservations: 1_500, leases: 6_000, waiters: 25_000 } as const;
const KEEP_FOR = 4_000;

interface Inside {
  /** -1: kept by nobody. */
  readonly who: number;
  readonly kind: 'held' | 'reserved' | 'kept';
  readonly access: Access;
}

interface State {
  readonly inside: readonly Inside[];
  readonly queue: readonly { readonly who: number; readonly access: Access }[];
  /** Who had it alone when that ended, as long as nobody has come since: it can still be given back. */
  readonly lapsed?: Inside | undefined;
}

type Step =
  | {
      readonly do: 'acquire';
      readonly who: number;
      readonly access: Access;
      readonly queues: boolean;
    }
  | { readonly do: 'extend' | 'release' | 'keep' | 'cancel' | 'downgrade'; readonly who: number }
  | { readonly do: 'force' }
  | { readonly do: 'pass'; readonly what: keyof typeof PASSING };

const EMPTY: State = { inside: [], queue: [] };

// ── The model ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function mayEnter(inside: readonly Inside[], access: Access): boolean {
  if (inside.length === 0) return true;
  return inside.every((one) => one.access === access) && inside.length < capacityOf(access);
}

/** First come, first served, up to the first who may not enter; who asks comes last unless it has a place. */
function letIn(state: State, asking?: { who: number; access: Access }): [State, entered: boolean] {
  const inside = [...state.inside];
  const queue = [...state.queue];
  let entered = false;
  for (;;) {
    const head = queue[0];
    if (asking !== undefined && !entered && (head === undefined || head.who === asking.who)) {
      if (!mayEnter(inside, asking.access)) break;
      inside.push({ ...asking, kind: 'held' });
      if (head !== undefined) queue.shift();
      entered = true;
    } else if (head === undefined || !mayEnter(inside, head.access)) {
      break;
    } else {
      queue.shift();
      inside.push({ ...head, kind: 'reserved' });
    }
  }
  return [{ inside, queue }, entered];
}

function next(state: State, step: Step): [State, outcome: string] {
  const [after, outcome] = nextOf(state, step);
  // Who comes in is written down in its place.
  return [after.inside.length > 0 ? { ...after, lapsed: undefined } : after, outcome];
}

function nextOf(state: State, step: Step): [State, outcome: string] {
  if (step.do === 'pass') {
    const lives = { reserved: 1_000, kept: KEEP_FOR, held: TTL };
    const passed = PASSING[step.what];
    // Times only matter in whole: what has lasted for a while is put back to its full length before time passes.
    const inside = state.inside.filter(({ kind }) => lives[kind] > passed);
    const [alone] = state.inside;
    const ended = alone?.access === 'exclusive' && alone.who >= 0 && inside.length === 0;
    const lapsed = ended ? alone : state.lapsed;
    return [{ inside, queue: ALIVE_FOR > passed ? state.queue : [], lapsed }, ''];
  }
  if (step.do === 'force') {
    const inside = state.inside.filter(({ kind }) => kind === 'reserved');
    const taken = state.inside.length - inside.length;
    return [taken === 0 ? state : letIn({ ...state, inside })[0], `from ${taken}`];
  }
  const { who } = step;
  const mine = state.inside.find((one) => one.who === who);
  const without = (): State => ({ ...state, inside: state.inside.filter((one) => one !== mine) });
  const held = mine?.kind === 'held';
  const lapsed = state.lapsed?.who === who ? state.lapsed : undefined;
  switch (step.do) {
    case 'acquire': {
      const { access } = step;
      if (held) return [state, 'granted'];
      if (mine?.kind === 'reserved') {
        const inside = state.inside.map((one) =>
          one === mine ? { ...one, kind: 'held' as const } : one,
        );
        return [{ ...state, inside }, 'granted'];
      }
      if (state.inside.some((one) => limitsDiffer(one.access, access))) return [state, 'conflict'];
      // Who wants to be alone, while others are inside, changes nothing for those who wait.
      const asks = access !== 'exclusive' || state.inside.length === 0;
      const alone = state.inside.some((one) => one.access === 'exclusive');
      const [after, entered] = asks && !alone ? letIn(state, { who, access }) : [state, false];
      if (entered) return [after, 'granted'];
      const known = after.queue.some((waiter) => waiter.who === who);
      const queue = step.queues && !known ? [...after.queue, { who, access }] : after.queue;
      return [{ ...after, queue }, 'busy'];
    }
    case 'extend':
      return [state, held ? 'extended' : 'taken'];
    case 'release':
      return held || lapsed?.kind === 'held' ? [letIn(without())[0], 'released'] : [state, 'taken'];
    case 'keep': {
      const kept: Inside = { ...((mine ?? lapsed) as Inside), kind: 'kept' };
      if (!held && lapsed?.kind !== 'held') return [state, 'taken'];
      if (kept.access === 'exclusive')
        return [{ ...state, inside: [{ ...kept, who: -1 }] }, 'released'];
      return [
        { ...state, inside: state.inside.map((one) => (one === mine ? kept : one)) },
        'released',
      ];
    }
    case 'downgrade': {
      if (!held || mine?.access === 'exclusive') {
        if (!held) return [state, 'taken'];
        return [
          letIn({ ...state, inside: [{ ...(mine as Inside), access: 'shared' }] })[0],
          'released',
        ];
      }
      return [state, 'released'];
    }
    case 'cancel': {
      const queue = state.queue.filter((waiter) => waiter.who !== who);
      const gone = mine === undefined || mine.kind === 'kept' ? state : without();
      const after = { ...gone, queue };
      if (lapsed !== undefined) return [letIn(after)[0], 'cancelled'];
      // A key that is free, or kept, or another's alone: nobody can be let in by this.
      const shared = state.inside.some((one) => one.access !== 'exclusive');
      return [gone === state && !shared ? after : letIn(after)[0], 'cancelled'];
    }
  }
}

/** The steps that real clients can take: one with a lease or a place asks for the same again, and a kept token is never used. */
function stepsFrom(state: State, clients: number, accesses: readonly Access[]): Step[] {
  const steps: Step[] = [
    { do: 'pass', what: 'reservations' },
    { do: 'pass', what: 'leases' },
    { do: 'pass', what: 'waiters' },
    { do: 'force' },
  ];
  for (let who = 0; who < clients; who += 1) {
    const mine = [...state.inside, ...state.queue].find((one) => one.who === who);
    const kept = state.inside.some((one) => one.who === who && one.kind === 'kept');
    for (const access of kept ? [] : mine === undefined ? accesses : [mine.access]) {
      steps.push({ do: 'acquire', who, access, queues: true });
      if (mine === undefined) steps.push({ do: 'acquire', who, access, queues: false });
    }
    for (const what of ['extend', 'release', 'keep', 'cancel'] as const)
      steps.push({ do: what, who });
    const alone = state.inside.some((one) => one.who === who && one.access === 'exclusive');
    if (alone) steps.push({ do: 'downgrade', who });
  }
  return steps;
}

/** The same text for the same state. Holders side by side have no order. */
function textOf({ inside, queue, lapsed }: State): string {
  const holders = inside.map(({ who, kind, access }) => `${who}:${kind}:${access}`).toSorted();
  const had = lapsed === undefined ? '' : `(${lapsed.who}:${lapsed.kind}) `;
  return `${had}${holders.join(' ')} | ${queue.map(({ who, access }) => `${who}:${access}`).join(' ')}`;
}

// ── Redis ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

const LOOK = `
local time = redis.call('TIME')
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('GET', KEYS[1]) or '', redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[3]),
  redis.call('DUMP', KEYS[1]) or '', redis.call('DUMP', KEYS[2]) or '', redis.call('DUMP', KEYS[3]) or '',
}`;

/**
 * Moves all times that haven't passed: ARGV[1] 'freeze', far into the future, while nobody looks; 'thaw', to a whole life from
 * now; else so many ms pass, which ends the lives that are no longer than that, and leaves the others whole.
 */
const MOVE_TIME = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local passes = tonumber(ARGV[1])
local lives = {h = tonumber(ARGV[2]), r = 1000, k = tonumber(ARGV[3])}
local function moved(ends, life)
  if ends <= now then return ends end
  if ARGV[1] == 'freeze' then return now + 1e9 end
  return passes and life <= passes and now - 1 or now + life
end
local record = redis.call('GET', KEYS[1])
local last = 0
for i, token in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local score = tonumber(redis.call('ZSCORE', KEYS[2], token))
  local info = redis.call('HGET', KEYS[3], token)
  if score < 1e14 then
    local ends = moved(score, lives[string.sub(info, 1, 1)])
    redis.call('ZADD', KEYS[2], string.format('%.0f', ends), token)
    last = math.max(last, ends)
  else
    local alive, rest = string.match(info, '^(%d+) (.*)$')
    redis.call('HSET', KEYS[3], token, string.format('%.0f', moved(tonumber(alive), tonumber(ARGV[4]))) .. ' ' .. rest)
  end
end
local state = record and string.sub(record, 1, 1)
if record and state ~= 'f' then
  local ends = state == 's' and last or moved(tonumber(string.sub(record, 20, 32)), lives[state])
  redis.call('SET', KEYS[1], string.sub(record, 1, 19) .. string.format('%013.0f', ends) .. string.sub(record, 33), 'KEEPTTL')
end`;

type Dump = readonly (Buffer | undefined)[];

class Subject {
  #names = 0;

  constructor(
    private readonly redis: Redis,
    private readonly backends: readonly RedisBackend[],
  ) {}

  /** Takes a step from a dumped state; what came of it. */
  async step(
    from: Dump,
    step: Step,
  ): Promise<{ outcome: string; state: State; fence: number; dump: Dump }> {
    this.#names += 1;
    const name = LockName.of('model', `key ${this.#names}`);
    const keys = [name.owner, name.queue, name.waiters] as const;
    const restore = this.redis.pipeline();
    from.forEach((value, i) => value && restore.call('RESTORE', keys[i] as string, '60000', value));
    if (from.some(Boolean)) await restore.exec();
    await this.#moveTime(name, 'thaw');
    const outcome = await this.#do(name, step);
    await this.#moveTime(name, 'freeze');
    const [now, record, scores, hash, ...dumps] = (await this.redis.callBuffer(
      'EVAL',
      LOOK,
      '3',
      ...keys,
    )) as [number, Buffer, Buffer[], Buffer[], ...Buffer[]];
    await this.redis.unlink(...keys);
    const dump = dumps.map((value) => (value.length > 0 ? value : undefined));
    return {
      outcome,
      ...read(Number(now), String(record), scores.map(String), hash.map(String)),
      dump,
    };
  }

  async #moveTime(
    { owner, queue, waiters }: LockName,
    how: 'freeze' | 'thaw' | number,
  ): Promise<void> {
    await this.redis.eval(MOVE_TIME, 3, owner, queue, waiters, how, TTL, KEEP_FOR, ALIVE_FOR);
  }

  async #do(name: LockName, step: Step): Promise<string> {
    if (step.do === 'pass') {
      await this.#moveTime(name, PASSING[step.what]);
      return '';
    }
    if (step.do === 'force') {
      const forced = await (this.backends[0] as RedisBackend).forceRelease({
        name,
        reason: undefined,
        notAfter: performance.now() + 5_000,
      });
      return forced.kind === 'forced' ? `from ${forced.held.length}` : forced.kind;
    }
    const backend = this.backends[step.who] as RedisBackend;
    const token = `t${step.who}`;
    const asked = await backend.query(name);
    const held = asked.kind === 'found' ? asked.state.held[0]?.access : undefined;
    const access = step.do === 'acquire' ? step.access : (held ?? 'exclusive');
    const lease = { name, token, ttl: TTL, access };
    switch (step.do) {
      case 'acquire': {
        const place = step.queues ? { aliveFor: ALIVE_FOR, sequence: undefined } : undefined;
        const notAfter = performance.now() + 5_000;
        return (await backend.tryAcquire({ ...lease, notAfter, place })).kind;
      }
      case 'extend':
        return ((await backend.extend([lease]))[0] as { kind: string }).kind;
      case 'release':
      case 'keep': {
        const keepFor = step.do === 'keep' ? KEEP_FOR : 0;
        const lastFence = Math.round(Date.now() * 1_000);
        return (await backend.release({ ...lease, lastFence, keepFor })).kind;
      }
      case 'cancel':
        return (await backend.cancel(lease)).kind;
      case 'downgrade':
        return (await backend.downgrade({ ...lease, fencingToken: Date.now() * 1_000 })).kind;
    }
  }
}

/** What Redis holds, as the model says it: what has ended is gone, though it may still be written there. */
function read(
  now: number,
  record: string,
  scores: string[],
  hash: string[],
): { state: State; fence: number } {
  const info = new Map<string, string>();
  for (let i = 0; i < hash.length; i += 2) info.set(hash[i] as string, hash[i + 1] as string);
  const [, state = 'f', fence = '0', until = '0', token = ''] =
    /^([hrkfs]) (\d+) (\d+) (\S+) /.exec(record) ?? [];
  const who = (of: string) => (of === '-' ? -1 : Number(of.slice(1)));
  const KINDS = { h: 'held', r: 'reserved', k: 'kept' } as const;
  const inside: Inside[] = [];
  const queue: State['queue'][number][] = [];
  const live = Number(until) > now;
  let lapsed: Inside | undefined;
  if (state !== 's' && state !== 'f') {
    const kind = KINDS[state as 'h' | 'r' | 'k'];
    const one: Inside = { who: who(token), kind, access: 'exclusive' };
    if (live) inside.push(one);
    else if (kind !== 'kept') lapsed = one;
  }
  for (let i = 0; i < scores.length; i += 2) {
    const [member, score] = [scores[i] as string, Number(scores[i + 1])];
    const known = info.get(member) ?? '';
    if (score < 1e14) {
      if (live && state === 's' && score > now) {
        inside.push({
          who: who(member),
          kind: KINDS[known[0] as 'h' | 'r' | 'k'],
          access: token as Access,
        });
      }
    } else {
      const [alive, access] = known.split(' ');
      if (Number(alive) >= now) queue.push({ who: who(member), access: access as Access });
    }
  }
  return { state: { inside, queue, lapsed }, fence: Number(fence) };
}

// ── The search ─────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Found {
  readonly state: State;
  readonly dump: Dump;
  readonly fence: number;
  readonly path: readonly Step[];
}

describe('every interleaving of the scripts on one key does what the model says', () => {
  let server: RedisServer;
  let redis: Redis;
  let backends: RedisBackend[];

  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    backends = await Promise.all(
      [0, 1, 2].map(async () => {
        const options = { connection: server.url, commandTimeout: 5_000, prefix: 'model' };
        const backend = new RedisBackend(
          { ...options, wakeUp: 'publish', application: undefined },
          systemClock,
          new LockEmitter(),
        );
        await backend.connect();
        await backend.wakeUp.subscribe();
        return backend;
      }),
    );
  });

  afterAll(async () => {
    await Promise.all(backends.map((backend) => backend.close()));
    redis.disconnect();
    await server.stop();
  });

  it.each<[clients: number, depth: number, accesses: readonly Access[]]>([
    [2, 20, ['exclusive', 'shared', 'limit:1', 'limit:2']],
    [3, 20, ['exclusive', 'shared']],
    [3, 20, ['exclusive', 'limit:2']],
    [3, 20, ['shared', 'limit:2']],
  ])(
    '%i clients, %i steps, %j',
    async (clients, depth, accesses) => {
      const subject = new Subject(redis, backends);
      const known = new Set([textOf(EMPTY)]);
      let frontier: Found[] = [{ state: EMPTY, dump: [], fence: 0, path: [] }];
      let steps = 0;
      let walked = 0;
      for (; walked < depth && frontier.length > 0; walked += 1) {
        const found: Found[] = [];
        for (const from of frontier) {
          const taken = await Promise.all(
            stepsFrom(from.state, clients, accesses).map(async (step) => ({
              step,
              came: await subject.step(from.dump, step),
            })),
          );
          for (const { step, came } of taken) {
            steps += 1;
            const [state, outcome] = next(from.state, step);
            const path = [...from.path, step];
            const real = { state: textOf(came.state), outcome: came.outcome, path };
            expect(real).toEqual({ state: textOf(state), outcome, path });
            // P3, whatever happened before.
            if (came.fence < from.fence) throw new Error(`The fence fell: ${JSON.stringify(path)}`);
            if (known.has(textOf(state))) continue;
            known.add(textOf(state));
            found.push({ state, dump: came.dump, fence: came.fence, path });
          }
        }
        frontier = found;
      }
      process.stdout.write(
        `model: ${clients} clients, ${accesses.join(' ')}: ${known.size} states, ${steps} steps, ` +
          (frontier.length === 0 ? `complete at depth ${walked}\n` : `to depth ${walked}\n`),
      );
      expect(known.size).toBeGreaterThan(50);
    },
    180_000,
  );
});
