/**
 * Our library with a safety line cut, for one test: the torture has to find it. Each promises what ours promises, and none
 * stands in the tables.
 */
import { clientsOf } from '../where.js';
import { ours } from './ours.js';
import type { Subject, SubjectClient, SubjectLock, SubjectOptions } from './subject.js';

/** A holder that never asks whether its time is over, and isn't told. */
export const brokenBelief = broken('broken-belief', async (options) =>
  wrapped(await ours.open(options), (lock) => {
    let released = false;
    return {
      fencingToken: undefined,
      get isHeld() {
        return !released;
      },
      onLost: () => {},
      release: () => {
        released = true;
        return lock.release();
      },
    };
  }),
);

/** A release that doesn't look whose key it is. */
export const brokenRelease = broken('broken-release', async (options) => {
  const [redis] = clientsOf(options.where);
  if (redis === undefined) throw new Error('There is no server.');
  const client = await ours.open(options);
  const careless = wrapped(client, (lock, key) => ({
    fencingToken: lock.fencingToken,
    get isHeld() {
      return lock.isHeld;
    },
    onLost: (callback) => lock.onLost(callback),
    release: async () => {
      await redis.del(`lock:{${key}}`);
      return lock.release();
    },
  }));
  return {
    ...careless,
    async close() {
      redis.disconnect();
      await client.close();
    },
  };
});

export const brokenSubjects: readonly Subject[] = [brokenBelief, brokenRelease];

function broken(id: string, open: (options: SubjectOptions) => Promise<SubjectClient>): Subject {
  return { ...ours, id, title: id, open };
}

function wrapped(
  client: SubjectClient,
  wrap: (lock: SubjectLock, key: string) => SubjectLock,
): SubjectClient {
  return {
    async acquire(key) {
      const lock = await client.acquire(key);
      return lock === undefined ? undefined : wrap(lock, key);
    },
    outcomeOf: (error) => client.outcomeOf(error),
    close: () => client.close(),
  };
}
