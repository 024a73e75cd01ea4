/**
 * What every `LockBackend` promises, as one table of behaviour, run over each implementation by lock-backend.spec.ts.
 *
 * A process is simulated by a backend of its own on the shared store: it has its own wake-up channel, so that to the
 * store it can't be told from another process.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { Access } from '../../lib/core/access.js';
import {
  type AcquireOutcome,
  type AcquireRequest,
  FENCE_RANGE,
  type HeldToken,
  type LockBackend,
  type LockState,
  type ReleaseOutcome,
} from '../../lib/core/backend/lock-backend.js';
import { KeyPattern } from '../../lib/core/key-pattern.js';
import { LockName } from '../../lib/core/lock-name.js';
import type { Forced } from '../../lib/core/wake-up.js';
import { eventually } from '../support/eventually.js';

/** Where the backends of one test keep their locks. */
export interface BackendStore {
  /** A backend as another process would open it. */
  open(): LockBackend;
  /** Comes back when the store has noticed that a closed backend is gone. */
  noticesClosed(backend: LockBackend): Promise<void>;
  /** Forgets everything, as a server without persistence does when it restarts. */
  loseData(): Promise<void>;
  /** Sets the last fencing token of a name. */
  setFence(name: LockName, fence: number): Promise<void>;
  /**
   * All that the store holds, with its time to live in ms (-1: for ever); whether it's the fence counter of a name.
   */
  contents(): Promise<{ readonly key: string; readonly ttl: number; readonly isFence: boolean }[]>;
  close(): Promise<void>;
}

export interface BackendTraits {
  /** Whether the store knows at once that a process which waited is gone; where not, it costs the claim window. */
  readonly knowsWhoListens: boolean;
  /** Several independent nodes that decide by majority. @default one store */
  readonly byMajority?: boolean;
}

/** Three processes on one store, fresh for each test. */
export interface Parties {
  readonly a: Party;
  readonly b: Party;
  readonly c: Party;
  readonly store: BackendStore;
  readonly knowsWhoListens: boolean;
  readonly byMajority: boolean;
  newName(): LockName;
}

export const TTL = 10_000;
/** How long a reserved key waits for its waiter. */
const CLAIM_WINDOW = 1_000;
/** How long a fence counter may outlive its lease. */
const FENCE_RETENTION = 10_000;

/** A process: a backend that listens, and what it was told. */
export class Party {
  readonly woken: string[] = [];
  /** Who was told when to look at the latest, in ms. */
  readonly toldWhen: { token: string; within: number }[] = [];
  /** Owners of the held keys that somebody else began to wait for. */
  readonly toldOfOthers: string[] = [];
  /** Which of its leases were released by force, and by whom. */
  readonly toldOfForce: Omit<Forced, 'kind'>[] = [];
  /** It listens to every name that it waits for. */
  #listens = false;
  /** How far apart in time, in ms, two must come to be told apart: places follow what each knows of the nodes' clocks. */
  readonly #resolution: number;

  constructor(
    readonly backend: LockBackend,
    byMajority: boolean,
  ) {
    this.#resolution = byMajority ? 10 : 0;
    backend.wakeUp.onWake((message) => {
      if (message.kind === 'othersWait') this.toldOfOthers.push(message.owner);
      else if (message.kind === 'forced')
        this.toldOfForce.push({ token: message.token, owner: message.owner, by: message.by });
      // That messages may have been lost, it may be told at any time.
      else if (message.kind === 'listening') return;
      else if (message.within === 0) this.woken.push(message.token);
      else this.toldWhen.push({ token: message.token, within: message.within });
    });
  }

  async listen(): Promise<this> {
    const any = LockName.of('lock', 'any');
    await this.backend.wakeUp.subscribe(any);
    expect(this.backend.wakeUp.listensTo(any)).toBe(true);
    this.#listens = true;
    return this;
  }

  /** As somebody does who waits for the name here. */
  async hear(name: LockName): Promise<void> {
    const { wakeUp } = this.backend;
    if (this.#listens && !wakeUp.listensTo(name)) await wakeUp.subscribe(name);
  }

  async ask(name: LockName, options: Partial<AcquireRequest> = {}): Promise<AcquireOutcome> {
    if (options.place !== undefined) await this.hear(name);
    return this.backend.tryAcquire({
      name,
      token: randomUUID(),
      ttl: TTL,
      notAfter: performance.now() + 5_000,
      place: undefined,
      ...options,
    });
  }

  /** Takes a key that is free for the taking. */
  async take(
    name: LockName,
    options: Partial<AcquireRequest> = {},
  ): Promise<HeldToken & { readonly fencingToken: number }> {
    const { token = randomUUID(), ttl = TTL, access = 'exclusive' } = options;
    const outcome = await this.ask(name, { ...options, token, ttl });
    if (outcome.kind !== 'granted') throw new Error(`Not granted: ${JSON.stringify(outcome)}`);
    return { name, token, ttl, access, fencingToken: outcome.fencingToken };
  }

  /** Stands in the queue of a key that is held. */
  async wait(
    name: LockName,
    {
      token = randomUUID(),
      aliveFor = TTL,
      sequence,
      access = 'exclusive',
    }: { token?: string; aliveFor?: number; sequence?: number; access?: Access } = {},
  ): Promise<HeldToken & { readonly sequence: number }> {
    const outcome = await this.ask(name, { token, access, place: { aliveFor, sequence } });
    if (outcome.kind !== 'busy' || outcome.sequence === undefined) {
      throw new Error(`Not queued: ${JSON.stringify(outcome)}`);
    }
    const queuedAt = performance.now();
    if (this.#resolution > 0) {
      await eventually(() => performance.now() > queuedAt + this.#resolution, { interval: 1 });
    }
    return { name, token, ttl: TTL, access, sequence: outcome.sequence };
  }

  release(
    held: HeldToken & { readonly fencingToken?: number },
    keepFor = 0,
  ): Promise<ReleaseOutcome> {
    return this.backend.release({ ...held, lastFence: held.fencingToken ?? 0, keepFor });
  }

  /** From how many holders a key was taken by force. */
  async force(name: LockName, reason?: string): Promise<number> {
    const outcome = await this.backend.forceRelease({
      name,
      reason,
      notAfter: performance.now() + 5_000,
    });
    if (outcome.kind !== 'forced') throw new Error(`Not done: ${JSON.stringify(outcome)}`);
    return outcome.held.length;
  }

  async state(name: LockName): Promise<LockState> {
    const outcome = await this.backend.query(name);
    if (outcome.kind !== 'found') throw new Error(`Not found: ${JSON.stringify(outcome)}`);
    return outcome.state;
  }

  /** How long the lease on a key still lasts. */
  async remaining(name: LockName): Promise<number> {
    const { held } = await this.state(name);
    return held[0]?.remaining ?? 0;
  }
}

export function describeLockBackend(
  title: string,
  openStore: () => Promise<BackendStore>,
  traits: BackendTraits,
  /** Further parts of the table. */
  describeMore: (parties: () => Parties, traits: BackendTraits) => void,
): void {
  const { knowsWhoListens, byMajority = false } = traits;
  describe(`LockBackend: ${title}`, () => {
    let store: BackendStore;
    let a: Party;
    let b: Party;
    let c: Party;
    const opened: LockBackend[] = [];
    let names = 0;

    function open(): Party {
      const backend = store.open();
      opened.push(backend);
      return new Party(backend, byMajority);
    }

    function newName(): LockName {
      names += 1;
      return LockName.of('lock', `key ${names}`);
    }

    beforeEach(async () => {
      store = await openStore();
      [a, b, c] = [open(), open(), open()];
      await Promise.all([a, b, c].map((party) => party.listen()));
    });

    afterEach(async () => {
      // Whatever a test did: nothing may stay in the store for ever.
      const endless = (await store.contents()).filter(({ ttl }) => ttl < 0);
      await Promise.all(opened.splice(0).map((backend) => backend.close()));
      await store.close();
      expect(endless).toEqual([]);
    });

    describeMore(() => ({ a, b, c, newName, store, knowsWhoListens, byMajority }), traits);

    describe('acquire', () => {
      it('grants a free key', async () => {
        const name = newName();
        const before = performance.now();
        const outcome = await a.ask(name);
        expect(outcome).toEqual({
          kind: 'granted',
          fencingToken: expect.any(Number),
          sentAt: expect.any(Number),
          othersWait: false,
        });
        const { sentAt, fencingToken } = outcome as AcquireOutcome & { kind: 'granted' };
        expect(Number.isSafeInteger(fencingToken)).toBe(true);
        expect(sentAt).toBeGreaterThanOrEqual(before);
        expect(sentAt).toBeLessThanOrEqual(performance.now());
      });

      it('answers "busy" with the remaining time for a key that is held', async () => {
        const name = newName();
        await a.take(name, { ttl: 5_000 });
        for (const party of [a, b]) {
          const outcome = await party.ask(name);
          expect(outcome).toMatchObject({
            kind: 'busy',
            remaining: expect.any(Number),
            sequence: undefined,
          });
          const { remaining } = outcome as AcquireOutcome & { kind: 'busy' };
          expect(remaining).toBeGreaterThan(4_000);
          expect(remaining).toBeLessThanOrEqual(5_000);
        }
        expect((await a.state(name)).pending).toEqual([]);
      });

      it('grants one of many that ask at once', async () => {
        const name = newName();
        const outcomes = await Promise.all(
          Array.from({ length: 60 }, (_, index) => ([a, b, c][index % 3] as Party).ask(name)),
        );
        const granted = outcomes.filter(({ kind }) => kind === 'granted').length;
        expect(outcomes.filter(({ kind }) => kind === 'busy')).toHaveLength(60 - granted);
        // Votes may be split: then nobody has a majority, and all try again.
        expect(byMajority ? [0, 1] : [1]).toContain(granted);
      });

      it('grants again by the same token: a full ttl from now, the same fencing token', async () => {
        const name = newName();
        const held = await a.take(name, { ttl: 2_000 });
        await eventually(async () => (await a.remaining(name)) < 1_950);
        const again = await a.take(name, { token: held.token, ttl: 2_000 });
        expect(again.fencingToken).toBe(held.fencingToken);
        expect(await a.remaining(name)).toBeGreaterThan(1_950);
        expect(await a.remaining(name)).toBeLessThanOrEqual(2_000);
      });

      it('does not know a token again whose lease has ended: who waits is first', async () => {
        const name = newName();
        const held = await a.take(name, { ttl: 200 });
        await b.wait(name);
        await eventually(async () => (await a.state(name)).held.length === 0);
        expect(await a.ask(name, { token: held.token })).toMatchObject({ kind: 'busy' });
      });

      it("doesn't take a token for another of which it's the beginning", async () => {
        const name = newName();
        const held = await a.take(name, { token: 'abc' });
        for (const token of ['ab', 'a', 'abcd']) {
          expect(await b.ask(name, { token })).toMatchObject({ kind: 'busy' });
          expect(await b.backend.extend([{ ...held, token }])).toEqual([{ kind: 'taken' }]);
          expect(await b.release({ ...held, token })).toEqual({ kind: 'taken' });
          await b.backend.cancel({ name, token });
        }
        expect(await a.release(held)).toEqual({ kind: 'released' });
      });

      it('refuses a command that comes after `notAfter`, which takes nothing and queues nobody', async () => {
        const name = newName();
        const late = { notAfter: performance.now() - 1_000, place: { aliveFor: TTL, sequence: 1 } };
        expect(await a.ask(name, late)).toEqual({ kind: 'late' });
        expect(await a.state(name)).toEqual({ key: name.key, held: [], pending: [] });
        const held = await b.take(name);
        expect(await a.ask(name, late)).toEqual({ kind: 'late' });
        expect((await a.state(name)).pending).toEqual([]);
        expect(await b.release(held)).toEqual({ kind: 'released' });
      });

      it('frees a key whose lease has expired', async () => {
        const name = newName();
        const held = await a.take(name, { ttl: 60 });
        expect(await b.ask(name)).toMatchObject({ kind: 'busy' });
        await eventually(async () => (await b.ask(name)).kind === 'granted', { interval: 5 });
        expect(await a.backend.extend([held])).toEqual([{ kind: 'taken' }]);
        expect(await a.release(held)).toEqual({ kind: 'taken' });
      });
    });

    describe('extend', () => {
      it("prolongs one's own lease to a full ttl from now", async () => {
        const held = await a.take(newName(), { ttl: 2_000 });
        await eventually(async () => (await a.remaining(held.name)) < 1_950);
        const before = performance.now();
        const [outcome] = await a.backend.extend([held]);
        expect(outcome).toEqual({ kind: 'extended', sentAt: expect.any(Number) });
        const { sentAt } = outcome as { sentAt: number };
        expect(sentAt).toBeGreaterThanOrEqual(before);
        expect(sentAt).toBeLessThanOrEqual(performance.now());
        const remaining = await a.remaining(held.name);
        expect(remaining).toBeGreaterThan(1_950);
        expect(remaining).toBeLessThanOrEqual(2_000);
      });

      it("doesn't bring back what has ended, though nobody has taken the key since", async () => {
        const held = await a.take(newName(), { ttl: 60 });
        await eventually(async () => (await a.state(held.name)).held.length === 0);
        expect(await a.backend.extend([held])).toEqual([{ kind: 'taken' }]);
        expect((await a.state(held.name)).held).toEqual([]);
      });

      it("leaves another's lease, a reservation, a kept key and a free key alone", async () => {
        const [others, reserved, kept, free] = [newName(), newName(), newName(), newName()];
        await b.take(others, { ttl: 2_000 });
        const first = await b.take(reserved);
        const waiter = await a.wait(reserved);
        await b.release(first);
        const done = await a.take(kept);
        await a.release(done, 2_000);
        const leases = [
          { name: others, token: randomUUID(), ttl: TTL },
          waiter,
          done,
          { name: free, token: randomUUID(), ttl: TTL },
        ];
        expect(await a.backend.extend(leases)).toEqual(leases.map(() => ({ kind: 'taken' })));
        expect(await a.remaining(others)).toBeLessThanOrEqual(2_000);
        expect(await a.remaining(kept)).toBeLessThanOrEqual(2_000);
        expect(await a.state(free)).toEqual({ key: free.key, held: [], pending: [] });
      });

      it('answers for a batch one by one, in its order', async () => {
        const mine = await Promise.all([1, 2, 3].map(() => a.take(newName(), { ttl: 2_000 })));
        const others = await b.take(newName(), { ttl: 2_000 });
        const [first, second, third] = mine as HeldToken[] as [HeldToken, HeldToken, HeldToken];
        await a.release(second);
        const batch = [first, { ...others, token: first.token }, second, { ...third, ttl: 8_000 }];
        expect((await a.backend.extend(batch)).map(({ kind }) => kind)).toEqual([
          'extended',
          'taken',
          'taken',
          'extended',
        ]);
        expect(await a.remaining(first.name)).toBeLessThanOrEqual(2_000);
        expect(await a.remaining(third.name)).toBeGreaterThan(7_000);
        expect(await a.remaining(others.name)).toBeLessThanOrEqual(2_000);
      });
    });

    describe('release', () => {
      it("frees one's own key, once", async () => {
        const held = await a.take(newName());
        expect(await a.release(held)).toEqual({ kind: 'released' });
        expect(await a.release(held)).toEqual({ kind: 'taken' });
        expect(await b.ask(held.name)).toMatchObject({ kind: 'granted' });
      });

      it("never frees another's key", async () => {
        const name = newName();
        const held = await a.take(name);
        expect(await b.release({ name, token: randomUUID(), ttl: TTL })).toEqual({ kind: 'taken' });
        expect(await b.release({ name, token: randomUUID(), ttl: TTL }, 1)).toEqual({
          kind: 'taken',
        });
        expect(await b.ask(name)).toMatchObject({ kind: 'busy' });
        expect(await a.backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
      });

      it('keeps the key taken for `keepFor`, held by nobody, and frees it then', async () => {
        const held = await a.take(newName());
        expect(await a.release(held, 300)).toEqual({ kind: 'released' });
        const { held: holders } = await a.state(held.name);
        expect(holders).toMatchObject([{ kept: true, fencingToken: held.fencingToken }]);
        expect(holders[0]?.remaining).toBeLessThanOrEqual(300);
        // Neither its last holder nor anybody else can end it sooner.
        expect(await a.release(held)).toEqual({ kind: 'taken' });
        expect(await a.backend.extend([held])).toEqual([{ kind: 'taken' }]);
        await a.backend.cancel(held);
        expect(await a.ask(held.name, { token: held.token })).toMatchObject({ kind: 'busy' });
        expect(await b.ask(held.name)).toMatchObject({ kind: 'busy' });
        await eventually(async () => (await b.ask(held.name)).kind === 'granted', {
          timeout: 1_000,
        });
      });

      it('tells who waits when a kept key will be free: sooner than its lease said', async () => {
        const held = await a.take(newName());
        const waiting = await b.wait(held.name);
        await a.release(held, 300);
        await eventually(() => b.toldWhen.length > 0, { message: 'the waiter is told' });
        expect(b.toldWhen).toEqual([{ token: waiting.token, within: 300 }]);
        expect(b.woken).toEqual([]);
      });

      it('keeps the key for longer than its ttl, too', async () => {
        const held = await a.take(newName(), { ttl: 1_000 });
        await a.release(held, 60_000);
        expect(await a.remaining(held.name)).toBeGreaterThan(50_000);
      });
    });

    describe('fencing tokens', () => {
      it('increase from holder to holder, over release, expiry, cancel and a kept key', async () => {
        const name = newName();
        const fences: number[] = [];
        const next = async (party: Party, ttl: number): Promise<HeldToken> => {
          const held = await eventually(() => party.take(name, { ttl }), { interval: 5 });
          fences.push(held.fencingToken);
          return held;
        };
        await a.release(await next(a, TTL));
        await next(b, 60);
        const third = await next(c, TTL);
        await c.backend.cancel(third);
        await a.release(await next(a, TTL), 60);
        const fifth = await next(b, TTL);
        await b.backend.extend([fifth]);
        await b.release(fifth);
        await a.release(await next(a, TTL));
        expectRising(fences);
        expect(fences).toHaveLength(6);
      });

      it('increase for each of many keys, taken in quick succession by several processes', async () => {
        const many = Array.from({ length: 10 }, newName);
        await Promise.all(
          many.map(async (name) => {
            const fences: number[] = [];
            for (const party of [a, b, c, a, b, c, a, b]) {
              const held = await party.take(name);
              fences.push(held.fencingToken);
              await party.release(held);
            }
            expectRising(fences);
          }),
        );
      });

      it('increase also when the counter is lost', async () => {
        const name = newName();
        const first = await a.take(name);
        await a.release(first);
        await store.loseData();
        const second = await b.take(name);
        await store.loseData();
        const third = await a.take(name);
        expectRising([first, second, third].map(({ fencingToken }) => fencingToken));
      });

      it.each(['release', 'extend and release', 'expiry', 'cancel', 'kept'])(
        'increase from a counter that is ahead of the clock, over %s',
        async (end) => {
          const name = newName();
          const ahead = (Date.now() + 3_600_000) * 1_000;
          await store.setFence(name, ahead);
          const first = await a.take(name, { ttl: end === 'expiry' ? 60 : TTL });
          expect(first.fencingToken).toBe(ahead + 1);
          if (end === 'extend and release') await a.backend.extend([first]);
          if (end.endsWith('release')) await a.release(first);
          if (end === 'cancel') await a.backend.cancel(first);
          if (end === 'kept') await a.release(first, 60);
          const second = await eventually(() => b.take(name), { interval: 5 });
          // Nobody knows how many of its range were used by one that never said so.
          const used = end === 'expiry' ? FENCE_RANGE : 1;
          // By a majority, tries that came while some of the nodes were free have used some as well.
          const wasted = second.fencingToken - (ahead + 1 + used);
          expect(wasted).toBeGreaterThanOrEqual(0);
          expect(wasted).toBeLessThanOrEqual(byMajority ? FENCE_RANGE : 0);
          await b.release(second);
          expect((await a.take(name)).fencingToken).toBe(second.fencingToken + 1);
        },
      );

      it('do not run ahead of the clock by grants that were cancelled', async () => {
        const name = newName();
        const before = await a.take(name);
        await a.backend.cancel(before);
        for (let i = 0; i < 20; i += 1) await a.backend.cancel(await a.take(name));
        const after = await a.take(name);
        // Less than the range of one of them.
        const now = Date.now() * 1_000;
        expect(after.fencingToken).toBeLessThan(now + FENCE_RANGE);
      });

      it('go on from the last that was used under a lease that is cancelled', async () => {
        const name = newName();
        await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
        const first = await a.take(name);
        await a.backend.cancel({ ...first, lastFence: first.fencingToken + 41 });
        expect((await b.take(name)).fencingToken).toBe(first.fencingToken + 42);
      });

      it.each<Access>(['exclusive', 'shared'])(
        'can be set while a lease holds its key (%s): for a full ttl, and the next is larger',
        async (access) => {
          const name = newName();
          const held = await a.take(name, { access, ttl: 500 });
          const fencingToken = held.fencingToken + 3_600_000_000;
          const set = (token: string, notAfter = performance.now() + 5_000) =>
            a.backend.tryAcquireAll({
              wanted: [{ name, token }],
              ...{ ttl: TTL, access, notAfter, fencingToken, label: undefined },
            });
          expect(await set('another')).toMatchObject({ kind: 'busy', index: 0 });
          expect(await set(held.token, performance.now())).toEqual({ kind: 'late' });
          expect((await a.state(name)).held).toMatchObject([{ fencingToken: held.fencingToken }]);
          expect(await set(held.token)).toMatchObject({ kind: 'granted', fencingToken });
          const { held: holders } = await b.state(name);
          expect(holders).toMatchObject([{ fencingToken, access }]);
          expect(holders[0]?.remaining).toBeGreaterThan(500);
          await a.release({ ...held, fencingToken });
          expect(await set(held.token)).toMatchObject({ kind: 'busy', index: 0 });
          const next = await b.take(name);
          expect(next.fencingToken).toBeGreaterThan(fencingToken);
        },
      );

      it.each(['free', 'waited for', 'kept'])(
        'go on from the last that was used of a range, where the key is %s after its release',
        async (then) => {
          const name = newName();
          // Ahead of the clock, which would be larger than all of them otherwise.
          await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
          const first = await a.take(name);
          const waiter = then === 'waited for' ? await b.wait(name) : undefined;
          const used = { ...first, fencingToken: first.fencingToken + 41 };
          await a.release(used, then === 'kept' ? 60 : 0);
          const second = await eventually(() => b.take(name, waiter), { interval: 5 });
          expect(second.fencingToken).toBe(used.fencingToken + 1);
        },
      );
    });

    describe('the last fencing token', () => {
      async function rememberedFor(name: LockName): Promise<number> {
        const contents = await store.contents();
        const counter = contents.find(({ key, isFence }) => isFence && key.startsWith(name.owner));
        return counter?.ttl ?? 0;
      }

      it('is remembered for longer than the lease lasts, also a prolonged one', async () => {
        const held = await a.take(newName(), { ttl: 2_000 });
        expect(await rememberedFor(held.name)).toBeGreaterThan(2_000 + FENCE_RETENTION - 500);
        await a.backend.extend([{ ...held, ttl: 60_000 }]);
        expect(await rememberedFor(held.name)).toBeGreaterThan(60_000 + FENCE_RETENTION - 500);
        await a.release(held);
        expect(await rememberedFor(held.name)).toBeGreaterThan(60_000 + FENCE_RETENTION - 500);
      });

      it('is remembered at least until the clock has passed it', async () => {
        const name = newName();
        await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
        const held = await a.take(name, { ttl: 2_000 });
        expect(await rememberedFor(name)).toBeGreaterThan(3_600_000);
        await a.backend.extend([held]);
        await a.release(held);
        expect(await rememberedFor(name)).toBeGreaterThan(3_600_000);
      });
    });

    describe('queue', () => {
      it('serves waiters of several processes first come, first served', async () => {
        const name = newName();
        let holder: [Party, HeldToken] = [a, await a.take(name)];
        const order: [Party, HeldToken & { sequence: number }][] = [];
        for (const party of [b, c, b, a]) order.push([party, await party.wait(name)]);
        expectRising(order.map(([, { sequence }]) => sequence));
        for (const [party, waiter] of order) {
          await holder[0].release(holder[1]);
          for (const [otherParty, other] of order.filter(([, each]) => each !== waiter)) {
            expect((await otherParty.ask(name, { token: other.token })).kind).toBe('busy');
          }
          holder = [party, await party.take(name, { token: waiter.token })];
        }
        expect((await a.state(name)).pending).toEqual([]);
      });

      it('wakes only the first, with its token', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        await eventually(() => b.woken.length > 0, { message: 'the first is woken' });
        await b.release(await b.take(name, { token: first.token }));
        await eventually(() => c.woken.length > 0, { message: 'the second is woken' });
        expect([a.woken, b.woken, c.woken]).toEqual([[], [first.token], [second.token]]);
      });

      it('reserves the key for the first: newcomers and other waiters are refused', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        for (const [party, options] of [
          [a, {}],
          [b, {}],
          [c, { token: second.token, place: { aliveFor: TTL, sequence: second.sequence } }],
        ] as const) {
          const outcome = await party.ask(name, options);
          expect(outcome).toMatchObject({ kind: 'busy' });
          expect((outcome as { remaining: number }).remaining).toBeLessThanOrEqual(CLAIM_WINDOW);
        }
        expect((await a.state(name)).held).toEqual([]);
        expect(await a.release(first)).toEqual({ kind: 'taken' });
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('lets the next have the key when the claim window has passed', async () => {
        const name = newName();
        const held = await a.take(name);
        await b.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        const released = performance.now();
        await eventually(
          async () => (await c.ask(name, { token: second.token })).kind === 'granted',
          { timeout: CLAIM_WINDOW + 1_000 },
        );
        expect(performance.now() - released).toBeGreaterThan(CLAIM_WINDOW * 0.9);
      });

      it('gives who missed its claim window its place back', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        const next = await eventually(() => a.take(name, { token: second.token }), {
          timeout: CLAIM_WINDOW + 1_000,
        });
        const third = await c.wait(name);
        expect((await b.wait(name, first)).sequence).toBe(first.sequence);
        await a.release(next);
        expect(await c.ask(name, { token: third.token })).toMatchObject({ kind: 'busy' });
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('hands an expired key to the first in line, whoever asks', async () => {
        const name = newName();
        await a.take(name, { ttl: 60 });
        const first = await b.wait(name);
        const second = await c.wait(name);
        await eventually(async () => (await a.state(name)).held.length === 0);
        // A newcomer, then one from the middle of the line.
        expect(await a.ask(name)).toMatchObject({ kind: 'busy' });
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'busy' });
        await eventually(() => b.woken.length > 0, { message: 'the first is woken' });
        expect([b.woken, c.woken]).toEqual([[first.token], []]);
        // Should the first be frozen: the reservation's end tells nobody.
        await eventually(() => c.toldWhen.length > 0, {
          message: 'the second is told when to look',
        });
        expect(c.toldWhen[0]).toEqual({ token: second.token, within: CLAIM_WINDOW });
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('grants an expired key to the first in line when it asks itself', async () => {
        const name = newName();
        await a.take(name, { ttl: 60 });
        const first = await b.wait(name);
        await c.wait(name);
        await eventually(async () => (await a.state(name)).held.length === 0);
        await b.take(name, { token: first.token });
        expect((await a.state(name)).pending).toHaveLength(1);
      });

      it('keeps the place of a waiter that asks again', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        await c.wait(name);
        expect((await b.wait(name, { token: first.token })).sequence).toBe(first.sequence);
        expect((await b.wait(name, first)).sequence).toBe(first.sequence);
        await a.release(held);
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('gives a lost place back to who tells its sequence', async () => {
        const name = newName();
        await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        await store.loseData();
        const held = await a.take(name);
        expect((await c.wait(name, second)).sequence).toBe(second.sequence);
        expect((await b.wait(name, first)).sequence).toBe(first.sequence);
        await a.release(held);
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'busy' });
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it("skips a waiter that hasn't asked for longer than it lives", async () => {
        const name = newName();
        const held = await a.take(name);
        await b.wait(name, { aliveFor: 50 });
        const second = await c.wait(name);
        await eventually(async () => (await a.state(name)).pending.length === 1);
        await a.release(held);
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'granted' });
        expect(b.woken).toEqual([]);
      });

      it('counts the life of a waiter from when it asked last', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name, { aliveFor: 50 });
        await b.wait(name, { token: first.token, aliveFor: TTL });
        await c.wait(name, { aliveFor: 50 });
        await eventually(async () => (await a.state(name)).pending.length === 1);
        await a.release(held);
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it(`passes over a waiter whose process is gone${knowsWhoListens ? ' at once' : ', after the claim window'}`, async () => {
        const name = newName();
        const held = await a.take(name);
        await b.wait(name);
        const second = await c.wait(name);
        await b.backend.close();
        await store.noticesClosed(b.backend);
        await a.release(held);
        const released = performance.now();
        await eventually(() => c.take(name, { token: second.token }), {
          timeout: CLAIM_WINDOW + 1_000,
        });
        // Where it isn't known who listens, nobody may be taken for dead: it may listen to another node.
        expect(performance.now() - released > CLAIM_WINDOW * 0.9).toBe(!knowsWhoListens);
      });

      it('frees the key where all who waited are gone', async () => {
        const name = newName();
        const held = await a.take(name);
        await b.wait(name, { aliveFor: 30 });
        await c.wait(name, { aliveFor: 30 });
        await eventually(async () => (await a.state(name)).pending.length === 0);
        await a.release(held);
        expect(await a.ask(name)).toMatchObject({ kind: 'granted' });
      });

      it('serves a waiter that polls instead of listening', async () => {
        const name = newName();
        const held = await a.take(name);
        const polling = open();
        expect(polling.backend.wakeUp.listensTo(name)).toBe(false);
        const first = await polling.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'busy' });
        expect(await polling.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('queues nobody that asks without a place', async () => {
        const name = newName();
        const held = await a.take(name);
        expect(await b.ask(name)).toMatchObject({ kind: 'busy', sequence: undefined });
        await a.release(held);
        expect(b.woken).toEqual([]);
        expect(await c.ask(name)).toMatchObject({ kind: 'granted' });
      });
    });

    describe('the holder', () => {
      it('is told of the first who begins to wait, and of no other', async () => {
        const name = newName();
        await a.take(name);
        await a.hear(name);
        await b.wait(name);
        await c.wait(name);
        await eventually(() => a.toldOfOthers.length > 0);
        // What would be told of a second waiter has overtaken what follows from a release.
        const other = newName();
        const held = await b.take(other);
        await b.hear(other);
        await a.wait(other);
        await b.release(held);
        await eventually(() => a.woken.length > 0);
        expect(a.toldOfOthers).toEqual([name.owner]);
        expect([b.toldOfOthers, c.toldOfOthers]).toEqual([[other.owner], []]);
      });

      it('is told again of the first after the queue was empty', async () => {
        const name = newName();
        await a.take(name);
        await a.hear(name);
        await b.backend.cancel(await b.wait(name));
        await c.wait(name);
        await eventually(() => a.toldOfOthers.length === 2);
      });

      it('learns by the grant whether others wait', async () => {
        const name = newName();
        const first = await a.take(name);
        const [second, third] = [await b.wait(name), await c.wait(name)];
        await a.release(first);
        expect(await b.ask(name, second)).toMatchObject({ kind: 'granted', othersWait: true });
        expect(await b.ask(name, second)).toMatchObject({ kind: 'granted', othersWait: true });
        await b.release({ ...second, fencingToken: first.fencingToken });
        expect(await c.ask(name, third)).toMatchObject({ kind: 'granted', othersWait: false });
      });
    });

    describe('cancel', () => {
      it('takes a waiter out of the queue', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        expect(await b.backend.cancel(first)).toEqual({ kind: 'cancelled' });
        expect((await a.state(name)).pending).toEqual([
          { sequence: second.sequence, access: 'exclusive' },
        ]);
        await a.release(held);
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'granted' });
        expect(b.woken).toEqual([]);
      });

      it('passes a reservation on to the next', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        const second = await c.wait(name);
        await a.release(held);
        await b.backend.cancel(first);
        await eventually(() => c.woken.length > 0, { message: 'the second is woken' });
        expect(await a.ask(name)).toMatchObject({ kind: 'busy' });
        expect(await c.ask(name, { token: second.token })).toMatchObject({ kind: 'granted' });
      });

      it('passes a grant on to the next', async () => {
        const name = newName();
        const held = await a.take(name);
        const first = await b.wait(name);
        await a.backend.cancel(held);
        await eventually(() => b.woken.length > 0, { message: 'the waiter is woken' });
        expect(await a.backend.extend([held])).toEqual([{ kind: 'taken' }]);
        expect(await b.ask(name, { token: first.token })).toMatchObject({ kind: 'granted' });
      });

      it('frees the key where nobody waits', async () => {
        const held = await a.take(newName());
        await a.backend.cancel(held);
        expect(await b.ask(held.name)).toMatchObject({ kind: 'granted' });
      });

      it('is harmless with a token that is unknown, cancelled, or of another key', async () => {
        const name = newName();
        const held = await a.take(name);
        const waiter = await b.wait(name);
        const elsewhere = await c.take(newName());
        for (const token of [randomUUID(), elsewhere.token, randomUUID()]) {
          expect(await c.backend.cancel({ name, token })).toEqual({ kind: 'cancelled' });
        }
        expect((await a.state(name)).pending).toEqual([
          { sequence: waiter.sequence, access: 'exclusive' },
        ]);
        expect(await a.backend.extend([held, elsewhere])).toMatchObject([
          { kind: 'extended' },
          { kind: 'extended' },
        ]);
        await a.release(held);
        expect(await c.ask(name)).toMatchObject({ kind: 'busy' });
        await c.backend.cancel(held);
        expect(await b.ask(name, { token: waiter.token })).toMatchObject({ kind: 'granted' });
      });
    });

    describe('query', () => {
      it('shows nobody for a free key', async () => {
        const name = newName();
        expect(await a.state(name)).toEqual({ key: name.key, held: [], pending: [] });
      });

      it('shows the holder and the waiters in their order', async () => {
        const name = newName();
        const before = Date.now();
        const held = await a.take(name, { ttl: 5_000 });
        const waiters = [await b.wait(name), await c.wait(name)];
        const { key, held: holders, pending } = await c.state(name);
        expect(key).toBe(name.key);
        expect(holders).toEqual([
          {
            fencingToken: held.fencingToken,
            access: 'exclusive',
            since: expect.any(Date),
            remaining: expect.any(Number),
            host: hostname(),
            pid: process.pid,
            application: 'conformance',
            label: undefined,
            kept: false,
          },
        ]);
        expect(holders[0]?.since.getTime()).toBeGreaterThanOrEqual(before - 1);
        expect(holders[0]?.since.getTime()).toBeLessThanOrEqual(Date.now() + 1);
        expect(holders[0]?.remaining).toBeGreaterThan(4_000);
        expect(holders[0]?.remaining).toBeLessThanOrEqual(5_000);
        const access = 'exclusive';
        expect(pending).toEqual(waiters.map(({ sequence }) => ({ sequence, access })));
      });

      it.each([
        'import of customers',
        '"channel":"x"',
        'two\nlines\u2028and more',
        '}',
        '名前 🔒',
        '\ud800',
      ])('shows the label of the holder, also when the key is only kept: %j', async (label) => {
        const name = newName();
        const held = await a.take(name, { label });
        await a.hear(name);
        expect((await c.state(name)).held).toMatchObject([{ label, pid: process.pid }]);
        // The holder is still told that somebody waits.
        await b.wait(name);
        await eventually(() => a.toldOfOthers.length === 1);
        await a.release(held, 5_000);
        expect((await c.state(name)).held).toMatchObject([{ label, kept: true }]);
      });

      it('shows neither a reservation as a holder nor its waiter as waiting', async () => {
        const name = newName();
        const held = await a.take(name);
        await b.wait(name);
        await a.release(held);
        expect(await c.state(name)).toEqual({ key: name.key, held: [], pending: [] });
      });
    });

    describe('forceRelease', () => {
      const by = { host: hostname(), pid: process.pid, application: 'conformance' };

      it('takes the key from its holder, says from whom, and tells it', async () => {
        const name = newName();
        const held = await a.take(name, { label: 'import' });
        const { held: holders } = await c.state(name);
        const outcome = await b.backend.forceRelease({
          name,
          reason: 'it\'s "stuck"\n',
          notAfter: performance.now() + 5_000,
        });
        expect(outcome).toMatchObject({
          kind: 'forced',
          held: [{ ...holders[0], remaining: expect.any(Number) }],
          by: { ...by, reason: 'it\'s "stuck"\n' },
        });
        expect(holders).toMatchObject([{ label: 'import', fencingToken: held.fencingToken }]);
        await eventually(() => a.toldOfForce.length > 0, { message: 'the holder is told' });
        expect(a.toldOfForce).toEqual([
          { token: held.token, owner: name.owner, by: { ...by, reason: 'it\'s "stuck"\n' } },
        ]);
        expect(await c.state(name)).toEqual({ key: name.key, held: [], pending: [] });
        expect(await a.backend.extend([held])).toEqual([{ kind: 'taken' }]);
        expect(await a.release(held)).toEqual({ kind: 'taken' });
        const next = await c.take(name);
        // What the former holder still does, is no longer about this key.
        expect(await a.release(held, 5_000)).toEqual({ kind: 'taken' });
        await a.backend.cancel(held);
        expect(await c.backend.extend([next])).toMatchObject([{ kind: 'extended' }]);
      });

      it('hands the key on to the first live waiter', async () => {
        const name = newName();
        await a.take(name);
        const dead = await b.wait(name, { aliveFor: 20 });
        const first = await b.wait(name);
        const second = await c.wait(name);
        await eventually(async () => (await a.state(name)).pending.length === 2);
        expect(await c.force(name)).toBe(1);
        await eventually(() => b.woken.length > 0, { message: 'the waiter is woken' });
        expect([b.woken, c.woken]).toEqual([[first.token], []]);
        expect(await c.ask(name)).toMatchObject({ kind: 'busy' });
        expect(await b.ask(name, { token: first.token })).toMatchObject({ othersWait: true });
        expect((await a.state(name)).pending).toMatchObject([{ sequence: second.sequence }]);
        expect(b.woken).not.toContain(dead.token);
      });

      it('frees a key that is kept, of which nobody needs to be told', async () => {
        const held = await a.take(newName());
        await a.release(held, 5_000);
        expect(await b.force(held.name)).toBe(1);
        const next = await b.take(held.name);
        expect(next.fencingToken).toBeGreaterThan(held.fencingToken);
        expect([a.toldOfForce, b.toldOfForce]).toEqual([[], []]);
      });

      it('does nothing where nobody holds the key: free, never used, expired, or reserved', async () => {
        const [free, unused, expired, reserved] = [newName(), newName(), newName(), newName()];
        await a.release(await a.take(free));
        const short = await a.take(expired, { ttl: 50 });
        const done = await a.take(reserved);
        const waiter = await b.wait(reserved);
        await a.release(done);
        await eventually(async () => (await b.state(short.name)).held.length === 0);
        for (const name of [free, unused, expired, reserved]) expect(await c.force(name)).toBe(0);
        expect(await b.ask(reserved, { token: waiter.token })).toMatchObject({ kind: 'granted' });
        expect(a.toldOfForce).toEqual([]);
      });

      it('skips the fencing tokens that the holder may have used', async () => {
        const name = newName();
        // Ahead of the clock, which would be larger than all of them otherwise.
        await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
        const first = await a.take(name);
        await b.force(name);
        const second = await b.take(name);
        expect(second.fencingToken).toBe(first.fencingToken + FENCE_RANGE);
        await b.release(second, 5_000);
        await a.force(name);
        expect((await a.take(name)).fencingToken).toBe(second.fencingToken + 1);
      });

      it('works also where the holder has gone, or never listened', async () => {
        const silent = open();
        const name = newName();
        await silent.take(name);
        await silent.backend.close();
        expect(await a.force(name)).toBe(1);
        await b.take(name);
      });
    });

    describe('names', () => {
      const namesOf = async (prefix: string, pattern: string): Promise<string[]> => {
        const outcome = await c.backend.names(prefix, KeyPattern.of(pattern));
        if (outcome.kind !== 'names') throw new Error(`No names: ${JSON.stringify(outcome)}`);
        for (const name of outcome.names) expect(LockName.of(prefix, name.key)).toEqual(name);
        return outcome.names.map(({ key }) => key).toSorted();
      };

      it('gives each name in use once: held, kept, or only waited for', async () => {
        const [held, kept, waited] = ['held', 'kept', 'waited'].map((key) =>
          LockName.of('names', key),
        ) as [LockName, LockName, LockName];
        await a.take(held);
        await b.wait(held);
        await a.release(await a.take(kept), 5_000);
        const short = await a.take(waited, { ttl: 50 });
        await b.wait(waited);
        await eventually(async () => (await a.state(short.name)).held.length === 0);
        expect(await namesOf('names', '*')).toEqual(['held', 'kept', 'waited']);
        expect(await namesOf('names', '*ai*')).toEqual(['waited']);
        expect(await namesOf('name', '*')).toEqual([]);
      });

      it('finds a few among thousands', async () => {
        // Each counts as often as there are nodes.
        const [count, pattern] = byMajority ? [900, '1?4'] : [3_000, '1?34'];
        const many = Array.from({ length: count }, (_, index) => LockName.of('many', `${index}`));
        await Promise.all(many.map((name) => a.take(name)));
        expect(await namesOf('many', '*')).toHaveLength(count);
        expect(await namesOf('many', pattern)).toHaveLength(10);
      });
    });

    it('keeps names apart, however alike they look', async () => {
      const pairs: [prefix: string, key: string][] = [
        ...['k', 'k:q', 'k:f', 'k}', '{k}', '{k', 'k%7D', '%k', '%25k', 'k ', 'K', 'ключ'].map(
          (key): [string, string] => ['lock', key],
        ),
        ['lock:k', 'k'],
        ['other', 'k'],
      ];
      const leases = await Promise.all(
        pairs.map(([prefix, key]) => a.take(LockName.of(prefix, key))),
      );
      const waiters = await Promise.all(leases.map(({ name }) => b.wait(name)));
      for (const [index, held] of leases.entries()) {
        const waiter = waiters[index] as HeldToken;
        expect(await a.release(held)).toEqual({ kind: 'released' });
        await b.take(held.name, { token: waiter.token });
        const rest = leases.slice(index + 1);
        const outcomes = await a.backend.extend(rest);
        expect(outcomes.map(({ kind }) => kind)).toEqual(rest.map(() => 'extended'));
      }
    });

    it('ends with close(), which may be called twice and leaves other processes alone', async () => {
      const name = newName();
      const held = await a.take(name);
      await b.wait(name, { aliveFor: 50 });
      await b.backend.close();
      await b.backend.close();
      expect(b.backend.wakeUp.listensTo(name)).toBe(false);
      await store.noticesClosed(b.backend);
      expect(await a.release(held)).toEqual({ kind: 'released' });
      const again = await eventually(() => a.take(name), { timeout: CLAIM_WINDOW + 1_000 });
      expect(await a.release(again)).toEqual({ kind: 'released' });
    });

    it('leaves nothing in the store but fence counters that expire', async () => {
      const many = Array.from({ length: 5 }, newName);
      await Promise.all(
        many.map(async (name) => {
          const held = await a.take(name, { ttl: 2_000 });
          const first = await b.wait(name);
          const second = await c.wait(name);
          const third = await a.wait(name);
          await a.backend.extend([held]);
          await b.backend.cancel(first);
          await a.release(held);
          await c.release(await c.take(name, { token: second.token }));
          await a.backend.cancel(third);
          const last = await b.take(name);
          await c.wait(name, { aliveFor: 20 });
          await b.release(last, 20);
        }),
      );
      // One for which nobody ever waited.
      await a.release(await a.take(newName()));
      await eventually(async () => (await store.contents()).every(({ isFence }) => isFence), {
        message: 'everything but the fence counters is gone',
      });
      const left = await store.contents();
      expect(left).toHaveLength(many.length + 1);
      for (const { ttl } of left) {
        expect(ttl).toBeGreaterThan(0);
        expect(ttl).toBeLessThanOrEqual(TTL + FENCE_RETENTION);
      }
    });
  });
}

function expectRising(numbers: readonly number[]): void {
  for (const [index, number] of numbers.slice(1).entries()) {
    expect(number).toBeGreaterThan(numbers[index] as number);
  }
}
