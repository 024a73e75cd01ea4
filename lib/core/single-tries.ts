import { limitError } from './access.js';
import type { LockBackend, Unavailable } from './backend/lock-backend.js';
import type { CleanUp } from './clean-up.js';
import type { Clock } from './clock.js';
import { LockUnavailableError } from './errors.js';
import { type LeaseGrant, validUntil } from './lease.js';
import type { HeldLock } from './lock.js';
import type { LockName } from './lock-name.js';
import type { LockRequest } from './lock-request.js';
import { unavailableError } from './wait-queue.js';

/**
 * Tries that wait for nobody: one command for one key, or for several at once, whose answer is all there is to know.
 *
 *     asked ──granted in time──▶ the locks
 *       ├─ busy ──▶ nothing
 *       ├─ late, or granted too late ──▶ asked once more: the reply has set our idea of the server's clock right
 *       └─ unknown ──▶ undone behind the caller's back, and refused
 *
 * Made by `Locker` for callers that don't wait, for those that share a key, and for several keys on one server; who waits,
 * waits in a `WaitQueue`.
 */
export class SingleTries {
  #underWay = 0;

  constructor(private readonly context: SingleTryContext) {}

  /** How many are under way: until there's a lease, so that who closes meanwhile has something to wait for. */
  get size(): number {
    return this.#underWay;
  }

  /**
   * Asks for all of these keys. `undefined` where one is busy, or what `onBusy` makes of it.
   * @throws LockUnavailableError, LockConfigError
   */
  async ask(
    names: readonly LockName[],
    request: LockRequest,
    onBusy?: BusyListener,
  ): Promise<HeldLock[] | undefined> {
    const { backend, clock, commandTimeout } = this.context;
    const { options } = request;
    const name = names[0] as LockName;
    const { ttl, access, label } = options;
    // Of several that are asked for one after the other, the last has no more time than the first: the call has one bound.
    const { since, dueAt } = request;
    const notAfter = Math.min(clock.now(), onBusy === undefined ? dueAt : since) + commandTimeout;
    this.#underWay += 1;
    try {
      for (let attempt = 0; attempt < 2; attempt += 1) {
        const token = this.context.newToken();
        const undo = (refusedAfter?: number) => {
          for (const one of names) {
            this.context.cleanUp.cancel({ name: one, token, ttl }, refusedAfter);
          }
        };
        const outcome =
          names.length === 1
            ? await backend.tryAcquire({
                name,
                token,
                ttl,
                access,
                notAfter,
                label,
                place: undefined,
              })
            : await backend.tryAcquireAll({
                wanted: names.map((one) => ({ name: one, token })),
                ...{ ttl, access, notAfter, fencingToken: undefined, label },
              });
        // Of several, which one is meant.
        const { key } = 'index' in outcome ? (names[outcome.index] as LockName) : name;
        switch (outcome.kind) {
          case 'granted': {
            const { fencingToken, sentAt, othersWait } = outcome;
            if (this.context.refuses(request)) {
              // It came while we began to close: work that begins now would be cut off.
              undo();
              throw new LockUnavailableError(key, 'shutting-down');
            }
            if (clock.now() < validUntil(sentAt, ttl)) {
              const othersSince = othersWait ? sentAt : Number.POSITIVE_INFINITY;
              const grant = { token, ttl, fencingToken, sentAt, othersSince, hold: options };
              const locks = names.map((one) => this.context.newLock({ ...grant, name: one }));
              for (const lock of locks) this.context.tellAcquired(lock, request.since);
              return locks;
            }
            undo();
            break;
          }
          case 'busy':
            return onBusy?.(key, outcome.remaining);
          case 'conflict':
            throw limitError(key, access, outcome.access);
          case 'late':
            break;
          case 'unavailable':
            if (outcome.mayHaveRun) undo(notAfter);
            // Who waits, may wait until the server grants again.
            if (onBusy === undefined && isWorthWaiting(outcome, request, clock.now())) {
              return undefined;
            }
            throw unavailableError(key, outcome);
        }
      }
      throw new LockUnavailableError(name.key, 'no-answer');
    } finally {
      this.#underWay -= 1;
      this.context.settled();
    }
  }
}

function isWorthWaiting({ facts }: Unavailable, { dueAt }: LockRequest, now: number): boolean {
  return facts?.retryAfter !== undefined && now + facts.retryAfter < dueAt;
}

/** Tells that a key is busy; throws where the caller is to be refused. */
export type BusyListener = (key: string, remaining: number | undefined) => undefined;

/** What they take from the locker that they're a part of. */
export interface SingleTryContext {
  readonly backend: LockBackend;
  readonly clock: Clock;
  readonly cleanUp: CleanUp;
  readonly commandTimeout: number;
  newToken(): string;
  newLock(grant: LeaseGrant): HeldLock;
  tellAcquired(lock: HeldLock, since: number): void;
  /** Whether it's too late for a new lock. */
  refuses(request: LockRequest): boolean;
  /** One is no longer under way. */
  settled(): void;
}
