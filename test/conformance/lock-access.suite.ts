/**
 * Who may hold a key together with whom, and who comes next: what every `LockBackend` promises of exclusive, shared and
 * limited holders. A part of its suite in lock-backend.suite.ts.
 */
import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';

import type { Access } from '../../lib/core/access.js';
import { FENCE_RANGE, type HeldToken } from '../../lib/core/backend/lock-backend.js';
import type { LockName } from '../../lib/core/lock-name.js';
import { eventually } from '../support/eventually.js';
import { type BackendTraits, type Parties, type Party, TTL } from './lock-backend.suite.js';

type Held = HeldToken & { readonly fencingToken: number };

export function describeAccess(parties: () => Parties, { byMajority }: BackendTraits): void {
  describe('access', () => {
    // Locker refuses limits where majorities decide, which don't preserve counts; and circles aren't looked for there.
    const unlessByMajority = byMajority ? it.skip : it;
    if (byMajority) {
      process.stdout.write(
        'by majority: no limits that are kept or compared, no notes of who waits\n',
      );
    }
    /** One who holds, one who asks: whether the second may enter beside the first. */
    const TABLE: readonly [held: Access, asked: Access, 'granted' | 'busy' | 'conflict'][] = [
      ['exclusive', 'exclusive', 'busy'],
      ['exclusive', 'shared', 'busy'],
      ['exclusive', 'limit:1', 'busy'],
      ['exclusive', 'limit:3', 'busy'],
      ['shared', 'exclusive', 'busy'],
      ['shared', 'shared', 'granted'],
      ['shared', 'limit:1', 'busy'],
      ['shared', 'limit:3', 'busy'],
      ['limit:1', 'exclusive', 'busy'],
      ['limit:1', 'shared', 'busy'],
      ['limit:1', 'limit:1', 'busy'],
      ['limit:1', 'limit:3', 'conflict'],
      ['limit:3', 'exclusive', 'busy'],
      ['limit:3', 'shared', 'busy'],
      ['limit:3', 'limit:1', 'conflict'],
      ['limit:3', 'limit:3', 'granted'],
    ];
    const table = TABLE.filter(([, , expected]) => !byMajority || expected !== 'conflict');
    it.each(table)('held as %s, asked for as %s: %s', async (held, asked, expected) => {
      const { a, b, newName } = parties();
      const name = newName();
      const first = await a.take(name, { access: held });
      const outcome = await b.ask(name, { access: asked });
      expect(outcome).toMatchObject({
        kind: expected,
        ...(expected === 'conflict' && { access: held }),
      });
      // And once it's given back, whoever asks gets it, under a larger fencing token.
      await a.release(first);
      const after = outcome.kind === 'granted' ? outcome : await b.ask(name, { access: asked });
      expect(after).toMatchObject({ kind: 'granted' });
      const { fencingToken } = after as typeof after & { kind: 'granted' };
      expect(fencingToken).toBeGreaterThan(first.fencingToken);
    });

    unlessByMajority.each([1, 2, 5])(
      'a limit of %i is never exceeded, however many ask at once',
      async (limit) => {
        const { a, b, c, newName } = parties();
        const name = newName();
        const access: Access = `limit:${limit}`;
        const outcomes = await Promise.all(
          Array.from({ length: 30 }, (_, i) => ([a, b, c][i % 3] as Party).ask(name, { access })),
        );
        expect(outcomes.filter(({ kind }) => kind === 'granted')).toHaveLength(limit);
        const fences = outcomes.flatMap((one) =>
          one.kind === 'granted' ? [one.fencingToken] : [],
        );
        expect(new Set(fences).size).toBe(limit);
        expect((await a.state(name)).held).toHaveLength(limit);
      },
    );

    it('grants again by the same token: the same fencing token, and no second place', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const one = await a.take(name, { access: 'limit:2' });
      expect((await a.take(name, one)).fencingToken).toBe(one.fencingToken);
      await b.take(name, { access: 'limit:2' });
      expect((await b.ask(name, { access: 'limit:2' })).kind).toBe('busy');
    });

    describe.each(byMajority ? (['shared'] as const) : (['shared', 'limit:2', 'limit:1'] as const))(
      'a command that comes a second time, after its token has given back, under %s',
      (access) => {
        it.each([
          ['alone', (a: Party, name: LockName, token: string) => a.ask(name, { token, access })],
          [
            'with others',
            (a: Party, name: LockName, token: string) =>
              a.backend.tryAcquireAll({
                wanted: [{ name, token }],
                ...{ access, ttl: 5_000, label: undefined, fencingToken: undefined },
                notAfter: performance.now() + 1_000,
              }),
          ],
        ])('takes nothing, %s, and what is kept stays', async (_how, again) => {
          const { a, newName } = parties();
          const name = newName();
          const held = await a.take(name, { access });
          await a.release(held, 5_000);
          expect(await again(a, name, held.token)).toMatchObject({ kind: 'late' });
          const { held: left, pending } = await a.state(name);
          expect(left).toMatchObject([{ fencingToken: held.fencingToken, kept: true }]);
          expect(pending).toEqual([]);
        });
      },
    );

    it('shows all holders and what each waits for', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const [one, two] = [
        await a.take(name, { access: 'shared' }),
        await b.take(name, { access: 'shared' }),
      ];
      const writer = await c.wait(name, { access: 'exclusive' });
      const reader = await c.wait(name, { access: 'shared' });
      const { held, pending } = await a.state(name);
      expect(held).toMatchObject([
        { fencingToken: one.fencingToken, access: 'shared', kept: false },
        { fencingToken: two.fencingToken, access: 'shared', kept: false },
      ]);
      expect(pending).toEqual([
        { sequence: writer.sequence, access: 'exclusive' },
        { sequence: reader.sequence, access: 'shared' },
      ]);
    });

    it("a waiting writer stops readers that come later; it's next when the last reader leaves", async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const [one, two] = [
        await a.take(name, { access: 'shared' }),
        await b.take(name, { access: 'shared' }),
      ];
      const writer = await c.wait(name);
      expect((await a.ask(name, { access: 'shared' })).kind).toBe('busy');
      const reader = await a.wait(name, { access: 'shared' });
      await a.release(one);
      expect((await c.ask(name, writer)).kind).toBe('busy');
      await b.release(two);
      await eventually(() => c.woken.includes(writer.token));
      expect((await a.ask(name, reader)).kind).toBe('busy');
      const written = await c.take(name, writer);
      expect(written.fencingToken).toBeGreaterThan(two.fencingToken);
    });

    it('a releasing writer lets the whole leading run of readers in at once, up to the next writer', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const writer = await a.take(name);
      const run = [
        await b.wait(name, { access: 'shared' }),
        await c.wait(name, { access: 'shared' }),
        await b.wait(name, { access: 'shared' }),
      ];
      const next = await c.wait(name);
      const behind = await b.wait(name, { access: 'shared' });
      await a.release(writer);
      await eventually(() => b.woken.length + c.woken.length >= 3);
      expect(b.woken).toEqual([run[0]?.token, run[2]?.token]);
      expect(c.woken).toEqual([run[1]?.token]);
      const readers: Held[] = [];
      for (const waiter of run) readers.push(await b.take(name, waiter));
      expect((await b.ask(name, behind)).kind).toBe('busy');
      for (const reader of readers) await b.release(reader);
      await eventually(() => c.woken.includes(next.token));
      await c.release(await c.take(name, next));
      await eventually(() => b.woken.includes(behind.token));
    });

    it('a place that is given back goes to the first who waits for one, and to nobody who comes by', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const access = 'limit:2';
      const [one] = [await a.take(name, { access }), await a.take(name, { access })];
      const waiter = await b.wait(name, { access });
      await a.release(one);
      expect((await c.ask(name, { access })).kind).toBe('busy');
      await eventually(() => b.woken.includes(waiter.token));
      expect((await b.ask(name, waiter)).kind).toBe('granted');
      expect((await a.state(name)).held).toHaveLength(2);
    });

    it('a place that is not claimed goes to the next', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const access = 'limit:1';
      const one = await a.take(name, { access });
      const [gone, next] = [await b.wait(name, { access }), await c.wait(name, { access })];
      await a.release(one);
      await eventually(() => b.woken.includes(gone.token));
      expect((await c.ask(name, next)).kind).toBe('busy');
      // The claim window passes.
      await eventually(async () => (await c.ask(name, next)).kind === 'granted');
      expect((await b.ask(name, gone)).kind).toBe('busy');
    });

    it('a waiter that gives up after the key was reserved for it, leaves it to the next', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      for (const access of ['shared', 'limit:1'] as const) {
        const held = await a.take(name);
        const [first, next] = [await b.wait(name, { access }), await c.wait(name)];
        await a.release(held);
        await eventually(() => b.woken.includes(first.token));
        await b.backend.cancel(first);
        await eventually(() => c.woken.includes(next.token));
        await c.release(await c.take(name, next));
      }
    });

    it('a waiting writer whose process is gone stops readers no longer than until one asks', async () => {
      const { a, b, c, newName, store, knowsWhoListens } = parties();
      const name = newName();
      await a.take(name, { access: 'shared' });
      await b.wait(name);
      await b.backend.close();
      await store.noticesClosed(b.backend);
      const outcome = await c.ask(name, { access: 'shared' });
      expect(outcome.kind).toBe(knowsWhoListens ? 'granted' : 'busy');
    });

    it('a writer that gives up while it waits, lets in the readers behind it', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const reader = await a.take(name, { access: 'shared' });
      const writer = await b.wait(name);
      const behind = await c.wait(name, { access: 'shared' });
      await b.backend.cancel(writer);
      await eventually(() => c.woken.includes(behind.token));
      expect((await c.ask(name, behind)).kind).toBe('granted');
      expect((await a.state(name)).held).toHaveLength(2);
      await a.release(reader);
    });

    it("a holder that doesn't renew loses its place to others, by the server's time alone", async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const access = 'limit:2';
      const crashed = await a.take(name, { access, ttl: 300 });
      const alive = await b.take(name, { access, ttl: 60_000 });
      expect((await b.ask(name, { access })).kind).toBe('busy');
      const after = await eventually(() => b.take(name, { access }));
      expect(after.fencingToken).toBeGreaterThan(alive.fencingToken);
      expect(await a.backend.extend([crashed])).toEqual([{ kind: 'taken' }]);
      expect(await a.release(crashed)).toEqual({ kind: 'taken' });
      expect((await b.state(name)).held).toHaveLength(2);
    });

    it('a holder whose time is up is not prolonged, though nobody has asked for its place since', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const crashed = await a.take(name, { access: 'shared', ttl: 200 });
      await b.take(name, { access: 'shared' });
      await eventually(async () => (await b.state(name)).held.length === 1);
      expect(await a.backend.extend([crashed])).toEqual([{ kind: 'taken' }]);
    });

    it('answers with the time until one place is free, or until all others are', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const access = 'limit:2';
      await a.take(name, { access, ttl: 1_000 });
      await a.take(name, { access, ttl: 30_000 });
      const [one, all] = [await b.ask(name, { access }), await b.ask(name)];
      if (one.kind !== 'busy' || all.kind !== 'busy') throw new Error('It is not busy.');
      expect(one.remaining).toBeLessThanOrEqual(1_000);
      expect(all.remaining).toBeGreaterThan(20_000);
    });

    it('prolongs each of many, of every kind, in one call', async () => {
      const { a, b, newName } = parties();
      const [shared, limited, alone, lost] = [newName(), newName(), newName(), newName()];
      const leases = [
        await a.take(shared, { access: 'shared', ttl: 500 }),
        await a.take(shared, { access: 'shared', ttl: 500 }),
        await a.take(limited, { access: 'limit:3', ttl: 500 }),
        await a.take(alone, { ttl: 500 }),
        await a.take(lost, { access: 'shared', ttl: 500 }),
      ];
      await a.release(leases[4] as Held);
      const outcomes = await a.backend.extend(leases.map((lease) => ({ ...lease, ttl: 5_000 })));
      expect(outcomes.map(({ kind }) => kind)).toEqual([
        ...['extended', 'extended', 'extended', 'extended'],
        'taken',
      ]);
      for (const name of [shared, limited, alone]) {
        for (const { remaining } of (await b.state(name)).held) {
          expect(remaining).toBeGreaterThan(4_000);
        }
      }
    });

    it("keeps a place for a while after the holder is done (holdAtLeast), and the others' until they leave", async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const access = 'limit:2';
      const [one, two] = [await a.take(name, { access }), await a.take(name, { access })];
      expect(await a.release(one, 400)).toEqual({ kind: 'released' });
      expect((await b.state(name)).held).toMatchObject([
        { fencingToken: one.fencingToken, kept: true },
        { fencingToken: two.fencingToken, kept: false },
      ]);
      // Nothing is left of it that could be prolonged or undone.
      expect(await a.backend.extend([one])).toEqual([{ kind: 'taken' }]);
      await a.backend.cancel(one);
      expect((await b.ask(name, { access })).kind).toBe('busy');
      await eventually(() => b.take(name, { access }));
      expect(await a.release(two)).toEqual({ kind: 'released' });
    });

    it('downgrades: readers that wait enter, a writer does not, the fencing token stays', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const held = await a.take(name);
      const reader = await b.wait(name, { access: 'shared' });
      const writer = await c.wait(name);
      expect(await a.backend.downgrade(held)).toEqual({ kind: 'released' });
      await eventually(() => b.woken.includes(reader.token));
      const entered = await b.take(name, reader);
      expect(entered.fencingToken).toBeGreaterThan(held.fencingToken);
      expect((await c.ask(name, writer)).kind).toBe('busy');
      expect((await a.state(name)).held).toMatchObject([
        { fencingToken: held.fencingToken, access: 'shared' },
        { fencingToken: entered.fencingToken, access: 'shared' },
      ]);
      // It may be told twice, and is released as what it is now.
      expect(await a.backend.downgrade(held)).toEqual({ kind: 'released' });
      const shared = { ...held, access: 'shared' } as const;
      expect(await a.backend.extend([shared])).toMatchObject([{ kind: 'extended' }]);
      expect(await a.release(shared)).toEqual({ kind: 'released' });
      expect(await a.backend.downgrade(held)).toEqual({ kind: 'taken' });
      await b.release(entered);
      await eventually(() => c.woken.includes(writer.token));
    });

    it('after a downgrade under a later fencing token of the range, the next is larger still', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const held = await a.take(name);
      const fencingToken = held.fencingToken + 9_000;
      await a.backend.downgrade({ ...held, fencingToken });
      expect((await a.state(name)).held).toMatchObject([{ fencingToken }]);
      const reader = await b.take(name, { access: 'shared' });
      expect(reader.fencingToken).toBeGreaterThan(fencingToken);
    });

    it('a command that was sent before a downgrade, and comes after it, does not take it back', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const held = await a.take(name);
      await a.backend.downgrade(held);
      const reader = await b.take(name, { access: 'shared' });
      for (const fencingToken of [undefined, held.fencingToken]) {
        const outcome = await a.backend.tryAcquireAll({
          wanted: [held],
          ...{ ttl: held.ttl, access: 'exclusive', fencingToken, label: undefined },
          notAfter: performance.now() + 5_000,
        });
        expect(outcome).toMatchObject({ kind: 'busy', index: 0 });
      }
      expect((await a.state(name)).held).toMatchObject([
        { fencingToken: held.fencingToken, access: 'shared' },
        { fencingToken: reader.fencingToken, access: 'shared' },
      ]);
    });

    it('gives back and prolongs what the answer to a downgrade was lost for', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const held = { ...(await a.take(name)), access: 'shared' } as const;
      expect(await a.backend.extend([held])).toMatchObject([{ kind: 'extended' }]);
      expect(await a.release(held)).toEqual({ kind: 'released' });
      expect((await b.ask(name)).kind).toBe('granted');
    });

    it('after a downgrade that never came, the next has a fencing token beyond the whole range', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const held = await a.take(name);
      const lastFence = held.fencingToken + 9_999;
      await a.backend.release({ ...held, access: 'shared', lastFence, keepFor: 0 });
      expect((await b.take(name)).fencingToken).toBeGreaterThan(lastFence);
    });

    it("leaves another's lease alone: downgrade, renewal and release of a token that isn't there", async () => {
      const { a, b, newName } = parties();
      for (const access of ['exclusive', 'shared'] as const) {
        const held = await a.take(newName(), { access });
        const stranger = { ...held, token: randomUUID(), access: 'shared' } as const;
        expect(await b.backend.downgrade(stranger)).toEqual({ kind: 'taken' });
        expect(await b.backend.extend([stranger])).toEqual([{ kind: 'taken' }]);
        expect(await b.release(stranger)).toEqual({ kind: 'taken' });
        expect((await a.state(held.name)).held).toMatchObject([
          { fencingToken: held.fencingToken, access },
        ]);
      }
    });

    // (One key alone, as a Cluster has no others in the same command.)
    describe('asked for with others', () => {
      const ask = (
        party: Party,
        name: LockName,
        options: { readonly access?: Access; readonly fencingToken?: number } = {},
      ) =>
        party.backend.tryAcquireAll({
          wanted: [{ name, token: randomUUID() }],
          ...{ ttl: TTL, access: 'exclusive', fencingToken: undefined, label: undefined },
          notAfter: performance.now() + 5_000,
          ...options,
        });

      it.each(['exclusive', 'shared'] as const)(
        'a key (%s) is given the fencing token of all only where it is held',
        async (access) => {
          const { a, newName } = parties();
          const name = newName();
          const outcome = await ask(a, name, { access, fencingToken: Date.now() * 1_000 });
          expect(outcome).toMatchObject({ kind: 'busy', index: 0 });
          expect((await a.state(name)).held).toEqual([]);
        },
      );

      it('a key passes nobody who waits for it', async () => {
        const { a, b, c, newName } = parties();
        const name = newName();
        await a.take(name, { ttl: 200 });
        await b.wait(name);
        await eventually(async () => (await a.state(name)).held.length === 0);
        expect(await ask(c, name)).toMatchObject({ kind: 'busy', index: 0 });
      });

      unlessByMajority('a key is refused that is held under another limit', async () => {
        const { a, b, newName } = parties();
        const name = newName();
        await a.take(name, { access: 'limit:3' });
        expect(await ask(b, name, { access: 'limit:1' })).toMatchObject({
          kind: 'conflict',
          index: 0,
          access: 'limit:3',
        });
      });

      it('a key has a fencing token that is larger than the last', async () => {
        const { a, store, newName } = parties();
        const name = newName();
        const ahead = (Date.now() + 3_600_000) * 1_000;
        await store.setFence(name, ahead);
        expect(await ask(a, name)).toMatchObject({ kind: 'granted', fencingToken: ahead + 1 });
      });

      it('a key has a fencing token beyond the whole range of a holder that was cut off', async () => {
        const { a, b, store, newName } = parties();
        const name = newName();
        await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
        const { fencingToken } = await a.take(name, { ttl: 60 });
        const next = await eventually(async () => {
          const outcome = await ask(b, name);
          return outcome.kind === 'granted' ? outcome : undefined;
        });
        expect(next.fencingToken).toBeGreaterThanOrEqual(fencingToken + FENCE_RANGE);
      });
    });

    it('who shares a key has a fencing token beyond the whole range of a holder that was cut off', async () => {
      const { a, b, store, newName } = parties();
      const name = newName();
      await store.setFence(name, (Date.now() + 3_600_000) * 1_000);
      const { fencingToken } = await a.take(name, { ttl: 60 });
      const next = await eventually(() =>
        b.take(name, { access: 'shared' }).catch(() => undefined),
      );
      expect(next.fencingToken).toBeGreaterThanOrEqual(fencingToken + FENCE_RANGE);
    });

    it('fencing tokens rise over holders of every kind, also after data was lost', async () => {
      const { a, b, store, newName } = parties();
      const name = newName();
      let last = 0;
      const next = async (party: Party, access: Access) => {
        const held = await party.take(name, { access });
        expect(held.fencingToken).toBeGreaterThan(last);
        last = held.fencingToken;
        return held;
      };
      for (const access of ['shared', 'exclusive', 'limit:2', 'shared'] as const) {
        await a.release(await next(a, access));
      }
      await next(a, 'limit:2');
      await store.loseData();
      const held = [await next(b, 'limit:2'), await next(b, 'limit:2')];
      for (const one of held) await b.release(one);
      await next(a, 'exclusive');
    });

    it('takes a key by force from all who share it, each of which is told, and lets in who waits', async () => {
      const { a, b, c, newName } = parties();
      for (const access of ['shared', 'limit:2'] as const) {
        const name = newName();
        const [one, two] = [
          await a.take(name, { access, label: 'one' }),
          await b.take(name, { access }),
        ];
        const next = await c.wait(name);
        [a.toldOfForce.length, b.toldOfForce.length] = [0, 0];
        expect(await c.force(name, 'stuck')).toBe(2);
        await eventually(() => a.toldOfForce.length === 1 && b.toldOfForce.length === 1);
        expect([a.toldOfForce[0], b.toldOfForce[0]]).toMatchObject([
          { token: one.token, by: { reason: 'stuck' } },
          { token: two.token, by: { reason: 'stuck' } },
        ]);
        await eventually(() => c.woken.includes(next.token));
        const taken = await c.take(name, next);
        expect(taken.fencingToken).toBeGreaterThan(two.fencingToken);
        expect(await a.backend.extend([one])).toEqual([{ kind: 'taken' }]);
        expect(await b.release(two)).toEqual({ kind: 'taken' });
        expect((await a.state(name)).held).toMatchObject([{ fencingToken: taken.fencingToken }]);
      }
    });

    it('takes by force what is held or kept, and leaves a place that is only reserved', async () => {
      const { a, b, c, newName } = parties();
      const name = newName();
      const access = 'limit:3';
      const [held, kept, left] = [
        await a.take(name, { access }),
        await a.take(name, { access }),
        await a.take(name, { access }),
      ];
      const waiter = await b.wait(name, { access });
      await a.release(kept, 5_000);
      await a.release(left);
      await eventually(() => b.woken.includes(waiter.token));
      a.toldOfForce.length = 0;
      expect(await c.force(name)).toBe(2);
      await eventually(() => a.toldOfForce.length > 0);
      expect(a.toldOfForce).toMatchObject([{ token: held.token }]);
      expect(await c.force(name)).toBe(0);
      expect((await b.ask(name, waiter)).kind).toBe('granted');
    });

    it('is released by force from the holder that is meant, and from nobody who came since, nor too late', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const notAfter = performance.now() + 10_000;
      const force = async (fencingToken: number, by = notAfter) => {
        const request = { name, reason: undefined, fencingToken, notAfter: by };
        const outcome = await b.backend.forceRelease(request);
        return outcome.kind === 'forced' ? outcome.held.length : outcome.kind;
      };
      const limit = { access: 'limit:3' } as const;
      const [one, two] = [await a.take(name, limit), await b.take(name, limit)];
      expect(await force(two.fencingToken + 1)).toBe(0);
      expect(await force(one.fencingToken)).toBe(1);
      expect(await force(one.fencingToken)).toBe(0);
      expect(await a.backend.extend([one])).toEqual([{ kind: 'taken' }]);
      expect(await b.backend.extend([two])).toMatchObject([{ kind: 'extended' }]);
      await b.release(two);
      // One alone may have passed its lease on, under the next tokens of its range.
      const alone = await a.take(name);
      expect(await force(alone.fencingToken, performance.now() - 1_000)).toBe('late');
      expect(await force(one.fencingToken)).toBe(0);
      expect(await force(alone.fencingToken + 5)).toBe(1);
      const next = await b.take(name);
      expect(await force(alone.fencingToken)).toBe(0);
      expect(await b.backend.extend([next])).toMatchObject([{ kind: 'extended' }]);
    });

    unlessByMajority(
      'shows who holds a key alone, and what this holder was noted to wait for',
      async () => {
        const { a, b, newName } = parties();
        const [name, other, unknown] = [newName(), newName(), newName()];
        const held = await a.take(name);
        const { token } = held;
        const look = (at = name) => b.backend.holderOf(at);
        expect(await look()).toEqual({ kind: 'held', token, blocked: undefined });
        const note = { name, token, mark: 'm', waitsFor: other, since: undefined, lasts: 60_000 };
        const marked = await a.backend.markBlocked(note);
        const { since } = marked as typeof marked & { kind: 'marked' };
        expect(await a.backend.markBlocked({ ...note, since })).toEqual({ kind: 'marked', since });
        const found = await look();
        expect(found).toMatchObject({ kind: 'held', token, blocked: { mark: 'm', since } });
        const { blocked } = found as typeof found & { kind: 'held' };
        expect(blocked?.waitsFor).toMatchObject({ key: other.key, owner: other.owner });
        // Of another wait.
        await a.backend.unmarkBlocked({ name, mark: 'n' });
        expect(await look()).toMatchObject({ blocked: { mark: 'm' } });
        await a.backend.unmarkBlocked({ name, mark: 'm' });
        expect(await look()).toMatchObject({ blocked: undefined });
        // What was noted under one holder isn't the next one's.
        await a.backend.markBlocked(note);
        await a.release(held);
        expect(await look()).toEqual({ kind: 'none' });
        const next = await b.take(name);
        expect(await look()).toEqual({ kind: 'held', token: next.token, blocked: undefined });
        expect(await a.backend.markBlocked(note)).toEqual({ kind: 'taken' });
        await a.backend.unmarkBlocked({ name, mark: 'm' });
        const shared = await a.take(other, { access: 'shared' });
        for (const at of [other, unknown]) expect(await look(at)).toEqual({ kind: 'none' });
        expect(await a.backend.markBlocked({ ...note, name: other, token: shared.token })).toEqual({
          kind: 'taken',
        });
      },
    );

    it('one who began to wait before another is ahead of it, though others stood there in its stead', async () => {
      const { a, b, newName } = parties();
      const name = newName();
      const held = await a.take(name, { access: 'limit:1' });
      const before = performance.now();
      await eventually(() => performance.now() > before + 20);
      const first = await a.wait(name, { access: 'limit:1' });
      await a.release(held);
      const earlier = await b.ask(name, {
        access: 'limit:1',
        waitsSince: before,
        place: { aliveFor: 5_000, sequence: undefined },
      });
      if (earlier.kind !== 'busy' || earlier.sequence === undefined) throw new Error('Not queued.');
      expect(earlier.sequence).toBeLessThan(first.sequence);
    });
  });
}
