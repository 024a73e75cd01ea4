import type { Access } from './access.js';
import type { AgendaEntry } from './agenda.js';
import type { ExtendOutcome } from './backend/lock-backend.js';
import type { Clock } from './clock.js';
import { type ForcedBy, LockLostError, type LostReason } from './errors.js';
import type { LockName } from './lock-name.js';

/**
 * What this process holds at the backend: one token on one key, valid until a local deadline. Several locks may stand
 * on one lease: one and those that entered it again, and after their release that of the next caller to which the lease
 * is passed. It's given back when the last of them is.
 *
 *     held ◀──renewed── jeopardy
 *      │ └──renewal overdue──▶ │
 *      │                       │
 *      ├──deadline, taken, forced, maxHold, shutdown──▶ lost (final; `signal` aborts)
 *      └──last lock released──▶ released                   (final), or passed on: held by another caller
 *
 * The deadline alone decides, never a reply: it's counted from just before the command was written, so the server
 * can't give the key away sooner, however long the reply took. Every reader looks at the clock itself, because
 * after a blocked event loop the timers are late.
 *
 * Made by `Locker` on a grant; passed on by `WaitQueue`; prolonged and ended by `Renewal`; given back by `Locker`.
 */
export class Lease implements AgendaEntry {
  readonly name: LockName;
  readonly token: string;
  readonly ttl: number;
  readonly renew: boolean;
  /** As the backend shows it. */
  readonly label: string | undefined;
  /** How it's held; a downgrade makes it `shared`. */
  access: Access;
  /** Monotonic, just before the command that was granted was written. */
  readonly heldSince: number;
  /** That of the caller who holds it now: the grant's for the first, larger by one for each next. */
  fencingToken: number;
  /** How many callers it was passed on to. */
  passes = 0;
  /** Monotonic: since when somebody of another process is known to wait; Infinity: nobody. */
  othersSince: number;
  /** How often it was passed on while somebody elsewhere was known to wait. */
  sharedPasses = 0;
  /** Monotonic, when the caller who holds it now got it. */
  grantedAt: number;
  /** Monotonic; Infinity where there's no `maxHold`. */
  holdUntil: number;
  /** Monotonic, just before the last successful command was written. */
  sentAt: number;
  /** Monotonic time up to which the key is ours. */
  deadline: number;
  /** Whether it was told to others that its holder waits: then it isn't passed on, since that would be told of the next. */
  noted = false;
  /** How many locks stand on it now. */
  locks = 0;

  // What `Renewal` keeps of it: here, so that a lease costs one object.
  /** When Renewal looks at it next. */
  dueAt = 0;
  heapIndex = -1;
  /** When a failed renewal is tried again; 0: none failed since the last success. */
  retryAt = 0;
  /** When to ask whether it's still ours, without prolonging it; Infinity: nothing has been missed. */
  lookAt = Number.POSITIVE_INFINITY;
  /** The extend that is under way. */
  extending: Extension | undefined;

  #keepUntil: number;
  #state: LeaseState = 'held';
  #lostReason: LostReason | undefined;
  #lostBy: ForcedBy | undefined;
  #controller: AbortController | undefined;
  readonly #clock: Clock;
  readonly #onLost: (lease: Lease, reason: LostReason) => void;

  constructor(grant: LeaseGrant, clock: Clock, onLost: (lease: Lease, reason: LostReason) => void) {
    this.name = grant.name;
    this.token = grant.token;
    this.fencingToken = grant.fencingToken;
    this.ttl = grant.ttl;
    this.renew = grant.hold.renew;
    this.label = grant.hold.label;
    this.access = grant.hold.access;
    this.heldSince = grant.sentAt;
    this.othersSince = grant.othersSince;
    this.grantedAt = grant.sentAt;
    this.sentAt = grant.sentAt;
    this.deadline = validUntil(grant.sentAt, grant.ttl);
    this.holdUntil = grant.sentAt + grant.hold.maxHold;
    this.#keepUntil = grant.sentAt + grant.hold.holdAtLeast;
    this.#clock = clock;
    this.#onLost = onLost;
  }

  /** The next caller has it now: what was the last one's (token, times, signal) isn't the next one's. */
  passOn({ maxHold, holdAtLeast }: HoldOptions): void {
    const now = this.#clock.now();
    this.passes += 1;
    this.fencingToken += 1;
    this.grantedAt = now;
    this.holdUntil = now + maxHold;
    this.#keepUntil = now + holdAtLeast;
    this.#controller = undefined;
  }

  /** Where the lease stands now. Passing its deadline unseen, it becomes `lost` by being looked at. */
  get state(): LeaseState {
    return this.stateAt(this.#clock.now());
  }

  /** The same for one who has just looked at the clock, and has many to ask. */
  stateAt(now: number): LeaseState {
    if (this.#state === 'held' || this.#state === 'jeopardy') {
      if (now >= this.deadline) this.lose('expired');
      else if (now >= this.holdUntil) this.lose('max-hold');
      else if (this.renew && now >= this.overdueAt) return 'jeopardy';
    }
    return this.#state;
  }

  get isHeld(): boolean {
    return this.isHeldAt(this.#clock.now());
  }

  isHeldAt(now: number): boolean {
    const state = this.stateAt(now);
    return state === 'held' || state === 'jeopardy';
  }

  /** Monotonic: not renewed by then, it's in jeopardy, whether or not a renewal has failed yet. */
  get overdueAt(): number {
    return this.sentAt + this.ttl * JEOPARDY_AFTER;
  }

  /** How long it's valid without another renewal, in ms. */
  get remaining(): number {
    return this.isHeld ? Math.min(this.deadline, this.holdUntil) - this.#clock.now() : 0;
  }

  /** How the lease was lost, where it was. */
  get lostReason(): LostReason | undefined {
    return this.state === 'lost' ? this.#lostReason : undefined;
  }

  /** Who released it by force, where somebody did. */
  get lostBy(): ForcedBy | undefined {
    return this.#lostBy;
  }

  /** Aborts with a {@link LockLostError} when the present holder loses the lease. Made when it's first read. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.state === 'lost') this.#controller.abort(this.lostError());
    }
    return this.#controller.signal;
  }

  lostError(): LockLostError {
    const reason = this.#lostReason ?? 'released';
    return new LockLostError(this.name.key, reason, this.fencingToken, this.#lostBy);
  }

  /** A renewal succeeded that was sent at `sentAt`, of which we know `now`. */
  prolong(sentAt: number, now = this.#clock.now()): void {
    // First of all: a reply that comes after the deadline doesn't bring a lost lease back.
    if (!this.isHeldAt(now)) return;
    this.sentAt = sentAt;
    this.deadline = Math.max(this.deadline, validUntil(sentAt, this.ttl));
    this.retryAt = 0;
    this.#state = 'held';
  }

  /** A renewal is overdue or failed. Whether that's news. */
  endanger(): boolean {
    if (!this.isHeld || this.#state !== 'held') return false;
    this.#state = 'jeopardy';
    return true;
  }

  lose(reason: LostReason, by?: ForcedBy): void {
    if (this.#state === 'lost' || this.#state === 'released') return;
    this.#state = 'lost';
    this.#lostReason = reason;
    this.#lostBy = by;
    // The holder first: the clean-up may give the key away.
    this.#controller?.abort(this.lostError());
    this.#onLost(this, reason);
  }

  /** How much longer the key is to stay taken (`holdAtLeast`), in ms. */
  get keepFor(): number {
    return Math.max(0, this.#keepUntil - this.#clock.now());
  }

  keepNoLonger(): void {
    this.#keepUntil = 0;
  }

  /** Ends it as given back. Whether it was still held. */
  markReleased(): boolean {
    if (!this.isHeld) return false;
    this.#state = 'released';
    return true;
  }
}

export type LeaseState = 'held' | 'jeopardy' | 'lost' | 'released';

export interface LeaseGrant {
  readonly name: LockName;
  readonly token: string;
  readonly fencingToken: number;
  readonly sentAt: number;
  /** Monotonic: since when somebody of another process is known to wait for it; Infinity: nobody. */
  readonly othersSince: number;
  readonly ttl: number;
  readonly hold: HoldOptions;
}

/** One command that prolongs leases, and what came of it for each, in order. */
export interface Extension {
  readonly leases: readonly Lease[];
  readonly outcomes: Promise<readonly ExtendOutcome[]>;
}

/** How a caller holds what it was granted. */
export interface HoldOptions {
  readonly renew: boolean;
  /** In ms; Infinity: none. */
  readonly maxHold: number;
  /** In ms; 0: none. */
  readonly holdAtLeast: number;
  readonly label?: string | undefined;
  readonly access: Access;
}

/** The part of the ttl by which a lease that's renewed should have been. */
const JEOPARDY_AFTER = 2 / 3;
/** Clocks of client and server may run this much apart: 1 %, as in the Redlock algorithm. */
const DRIFT = 0.01;
/** The server's expiry is precise to 1 ms, and our reading of it may be another off. */
const DEADLINE_MARGIN = 2;

/**
 * Up to when a lease is safely ours, given when its command was sent.
 * @see https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/ (the drift term of Redlock)
 */
export function validUntil(sentAt: number, ttl: number): number {
  return sentAt + ttl * (1 - DRIFT) - DEADLINE_MARGIN;
}
