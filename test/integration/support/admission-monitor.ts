/**
 * Sees in Redis' stream of commands who stands in a key's queue, and who is let in: from what the scripts write, see
 * `_record.lua` and `_sharers.lua`.
 */
import type { AdmissionEvent } from './admission-judge.js';
import { type MonitoredCommand, words } from './redis-monitor.js';

const KEY = /^lock:\{(.*)\}(:q|:w)?$/;
/** In the sorted set, waiters stand above this, and who shares the key below. */
const PLACES = 1e14;
/** What a waiter's or a sharer's entry in the hash says. */
const WAITER = /^\d+ (\S+) /;

export class AdmissionMonitor {
  readonly #onEvent: (event: AdmissionEvent) => void;
  /** By key: who holds it alone, or has it reserved. */
  readonly #owners = new Map<string, string>();
  /** What each waits for, by token: told after its place. */
  readonly #places = new Map<string, number>();
  readonly #sharers = new Set<string>();
  /** Who runs the script whose commands come next, and since when it says that it waits. */
  #claimant: { readonly token: string; readonly since: number } | undefined;
  #access = '';
  /** What the script that runs now has written of. */
  readonly #written = new Set<string>();

  constructor(onEvent: (event: AdmissionEvent) => void) {
    this.#onEvent = onEvent;
  }

  see({ ofScript, text }: MonitoredCommand): void {
    if (!ofScript) {
      this.#onScript(text);
      return;
    }
    if (!text.includes('"lock:{')) return;
    const [name = '', redisKey = '', ...args] = words(text);
    const [, key = '', kind] = KEY.exec(redisKey) ?? [];
    this.#written.add(key);
    if (kind === undefined && name.toUpperCase() === 'SET') this.#onRecord(key, args[0] ?? '');
    else if (kind === ':q') this.#onQueue(name.toUpperCase(), key, args);
    else if (kind === ':w' && name.toUpperCase() === 'HSET') this.#onInfo(key, args);
  }

  #onScript(text: string): void {
    for (const key of this.#written) this.#onEvent({ what: 'written', key });
    this.#written.clear();
    this.#claimant = undefined;
    if (!text.startsWith('"evalsha"')) return;
    // share.lua: three keys, token, ttl, deadline, holder, receivers, access, place.
    const [, , count, , , , token = '', , , , , access = '', place = ''] = words(text);
    if (count === '3' && /^(shared|limit:)/.test(access)) {
      this.#access = access;
      if (place !== '') this.#claimant = { token, since: Number(place) };
    }
  }

  #onRecord(key: string, record: string): void {
    const [state, , , token = ''] = record.split(' ');
    const owner = state === 'h' || state === 'r' ? token : undefined;
    const before = this.#owners.get(key);
    if (before !== undefined && before !== owner) {
      this.#owners.delete(key);
      this.#onEvent({ what: 'left', key, token: before });
    }
    if (state === 's') this.#access = token;
    if (owner === undefined) return;
    this.#owners.set(key, owner);
    this.#onEvent({ what: 'admitted', key, token: owner, access: 'exclusive' });
  }

  #onQueue(name: string, key: string, args: readonly string[]): void {
    switch (name) {
      case 'ZADD': {
        const [score = '', token = ''] = args;
        if (Number(score) >= PLACES) {
          this.#places.set(token, Number(score));
        } else {
          const since = this.#claimant?.token === token ? this.#claimant.since : undefined;
          this.#sharers.add(token);
          this.#onEvent({ what: 'admitted', key, token, access: this.#access, since });
        }
        break;
      }
      case 'ZREM':
        for (const token of args) {
          const what = this.#sharers.delete(token) ? 'left' : 'unqueued';
          this.#onEvent({ what, key, token });
        }
        break;
    }
  }

  #onInfo(key: string, [token = '', info = '']: readonly string[]): void {
    const access = WAITER.exec(info)?.[1];
    const sequence = this.#places.get(token);
    if (access === undefined || sequence === undefined) return;
    this.#places.delete(token);
    this.#onEvent({ what: 'queued', key, token, sequence, access });
  }
}
