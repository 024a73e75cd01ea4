/**
 * `events$`: the events of an instance's locks as an Observable, and what its subscribers can't do to a lock.
 */
import 'reflect-metadata';

import { afterEach, describe, expect, it } from '@jest/globals';
import { expectTypeOf } from 'expect-type';
import { config, filter, firstValueFrom, lastValueFrom, NEVER, take, toArray } from 'rxjs';

import { LOCK_EVENT_NAMES } from '../../lib/core/events.js';
import type { LockEvent, LockEventName, RedisLockService } from '../../lib/index.js';
import { lockEventStream } from '../../lib/nest/lock-event-stream.js';
import { eventually } from '../support/eventually.js';
import { inMemory, NestApp } from '../support/nest-app.js';

const originalReport = config.onUnhandledError;

afterEach(() => {
  config.onUnhandledError = originalReport;
});

/** What a subscriber of all events is told. */
function collect(locks: RedisLockService): { events: LockEvent[]; stop(): void } {
  const events: LockEvent[] = [];
  const subscription = locks.events$.subscribe((event) => events.push(event));
  return { events, stop: () => subscription.unsubscribe() };
}

const typesOf = (events: readonly LockEvent[]): LockEventName[] => events.map(({ type }) => type);

describe('events$', () => {
  it('tells each event with its type and its facts', async () => {
    await using app = await NestApp.start({});
    const { locks } = app;
    const { events } = collect(locks);
    const lock = await locks.acquire('k');
    expect(await locks.tryAcquire('k')).toBeNull();
    await expect(locks.acquire('k', { waitTimeout: 20 })).rejects.toThrow('not free');
    await lock.release();
    const { fencingToken } = lock;
    const duration = expect.any(Number);
    expect(events).toEqual([
      { type: 'acquired', key: 'k', fencingToken, waited: duration },
      { type: 'busy', key: 'k', remaining: duration },
      { type: 'skipped', key: 'k', remaining: duration },
      { type: 'waiting', key: 'k', remaining: duration },
      { type: 'timedOut', key: 'k', waited: duration },
      {
        type: 'refused',
        key: 'k',
        code: 'LOCK_TIMEOUT',
        waited: duration,
        error: expect.any(Error),
      },
      { type: 'released', key: 'k', fencingToken, held: duration, kept: 0 },
    ]);
  });

  it('tells of a lock that was released by force, on both sides', async () => {
    await using admin = await NestApp.start({ locks: inMemory({ application: 'admin' }) });
    await using app = await NestApp.start({});
    const lost = firstValueFrom(app.locks.events$.pipe(filter(({ type }) => type === 'lost')));
    const forced = firstValueFrom(
      admin.locks.events$.pipe(filter(({ type }) => type === 'forced')),
    );
    const { fencingToken } = await app.locks.acquire('forced', { label: 'import' });
    await admin.locks.forceRelease('forced', { reason: 'stuck' });
    const by = { application: 'admin', reason: 'stuck', pid: process.pid };
    expect(await lost).toMatchObject({ key: 'forced', fencingToken, reason: 'forced', by });
    expect(await forced).toMatchObject({ key: 'forced', held: [{ label: 'import' }], by });
  });

  it('is cold: each subscriber listens for itself, from when it subscribes until it unsubscribes', async () => {
    await using app = await NestApp.start({});
    const { locks } = app;
    const unused = locks.events$;
    await locks.using('k', () => {});
    const [first, second] = [collect(locks), collect(locks)];
    await locks.using('k', () => {});
    first.stop();
    await locks.using('k', () => {});
    expect(typesOf(first.events)).toEqual(['acquired', 'released']);
    expect(typesOf(second.events)).toEqual(['acquired', 'released', 'acquired', 'released']);
    expect(unused).toBe(locks.events$);
  });

  it('leaves no listener behind a subscriber that has gone, or has had enough', () => {
    const listeners = new Set<(event: object) => void>();
    const locker = {
      on(_name: LockEventName, listener: (event: never) => void) {
        listeners.add(listener as (event: object) => void);
        return () => void listeners.delete(listener as (event: object) => void);
      },
    };
    const subscription = lockEventStream(locker, NEVER).subscribe();
    expect(listeners.size).toBe(LOCK_EVENT_NAMES.length);
    subscription.unsubscribe();
    expect(listeners.size).toBe(0);
    lockEventStream(locker, NEVER).pipe(take(1)).subscribe();
    for (const listener of listeners) listener({});
    expect(listeners.size).toBe(0);
  });

  it("is not broken by a subscriber that throws, nor is the lock: it's reported by rxjs", async () => {
    const reported: unknown[] = [];
    config.onUnhandledError = (error) => reported.push(error);
    await using app = await NestApp.start({});
    const { locks } = app;
    locks.events$.subscribe(() => {
      throw new Error('mine');
    });
    locks.events$
      .pipe(
        filter(({ type }) => {
          throw new Error(`filter of ${type}`);
        }),
      )
      .subscribe();
    const { events } = collect(locks);
    expect(await locks.using('k', () => 'done')).toBe('done');
    expect(typesOf(events)).toEqual(['acquired', 'released']);
    await eventually(() => reported.length === 3);
    expect(reported.map((error) => (error as Error).message).toSorted()).toEqual([
      'filter of acquired',
      'mine',
      'mine',
    ]);
  });

  it('completes when the application has closed its locks, and at once after that', async () => {
    const app = await NestApp.start({});
    const { locks } = app;
    const all = lastValueFrom(locks.events$.pipe(toArray()));
    await locks.acquire('held', { ttl: 200, renew: false });
    await app[Symbol.asyncDispose]();
    expect(typesOf(await all)).toEqual(['acquired', 'lost']);
    expect(await lastValueFrom(locks.events$.pipe(toArray()))).toEqual([]);
  });

  it('is typed as a union told apart by `type`', () => {
    expectTypeOf<LockEvent['type']>().toEqualTypeOf<LockEventName>();
    expectTypeOf<Extract<LockEvent, { type: 'released' }>['held']>().toEqualTypeOf<number>();
    expectTypeOf<Extract<LockEvent, { type: 'lost' }>['reason']>().toExtend<string>();
  });
});
