import type { Unavailable } from '../backend/unavailable.js';
import type { Clock } from '../clock.js';
import type { GuardReason, LockEmitter } from '../events.js';
import { givenPrefix } from '../lock-name.js';
import { HASH_SLOTS, hashSlotOf, tagOfSlot } from './hash-slot.js';
import { Script } from './script.js';
import type { Replied, ScriptRunner } from './script-runner.js';
import {
  acquireAllGuardedScript,
  acquireGuardedScript,
  checkGuardScript,
  initGuardScript,
  shareGuardedScript,
} from './scripts.generated.js';

type GuardKey = readonly [record: string];

const CHECK = new Script<
  GuardKey,
  readonly [longest: number, lag: number, seen: number],
  [nowMicros: string, record: string, remaining: number, why: GuardReason | '-']
>(checkGuardScript);
const INIT = new Script<GuardKey, readonly [longest: number, lag: number], 0 | 1>(initGuardScript);

type AnyScript = Script<readonly string[], readonly (string | number)[], unknown>;

/** The scripts that grant, behind the guard: each takes the same as its own, and gives the same or a refusal. */
const GUARDED: Readonly<Record<string, AnyScript>> = {
  acquire: new Script(acquireGuardedScript),
  'acquire-all': new Script(acquireAllGuardedScript),
  share: new Script(shareGuardedScript),
};

/**
 * Closes the double grant after lost data: a server that may have forgotten leases grants nothing new until every one of
 * them must have ended. It knows itself by its `run_id`, and once it was promoted by what it was promoted from, which its
 * guard's record holds, among its own data:
 *
 *     record of this run_id: open ◀──time passed── moratorium ◀──no record (first use, FLUSHALL, a restart without data)
 *                             │                     ▲     ▲
 *                             └── another run_id (restarted, promoted), or an epoch below one that was seen (an old master
 *                                 is back with old data)
 *
 * A moratorium lasts for the longest lease that anybody takes, and for as long as an old master may go on granting. What
 * prolongs and gives back isn't asked; and who holds a key is granted it again. Who waits for one stands in line meanwhile.
 *
 * A script that grants is told which open record we know, and compares: one GET. Whether the server is still the one that we
 * have it from, the connection says, as long as it's the same one: it ends with the server's process. Over other
 * connections (a Cluster's client has many, a proxy for Redis' protocol others behind it) the script asks the server
 * itself, by INFO. Whatever differs is looked into by `check-guard.lua`.
 *
 * There's one record for each prefix on a server, and on a Cluster one for each slot, which moves with it. The locks of runs
 * have none of their own: a record that is made for one run would keep each from beginning.
 *
 * @see https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/ (delayed restarts, of which this is one)
 */
export class ServerGuard implements ScriptRunner {
  readonly #known = new Map<string, KnownRecord>();
  /** The checks under way: one is enough for all who ask meanwhile. */
  readonly #checks = new Map<string, Promise<Unavailable | undefined>>();
  /** Up to when, in monotonic time, which run of a server was told to grant nothing. */
  readonly #told = new Map<string, number>();

  constructor(
    private readonly runner: ScriptRunner,
    private readonly options: GuardSettings,
    private readonly clock: Clock,
    private readonly events: LockEmitter,
  ) {}

  async run<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable> {
    const guarded = GUARDED[script.name];
    if (guarded === undefined) return this.runner.run(script, keys, args, deadline);
    const guardKey = this.#keyFor(keys[0] as string);
    const guardedKeys = [...keys, guardKey];
    // Its place in the queue, also where a later attempt comes to nothing.
    let queued: { sequence: number } | undefined;
    // More than once, because the first may find that our knowledge is old.
    for (let attempt = 1; ; attempt += 1) {
      const known = this.#known.get(guardKey);
      const link = this.options.link();
      const asks = link === undefined ? '1' : '0';
      // What was seen over another connection doesn't count: it's looked into again.
      const record = known?.link === link ? (known?.record ?? '') : '';
      const guardedArgs = [...args, asks, record];
      const outcome = await this.runner.run(guarded, guardedKeys, guardedArgs, deadline);
      if (outcome.kind === 'unavailable') return { ...outcome, ...queued };
      if (!isRefusal(outcome.reply)) return outcome as Replied<R>;
      const refusal =
        (await this.#checked(guardKey, deadline)) ??
        (attempt < ATTEMPTS
          ? undefined
          : unavailable(new Error('The record of the guard changes all the time.')));
      const [, , sequence] = outcome.reply;
      if (sequence > 0) queued = { sequence };
      if (refusal !== undefined) return { ...refusal, ...queued };
    }
  }

  /** Makes the records of a prefix where there's none. How many were made, and how many there are to be. */
  async initialize(
    prefix: string,
  ): Promise<{ readonly kind: 'made'; readonly made: number; readonly of: number } | Unavailable> {
    const { longestTtl, lag } = this.options;
    const keys = this.#keysOf(prefix);
    let made = 0;
    for (let start = 0; start < keys.length; start += RECORDS_AT_ONCE) {
      const outcomes = await Promise.all(
        keys
          .slice(start, start + RECORDS_AT_ONCE)
          .map((key) => this.runner.run(INIT, [key], [longestTtl, lag])),
      );
      for (const outcome of outcomes) {
        if (outcome.kind === 'unavailable') return outcome;
        const failure = await outcome.confirmed;
        if (failure !== undefined) return failure;
        made += outcome.reply;
      }
    }
    return { kind: 'made', made, of: keys.length };
  }

  /** Looks into the record. Why nothing is granted, or nothing where all is well. */
  #checked(guardKey: string, deadline: number | undefined): Promise<Unavailable | undefined> {
    let check = this.#checks.get(guardKey);
    if (check === undefined) {
      check = this.#check(guardKey, deadline).finally(() => this.#checks.delete(guardKey));
      this.#checks.set(guardKey, check);
    }
    return check;
  }

  async #check(guardKey: string, deadline: number | undefined): Promise<Unavailable | undefined> {
    const { longestTtl, lag, link } = this.options;
    const before = this.#known.get(guardKey);
    const asked = link();
    const outcome = await this.runner.run(
      CHECK,
      [guardKey],
      [Math.max(longestTtl, before?.longest ?? 0), lag, before?.epoch ?? 0],
      deadline,
    );
    // Nothing was taken, whatever became of the question.
    if (outcome.kind === 'unavailable') {
      return outcome.reason === 'refused'
        ? unavailable(outcome.cause)
        : { ...outcome, mayHaveRun: false };
    }
    const [, record, remaining, why] = outcome.reply;
    const [runId = '', epoch, longest] = record.split(' ');
    const isOpen = remaining === 0 && why === '-';
    this.#known.set(guardKey, {
      record: isOpen ? record : '',
      epoch: Math.max(before?.epoch ?? 0, Number(epoch)),
      longest: Number(longest),
      // Another connection since: it may lead to another server.
      link: asked === link() ? asked : undefined,
    });
    if (isOpen) return undefined;
    this.#tell(runId, remaining, why as GuardReason);
    return unavailable(undefined, remaining);
  }

  #tell(runId: string, remaining: number, why: GuardReason): void {
    const now = this.clock.now();
    const isKnown = (this.#told.get(runId) ?? 0) > now;
    if (isKnown) return;
    for (const [other, until] of this.#told) if (until <= now) this.#told.delete(other);
    this.#told.set(runId, now + remaining);
    this.events.emit('guarded', () => ({ remaining, why }));
  }

  /** The record's key for what is under an owner key. */
  #keyFor(owner: string): string {
    const { keyPrefix, isCluster } = this.options;
    const prefix = givenPrefix(owner.slice(0, owner.indexOf(':{', keyPrefix.length)));
    return isCluster ? `${prefix}:{${tagOfSlot(hashSlotOf(owner))}}:guard` : `${prefix}:guard`;
  }

  /** All of a prefix. */
  #keysOf(prefix: string): readonly string[] {
    const { keyPrefix, isCluster } = this.options;
    if (!isCluster) return [`${keyPrefix}${prefix}:guard`];
    return Array.from(
      { length: HASH_SLOTS },
      (_, slot) => `${keyPrefix}${prefix}:{${tagOfSlot(slot)}}:guard`,
    );
  }
}

export interface GuardSettings {
  /** In ms. */
  readonly longestTtl: number;
  /** In ms. */
  readonly lag: number;
  readonly keyPrefix: string;
  readonly isCluster: boolean;
  /**
   * What tells one connection from the next, where a reply and the next command that's written surely meet the same server if
   * it's equal; `undefined`: nobody knows.
   */
  readonly link: () => number | undefined;
}

interface KnownRecord {
  /** As it was when it was open; empty: it wasn't. */
  readonly record: string;
  /** The highest that was seen. */
  readonly epoch: number;
  /** The longest lease of all who have asked there, in ms: a server that has lost the record can't know of it. */
  readonly longest: number;
  /** Over which connection it was seen. */
  readonly link: number | undefined;
}

/** How many records are made together: enough to keep the server busy. */
const RECORDS_AT_ONCE = 500;

/** It changes when a server loses it, or when one comes who takes longer leases: seldom, but perhaps for several at once. */
const ATTEMPTS = 5;

function isRefusal(reply: unknown): reply is [nowMicros: string, 'guard', sequence: number] {
  return Array.isArray(reply) && reply[1] === 'guard';
}

function unavailable(cause: unknown, retryAfter?: number): Unavailable {
  return { kind: 'unavailable', reason: 'guard', cause, mayHaveRun: false, facts: { retryAfter } };
}
