import { checkReentry } from './access.js';
import type { LockBackend } from './backend/lock-backend.js';
import type { Clock } from './clock.js';
import { LockUnavailableError } from './errors.js';
import { JointLock } from './joint-lock.js';
import type { HeldLock, Lock } from './lock.js';
import type { LockName } from './lock-name.js';
import { LockRequest } from './lock-request.js';
import type { OnBusy, ResolvedLockOptions } from './options.js';
import type { SingleTries } from './single-tries.js';
import { unavailableError } from './wait-queue.js';

/**
 * Takes several keys as one lock: all or none of them, within one wait budget.
 *
 *     held by the call already ──entered again──▶ the others
 *     the others ──all on one server, and nobody here waits for one──▶ one command ──granted──▶ all taken
 *        └────────────────────────────────────────────────┐               └─busy─┐
 *                                                         ▼                      ▼
 *                     one after the other, in one order everywhere ──▶ one fencing token for all ──▶ all taken
 *
 * Whatever ends it on the way, what was taken is given back: nobody but this knows of it yet.
 *
 * Part of `Locker`, which takes each single key.
 */
export class JointAcquire {
  constructor(private readonly context: JointAcquireContext) {}

  /** The joint lock, or `undefined` where a key is busy and the caller skips. */
  async take(
    names: readonly LockName[],
    { within, onBusy, options, since, holding }: JointRequest,
  ): Promise<JointLock | undefined> {
    const parts: HeldLock[] = [];
    const requestFor = ({ key }: LockName) =>
      new LockRequest(key, options, since, holding, [...parts]);
    try {
      const others: LockName[] = [];
      for (const name of names) {
        const outer = this.context.outer(name, within, names);
        if (outer === undefined) {
          others.push(name);
          continue;
        }
        checkReentry(name.key, outer.lease.access, options.access);
        const request = requestFor(name);
        const lock = await this.context.enterAgain(name, within, request, onBusy, names);
        if (lock === undefined) return giveBack(parts);
        parts.push(lock);
      }
      const taken = await this.#takeOthers(others, requestFor, onBusy, parts);
      if (!taken) return giveBack(parts);
      return new JointLock(parts);
    } catch (error) {
      giveBack(parts);
      throw error;
    }
  }

  /** Adds the locks to `parts` as they're taken, so that none is forgotten. Whether all were. */
  async #takeOthers(
    names: readonly LockName[],
    requestFor: (name: LockName) => LockRequest,
    onBusy: OnBusy,
    parts: HeldLock[],
  ): Promise<boolean> {
    const [first] = names;
    if (first === undefined) return true;
    if (names.length > 1 && this.context.backend.joinsKeys) {
      const request = requestFor(first);
      if (this.context.refuses(request)) {
        throw new LockUnavailableError(first.key, 'shutting-down');
      }
      const contended = names.find((name) => this.context.isContended(name));
      if (contended === undefined) {
        const busy =
          onBusy === 'wait'
            ? undefined
            : (key: string, remaining: number | undefined) =>
                this.context.busy(key, remaining, onBusy);
        const locks = await this.context.tries.ask(names, request, busy);
        if (locks !== undefined) {
          parts.push(...locks);
          request.signal?.throwIfAborted();
          return true;
        }
        if (onBusy !== 'wait') return false;
      } else if (onBusy !== 'wait') {
        this.context.busy(contended.key, undefined, onBusy);
        return false;
      }
    }
    // In one order everywhere, so that two who want the same keys don't wait for each other.
    const taken: HeldLock[] = [];
    for (const name of names) {
      const lock = await this.context.takeAnew(name, requestFor(name), onBusy);
      if (lock === undefined) return false;
      parts.push(lock);
      taken.push(lock);
    }
    const { since, dueAt } = requestFor(first);
    if (taken.length > 1) await this.#alignFences(taken, onBusy === 'wait' ? dueAt : since);
    requestFor(first).signal?.throwIfAborted();
    return true;
  }

  /**
   * Gives locks that were taken one after the other one fencing token, the largest of theirs. `endsAt`: when the call's
   * waiting ends, which leaves it one command.
   */
  async #alignFences(locks: readonly HeldLock[], endsAt: number): Promise<void> {
    const { backend, clock, commandTimeout } = this.context;
    const fencingToken = Math.max(...locks.map((lock) => lock.fencingToken));
    const notAfter = Math.min(clock.now(), endsAt) + commandTimeout;
    const groups = backend.joinsKeys ? [locks] : locks.map((lock) => [lock]);
    await Promise.all(
      groups.map(async (group) => {
        const { ttl, access, name, label } = (group[0] as HeldLock).lease;
        const wanted = group.map(({ lease }) => lease);
        const asked = { wanted, ttl, access, notAfter, fencingToken, label };
        const outcome = await backend.tryAcquireAll(asked);
        switch (outcome.kind) {
          case 'granted':
            for (const lock of group) {
              lock.lease.prolong(outcome.sentAt);
              lock.raiseFence(fencingToken);
            }
            break;
          case 'unavailable':
            throw unavailableError(name.key, outcome);
          case 'late':
            throw new LockUnavailableError(name.key, 'no-answer');
          case 'busy':
          case 'conflict':
            // Lost already, while the others were waited for.
            group[outcome.index]?.lease.lose('taken');
            throw new LockUnavailableError(
              name.key,
              'no-answer',
              group[outcome.index]?.lostError(),
            );
        }
      }),
    );
  }
}

/** One call for several keys. */
export interface JointRequest {
  /** The lock that it says it's made under. */
  readonly within: Lock | undefined;
  readonly onBusy: OnBusy;
  readonly options: ResolvedLockOptions;
  /** Monotonic time of the call. */
  readonly since: number;
  /** What the call holds. */
  readonly holding: readonly HeldLock[];
}

/** What it takes from the locker that it's a part of. */
export interface JointAcquireContext {
  readonly backend: LockBackend;
  readonly clock: Clock;
  readonly commandTimeout: number;
  readonly tries: SingleTries;
  /** Whether callers of this process wait for the key. */
  isContended(name: LockName): boolean;
  /** Whether it's too late for a new lock. */
  refuses(request: LockRequest): boolean;
  /** Tells that a key is busy; throws where the caller is to be refused. */
  busy(key: string, remaining: number | undefined, onBusy: OnBusy): undefined;
  /** The lock on one of the wanted keys that this call may enter again. */
  outer(name: LockName, within: Lock | undefined, all: readonly LockName[]): HeldLock | undefined;
  enterAgain(
    name: LockName,
    within: Lock | undefined,
    request: LockRequest,
    onBusy: OnBusy,
    all: readonly LockName[],
  ): Promise<HeldLock | undefined>;
  takeAnew(name: LockName, request: LockRequest, onBusy: OnBusy): Promise<HeldLock | undefined>;
}

/**
 * Gives back what was taken of several keys, where not all could be. The commands leave now; nobody waits for their answers,
 * which would hold up a call whose time may be over already.
 */
function giveBack(parts: readonly HeldLock[]): undefined {
  for (const part of parts) void part.giveBack();
}
