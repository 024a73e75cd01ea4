import { Backoff } from './backoff.js';
import type { AcquireOutcome, LockBackend, Unavailable } from './backend/lock-backend.js';
import type { CleanUp } from './clean-up.js';
import type { Clock, Timer } from './clock.js';
import { LockTimeoutError, LockUnavailableError } from './errors.js';
import type { LockEmitter } from './events.js';
import { type LeaseGrant, validUntil } from './lease.js';
import type { LockName } from './lock-name.js';
import type { ResolvedLockOptions } from './options.js';
import { type Caller, WaitingLine, type WaitRequest } from './waiting-line.js';

/** A waiter counts as alive for the ttl it asks for, and at least for this long: a short ttl needn't mean busy polling. */
const SHORTEST_LIFE = 1_000;
function lifeOf(ttl: number): number {
  return Math.max(ttl, SHORTEST_LIFE);
}
/** How long after the end of a lease the queue's head looks for itself, at most: the holder has crashed. */
const EXPIRY_JITTER = 10;
/** The first try of a caller may take at least this long, however short its `waitTimeout`: it has to reach the server. */
const FIRST_TRY = 50;
const FIRST_RETRY = 20;
const LONGEST_RETRY = 500;

/**
 * The callers of this process that want one key, first come, first served. Only the head stands at the backend: a
 * thousand waiters cost what one does.
 *
 *     trying ──busy──▶ asleep ──woken | lease ended | place to refresh──▶ trying
 *       ├─ granted: the head gets it, the next becomes head ───────────────▲
 *       └─ nobody waits any more: what stands at the backend is cancelled ──▶ ended
 *
 * The *stand*, one token with its place in the backend's queue, belongs to the queue and not to the head: when the
 * head gives up, the next inherits it. A grant ends the stand, and so does a command whose outcome is unknown: what
 * it may have done is cancelled, and the next stand asks for the same place.
 *
 * A wake-up may overtake the reply that says "busy"; it's remembered and ends the next sleep before it begins.
 *
 * `Locker` keeps one for each key while somebody waits, and makes the grants into leases.
 */
export class WaitQueue {
  readonly #line: WaitingLine<LeaseGrant, AcquireRequestOfCaller>;
  #stand: Stand;
  #running = false;
  /** The backend has said something: until then, nobody knows whether there's anything to wait for. */
  #answered = false;
  #woken = false;
  /** Monotonic: when to look at the key at the latest, by what a wake-up said. */
  #lookAt = Number.POSITIVE_INFINITY;
  #alarm: Alarm | undefined;

  /** `onEnd` is told when nobody waits any more: callers that come later need a new queue. */
  constructor(
    private readonly name: LockName,
    private readonly context: WaitQueueContext,
    private readonly onEnd: () => void,
  ) {
    this.#line = new WaitingLine(
      context.clock,
      (request) => this.#timedOut(request),
      () => this.#onGaveUp(),
    );
    this.#stand = newStand(context);
  }

  /** Whether somebody waits behind others here; a sole caller on its first try doesn't count. */
  get contended(): boolean {
    return this.#line.size > 1 || (this.#line.size === 1 && this.#stand.told);
  }

  /**
   * Waits for the key.
   * @throws LockTimeoutError, LockUnavailableError, or the reason of the caller's signal.
   */
  enter(request: AcquireRequestOfCaller): Promise<LeaseGrant> {
    const othersWait = this.#line.size > 0;
    const caller = this.#line.join(request);
    if (this.#running) {
      // Also where nobody waits any more: what is under way was sent for a caller that has given up.
      this.#line.watch(caller);
      if (othersWait) this.#announce(request, undefined);
    } else {
      this.#running = true;
      void this.context.outside(() => this.#run());
    }
    return caller.promise;
  }

  /** Somebody says that the key may be had: now, or by what is known in so many ms at the latest. */
  wake(within = 0): void {
    if (within === 0) {
      this.#woken = true;
      this.#alarm?.ring();
      return;
    }
    this.#lookAt = Math.min(this.#lookAt, this.context.clock.now() + within + this.#jitter());
    this.#alarm?.setFor(this.#lookAt);
  }

  /** Refuses those who wait for whom `which` says so. */
  refuse(
    which: (request: AcquireRequestOfCaller) => boolean,
    error: (request: AcquireRequestOfCaller) => unknown,
  ): void {
    this.#line.refuseWhere(which, error);
    this.#onGaveUp();
  }

  async #run(): Promise<void> {
    const backoff = new Backoff(FIRST_RETRY, LONGEST_RETRY, this.context.random);
    for (let head = this.#line.first; head !== undefined; head = this.#line.first) {
      this.#woken = false;
      this.#lookAt = Number.POSITIVE_INFINITY;
      const { ttl } = head.request.options;
      const outcome = await this.#try(head.request);
      if (outcome.kind === 'granted') {
        backoff.reset();
        this.#give(outcome, ttl);
        continue;
      }
      // From here on the head waits, not for one bounded command but for others: its deadline needs a timer.
      if (this.#line.first !== undefined) this.#line.watch(this.#line.first);
      if (outcome.kind === 'busy') {
        backoff.reset();
        await this.#waitBehind(outcome.remaining, ttl);
      } else if (outcome.kind === 'unavailable' && !this.#hasWaited(this.#line.first)) {
        // It's told at once that there's nobody to ask.
        const error = unavailableError(this.name.key, outcome);
        if (this.#line.first !== undefined) this.#line.refuse(this.#line.first, error);
      } else {
        // Late: held up on its way; its reply has set our idea of the server's clock right. Unavailable: who has waited
        // goes on waiting, up to its own deadline, since its place may still be there.
        await this.#sleep(backoff.next());
      }
    }
    const { token, left } = this.#stand;
    if (left > 0) this.context.cleanUp.cancel({ name: this.name, token, ttl: left });
    this.context.stands.delete(token);
    this.onEnd();
  }

  /** Whether a caller has waited for others, and not only for the backend's first answer. */
  #hasWaited(caller: Caller<LeaseGrant, AcquireRequestOfCaller> | undefined): boolean {
    return this.#stand.told || (this.#answered && caller?.request.announced === true);
  }

  async #try(request: AcquireRequestOfCaller): Promise<AcquireOutcome> {
    const { backend, clock, commandTimeout, stands } = this.context;
    const stand = this.#stand;
    const { ttl } = request.options;
    const now = clock.now();
    const callerDeadline = stand.told
      ? request.deadline
      : Math.max(request.deadline, now + FIRST_TRY);
    const notAfter = Math.min(now + commandTimeout, callerDeadline);
    // Whoever queues before it listens sleeps through a release in between. The first try of all doesn't wait until it
    // listens, since most keys are free: it doesn't queue.
    const queues = stand.told || backend.wakeUp.listening;
    if (queues) stands.set(stand.token, this);
    const outcome = await backend.tryAcquire({
      name: this.name,
      token: stand.token,
      ttl,
      notAfter,
      place: queues ? { aliveFor: lifeOf(ttl), sequence: stand.sequence } : undefined,
    });
    if (outcome.kind !== 'unavailable') this.#answered = true;
    switch (outcome.kind) {
      case 'granted':
        stand.unavailable = undefined;
        break;
      case 'busy':
        stand.left = queues ? lifeOf(ttl) : 0;
        stand.unavailable = undefined;
        stand.sequence = outcome.sequence ?? stand.sequence;
        break;
      case 'late':
        break;
      case 'unavailable':
        // Cut short by the caller's own deadline, it says nothing of the server.
        if (outcome.reason !== 'no-answer' || notAfter >= now + commandTimeout || !stand.told) {
          stand.unavailable = outcome;
        }
        if (outcome.mayHaveRun) {
          this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl }, notAfter);
          this.#changeStand({
            ...newStand(this.context),
            told: stand.told,
            sequence: stand.sequence,
            unavailable: stand.unavailable,
          });
        }
        break;
    }
    return outcome;
  }

  #give(grant: AcquireOutcome & { kind: 'granted' }, ttl: number): void {
    const { token } = this.#stand;
    // The caller that was tried for may have given up, or may have left the place to one that asked for another ttl.
    const head = this.#line.first;
    const usable =
      head !== undefined &&
      head.request.options.ttl === ttl &&
      this.context.clock.now() < validUntil(grant.sentAt, ttl);
    if (usable) {
      const { renew, maxHold, holdAtLeast } = head.request.options;
      const { fencingToken, sentAt } = grant;
      this.#line.serve(head, {
        name: this.name,
        token,
        fencingToken,
        sentAt,
        ttl,
        renew,
        maxHold,
        holdAtLeast,
      });
    } else {
      this.context.cleanUp.cancel({ name: this.name, token, ttl });
      if (head !== undefined) this.#line.watch(head);
    }
    // One that couldn't be used doesn't cost its place.
    const { told, sequence } = this.#stand;
    this.#changeStand({ ...newStand(this.context), ...(!usable && { told, sequence }) });
  }

  #changeStand(next: Stand): void {
    this.context.stands.delete(this.#stand.token);
    this.#stand = next;
  }

  async #waitBehind(remaining: number | undefined, ttl: number): Promise<void> {
    const { wakeUp } = this.context.backend;
    const head = this.#line.first;
    if (head !== undefined) this.#announce(head.request, remaining);
    if (!this.#stand.told) {
      this.#stand.told = true;
      if (this.#stand.left === 0) {
        // Not queued yet. Listen, then queue, which looks at the key once more.
        await wakeUp.subscribe();
        return;
      }
    }
    // What has no end is only seen to be gone by looking.
    const leaseEnds =
      remaining === undefined ? Number.POSITIVE_INFINITY : remaining + this.#jitter();
    const refresh = lifeOf(ttl) / 2;
    const poll = wakeUp.listening
      ? Number.POSITIVE_INFINITY
      : LONGEST_RETRY * (0.5 + this.context.random() / 2);
    const woken = await this.#sleep(Math.min(leaseEnds, refresh, poll));
    if (!woken) wakeUp.check();
  }

  /** Whether somebody ended it. */
  #sleep(delay: number): Promise<boolean> {
    if (this.#woken || this.#line.size === 0) return Promise.resolve(true);
    const { clock } = this.context;
    return new Promise((resolve) => {
      let at = Number.POSITIVE_INFINITY;
      let timer: Timer | undefined;
      const ring = () => {
        timer?.cancel();
        this.#alarm = undefined;
        resolve(this.#woken || this.#line.size === 0);
      };
      const setFor = (time: number) => {
        if (time >= at) return;
        timer?.cancel();
        at = time;
        timer = clock.after(at - clock.now(), ring);
      };
      setFor(Math.min(clock.now() + delay, this.#lookAt));
      this.#alarm = { ring, setFor };
    });
  }

  /** A moment after the server's expiry, and not the same for all who wait for it. */
  #jitter(): number {
    return 1 + this.context.random() * EXPIRY_JITTER;
  }

  #onGaveUp(): void {
    if (this.#line.size === 0) this.#alarm?.ring();
  }

  #announce(request: AcquireRequestOfCaller, remaining: number | undefined): void {
    if (request.announced) return;
    request.announced = true;
    this.context.events.emit('waiting', () => ({ key: this.name.key, remaining }));
  }

  #timedOut(request: AcquireRequestOfCaller): unknown {
    const { unavailable } = this.#stand;
    if (unavailable !== undefined) return unavailableError(this.name.key, unavailable);
    if (!this.#answered) return new LockUnavailableError(this.name.key, 'no-answer');
    const waited = this.context.clock.now() - request.since;
    this.context.events.emit('timedOut', () => ({ key: this.name.key, waited }));
    return new LockTimeoutError(this.name.key, waited, request.heldKeys);
  }
}

/** What all wait queues of a locker share. */
export interface WaitQueueContext {
  readonly backend: LockBackend;
  readonly clock: Clock;
  readonly random: () => number;
  readonly events: LockEmitter;
  readonly cleanUp: CleanUp;
  readonly commandTimeout: number;
  /** Which queue a wake-up for a token is meant for. */
  readonly stands: Map<string, WaitQueue>;
  newToken(): string;
  /** Runs what isn't below the call that starts it. */
  outside<T>(work: () => T): T;
}

/** One who waits, and what for. */
export interface AcquireRequestOfCaller extends WaitRequest {
  readonly key: string;
  readonly options: ResolvedLockOptions;
  /** Monotonic time of the call. */
  readonly since: number;
  /** The keys that the call chain holds meanwhile. */
  readonly heldKeys: readonly string[];
  /** Whether it was said that it waits. */
  announced: boolean;
}

/** The end of a sleep: sooner by `ring` or `setFor`, never later. */
interface Alarm {
  ring(): void;
  setFor(time: number): void;
}

interface Stand {
  readonly token: string;
  /** The place that the backend gave it. */
  sequence: number | undefined;
  /** The backend has said "busy": whoever stands here has begun to wait. */
  told: boolean;
  /** For how long, in ms, the token may be left in the backend's queue. */
  left: number;
  /** The last answer was none. */
  unavailable: Unavailable | undefined;
}

function newStand(context: WaitQueueContext): Stand {
  return {
    token: context.newToken(),
    sequence: undefined,
    told: false,
    left: 0,
    unavailable: undefined,
  };
}

/** The error for a backend that can't be asked. */
export function unavailableError(
  key: string,
  { reason, cause }: Unavailable,
): LockUnavailableError {
  return new LockUnavailableError(key, reason, cause);
}
