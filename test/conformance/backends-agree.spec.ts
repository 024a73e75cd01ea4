/**
 * Redis and memory are two ways to keep one protocol: whatever several processes do in whatever order, both answer
 * alike. Here a generator makes up what they do, which finds orders of events that nobody would write down.
 */
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import { RedisBackend } from '../../lib/core/backend/redis-backend.js';
import { systemClock } from '../../lib/core/clock.js';
import { LockEmitter } from '../../lib/core/events.js';
import { LockName } from '../../lib/core/lock-name.js';
import { RedisServer } from '../support/redis-server.js';

/** Longer than a run takes: nothing expires meanwhile. */
const TTL = 60_000;
const TOKENS = ['a', 'b', 'c', 'd', 'e'];
const PROCESSES = 3;

type Step =
  | { readonly do: 'acquire' | 'wait' | 'release' | 'keep' | 'extend' | 'cancel'; who: number }
  | { readonly do: 'query' | 'force' };

let server: RedisServer;
let redis: LockBackend[];
let memory: LockBackend[];
let runs = 0;

beforeAll(async () => {
  server = await RedisServer.start();
  const options = {
    connection: server.url,
    commandTimeout: 5_000,
    prefix: 'lock',
    wakeUp: 'publish' as const,
    application: undefined,
  };
  const store = new MemoryStore();
  const processes = Array.from({ length: PROCESSES });
  redis = processes.map(() => new RedisBackend(options, systemClock, new LockEmitter()));
  memory = processes.map(() => new MemoryBackend({ application: undefined }, store));
  // One that doesn't listen is served as well.
  await Promise.all(
    [...redis.slice(1), ...memory.slice(1)].map(({ wakeUp }) =>
      wakeUp.subscribe(LockName.of('lock', 'any')),
    ),
  );
});

afterAll(async () => {
  await Promise.all([...redis, ...memory].map((backend) => backend.close()));
  await server.stop();
});

/** One key of one kind of backend, with what it said as far as it can be compared. */
class Subject {
  readonly #sequences = new Map<string, number>();
  #lastFence = 0;
  #fences = new Map<string, number>();

  constructor(
    private readonly backends: readonly LockBackend[],
    private readonly name: LockName,
  ) {}

  async take(step: Step): Promise<unknown> {
    const { name } = this;
    if (step.do === 'query') {
      const outcome = await (this.backends[0] as LockBackend).query(name);
      if (outcome.kind !== 'found') return outcome;
      const { held, pending } = outcome.state;
      const waiterOf = new Map([...this.#sequences].map(([token, sequence]) => [sequence, token]));
      return {
        held: held.map(({ kept, fencingToken }) => {
          expect(fencingToken).toBe(this.#lastFence);
          return { kept };
        }),
        pending: pending.map(({ sequence }) => waiterOf.get(sequence as number)),
      };
    }
    if (!('who' in step)) {
      const backend = this.backends[1] as LockBackend;
      const outcome = await backend.forceRelease({
        name,
        reason: undefined,
        notAfter: performance.now() + 5_000,
      });
      if (outcome.kind !== 'forced') return outcome;
      if (outcome.held.length > 0) this.#fences.clear();
      return outcome.held.map(({ kept }) => ({ kept }));
    }
    const token = TOKENS[step.who] as string;
    const backend = this.backends[step.who % PROCESSES] as LockBackend;
    const held = { name, token, ttl: TTL };
    switch (step.do) {
      case 'acquire':
      case 'wait': {
        const outcome = await backend.tryAcquire({
          ...held,
          notAfter: performance.now() + 5_000,
          place:
            step.do === 'wait'
              ? { aliveFor: TTL, sequence: this.#sequences.get(token) }
              : undefined,
        });
        if (outcome.kind === 'granted') this.#granted(token, outcome.fencingToken);
        if (outcome.kind === 'busy' && outcome.sequence !== undefined) {
          const known = this.#sequences.get(token);
          if (known !== undefined) expect(outcome.sequence).toBe(known);
          this.#sequences.set(token, outcome.sequence);
          return 'queued';
        }
        return outcome.kind;
      }
      case 'release':
        return this.#ended(
          token,
          (await backend.release({ ...held, lastFence: this.#lastFence, keepFor: 0 })).kind,
        );
      case 'keep':
        return this.#ended(
          token,
          (await backend.release({ ...held, lastFence: this.#lastFence, keepFor: TTL })).kind,
        );
      case 'extend':
        return (await backend.extend([held])).map(({ kind }) => kind);
      case 'cancel':
        this.#sequences.delete(token);
        return this.#ended(token, (await backend.cancel(held)).kind);
    }
  }

  /** A new grant has a larger token than all before; one that's given again has its own. */
  #granted(token: string, fence: number): void {
    const given = this.#fences.get(token);
    if (given === undefined) expect(fence).toBeGreaterThan(this.#lastFence);
    else expect(fence).toBe(given);
    this.#fences = new Map([[token, fence]]);
    this.#lastFence = fence;
    this.#sequences.delete(token);
  }

  #ended(token: string, kind: string): string {
    if (kind !== 'taken') this.#fences.delete(token);
    return kind;
  }
}

it('Redis and memory give the same answers to the same processes', async () => {
  const who = fc.nat(TOKENS.length - 1);
  const step: fc.Arbitrary<Step> = fc.oneof(
    ...(
      [
        ['acquire', 2],
        ['wait', 6],
        ['release', 5],
        ['extend', 1],
        ['cancel', 2],
      ] as const
    ).map(([what, weight]) => ({
      arbitrary: who.map((index): Step => ({ do: what, who: index })),
      weight,
    })),
    { arbitrary: who.map((index): Step => ({ do: 'keep', who: index })), weight: 1 },
    { arbitrary: fc.constant<Step>({ do: 'query' }), weight: 3 },
    { arbitrary: fc.constant<Step>({ do: 'force' }), weight: 1 },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 60 }), async (steps) => {
      runs += 1;
      const name = LockName.of('lock', `run ${runs}`);
      const subjects = [new Subject(redis, name), new Subject(memory, name)] as const;
      for (const each of steps) {
        const [byRedis, byMemory] = [await subjects[0].take(each), await subjects[1].take(each)];
        expect(byMemory).toEqual(byRedis);
      }
    }),
    { numRuns: 400 },
  );
});
