/**
 * Which keys in a Redis say something of a lock. An owner record outlives its lock, so that the next fencing token is
 * larger than the last; once it's free, or has ended, it's only this memory of a number.
 */
import type { Redis } from 'ioredis';

/** The keys in use: held, reserved, kept, waited for, or not the library's at all. `now`: the server's clock, in ms. */
export async function keysInUse(client: Redis, now = Date.now): Promise<string[]> {
  const keys = await client.keys('*');
  // All at once: there may be thousands.
  const isInUse = await Promise.all(
    keys.map(async (key) => {
      // A server's guard, or in a Cluster a slot's, is of no lock, and stays.
      if (/^lock:(\{.*\}:)?guard$/.test(key)) return false;
      if (((await recordOf(client, key))?.until ?? Infinity) <= now()) return false;
      // It may have expired since the keys were listed.
      return (await client.exists(key)) === 1;
    }),
  );
  return keys.filter((_, index) => isInUse[index]);
}

/** The owner record of a key, as far as tests need it; `undefined` where there's none. */
export async function recordOf(
  client: Redis,
  key: string,
): Promise<
  { state: string; fence: number; until: number; token: string; ended: boolean } | undefined
> {
  if ((await client.type(key)) !== 'string') return undefined;
  const match = /^([hrkfs]) (\d{16}) (\d{13}) (\S+) /.exec((await client.get(key)) ?? '');
  if (match === null) return undefined;
  const [, state, fence, until, token] = match as unknown as [
    string,
    string,
    string,
    string,
    string,
  ];
  return {
    state,
    fence: Number(fence),
    until: Number(until),
    token,
    // Servers of tests run on this machine, by the same clock.
    ended: Number(until) <= Date.now(),
  };
}

/** The record of a free key that remembers a fencing token. */
export function freeRecord(fence: number): string {
  return `f ${String(fence).padStart(16, '0')} 0000000000000 - `;
}
