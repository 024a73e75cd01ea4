import { type Access, limitError } from './access.js';
import { Backoff } from './backoff.js';
import {
  type AcquireOutcome,
  FENCE_RANGE,
  type Granted,
  type LockBackend,
  type Unavailable,
} from './backend/lock-backend.js';
import type { CleanUp } from './clean-up.js';
import type { Clock, Timer } from './clock.js';
import { LockDeadlockError, LockTimeoutError, LockUnavailableError } from './errors.js';
import type { LockEmitter } from './events.js';
import { type Lease, type LeaseGrant, validUntil } from './lease.js';
import type { HeldLock } from './lock.js';
import type { LockName } from './lock-name.js';
import type { LockRequest } from './lock-request.js';
import type { ResolvedBackoff, ResolvedLockOptions } from './options.js';
import type { WaitGraph } from './wait-graph.js';
import { type Deadlines, type LineOwner, WaitingLine } from './waiting-line.js';

/** A waiter counts as alive for the ttl it asks for, and at least for this long: a short ttl needn't mean busy polling. */
const SHORTEST_LIFE = 1_000;
function lifeOf(ttl: number): number {
  return Math.max(ttl, SHORTEST_LIFE);
}
/** How long after the end of a lease the queue's head looks for itself, at most: the holder has crashed. */
const EXPIRY_JITTER = 10;
/** The first try of a caller may take at least this long, however short its `waitTimeout`: it has to reach the server. */
const FIRST_TRY = 50;
/**
 * For how long, in ms, a lease is passed on while nobody else is known to wait, before the backend is asked: whoever came
 * meanwhile has told us, if the message wasn't lost.
 */
const ALONE_BUDGET = 20;
/** How often and for how long, in ms, a lease is passed on while somebody elsewhere is known to wait. */
const SHARED_PASSES = 16;
const SHARED_BUDGET = 5;

/**
 * The callers of this process that want one key, first come, first served. Only the head stands at the backend: a
 * thousand waiters cost what one does.
 *
 *     trying ──busy | guarded──▶ asleep ──woken | lease or moratorium ended | place to refresh──▶ trying
 *       ├─ granted: the head gets it, the next becomes head ──────────────────────────────────────────▲
 *       └─ nobody waits any more: what stands at the backend is cancelled ──▶ ended
 *
 * The *stand*, one token with its place in the backend's queue, belongs to the queue and not to the head: when the
 * head gives up, the next inherits it. A grant ends the stand, and so does a command whose outcome is unknown: what
 * it may have done is cancelled, and the next stand asks for the same place.
 *
 * A wake-up may overtake the reply that says "busy"; it's remembered and ends the next sleep before it begins.
 *
 * While this process holds the key, callers to whom its lease could be passed wait without the backend:
 *
 *     lease held ──released, and the head may have it next──▶ passed on: the head holds it, under its next fencing token
 *          └────── released, lost, or other processes' turn──▶ trying
 *
 * Whose turn it is: a head that came before anybody elsewhere began to wait is ahead of them; then a few more callers get
 * it, because to pass it on is so much cheaper. Then it's released, which hands it on, and the head queues behind the
 * others: both commands leave together, in this order.
 *
 * `Locker` keeps one for each key while somebody waits for it here, or is about to know whether he must.
 */
export class WaitQueue implements LineOwner<LockRequest> {
  readonly #line: WaitingLine<LockRequest, HeldLock>;
  #stand: Stand | undefined;
  #running = false;
  /** Asked to be told of the name. */
  #listens = false;
  /** Monotonic: when we were told last, before we held the key, that somebody of another process waits for it. */
  #othersToldAt = 0;
  /** The backend has said something: until then, nobody knows whether there's anything to wait for. */
  #answered = false;
  #woken = false;
  /** Monotonic: when to look at the key at the latest, by what a wake-up said. */
  #lookAt = Number.POSITIVE_INFINITY;
  #alarm: Alarm | undefined;

  constructor(
    readonly name: LockName,
    private readonly context: WaitQueueContext,
  ) {
    this.#line = new WaitingLine(context.deadlines, this);
  }

  /** What this process holds of the key. */
  get #lease(): Lease | undefined {
    return this.context.leases.get(this.name.owner);
  }

  /** Whether somebody waits behind others here; a sole caller on its first try doesn't count. */
  get contended(): boolean {
    return this.#line.size > 1 || (this.#line.size === 1 && this.#stand?.told === true);
  }

  /** How the first wants the key who waits without the backend's knowing. */
  get waitsHere(): Access | undefined {
    return this.#running ? undefined : this.#line.first?.options.access;
  }

  /**
   * Waits for the key.
   * @throws LockTimeoutError, LockUnavailableError, or the reason of the caller's signal.
   */
  enter(request: LockRequest): Promise<HeldLock> {
    const othersWait = this.#line.size > 0;
    request.stoodBehind = othersWait;
    this.#line.join(request);
    if (request.line === undefined) {
      // Its signal aborted since it was looked at: to ask which locks the caller holds, may end one.
      this.#onLeft();
      return request.promise;
    }
    if (this.#running) {
      // Also where nobody waits any more: what is under way was sent for a caller that has given up.
      this.#line.watch(request);
      if (othersWait) this.#announce(request, undefined);
      return request.promise;
    }
    const lease = this.#lease;
    if (lease === undefined) {
      this.#start();
    } else {
      this.#answered = true;
      this.#line.watch(request);
      const remaining = lease.deadline - this.context.clock.now();
      this.#announce(request, Math.max(0, remaining));
      // Its timer is late. To look at its state ends it, which isn't this call's doing.
      if (remaining <= 0) this.context.outside(() => lease.state);
      this.#listen();
      this.#standIfNeeded();
    }
    return request.promise;
  }

  /** Whether the lease, of which the last lock was just released, is the next caller's now. */
  passOn(lease: Lease): boolean {
    const head = this.#line.first;
    if (head === undefined || !this.#mayHave(lease, head)) return false;
    if (lease.othersSince < Number.POSITIVE_INFINITY) lease.sharedPasses += 1;
    const { fencingToken, grantedAt } = lease;
    const lock = this.context.handOver(lease, head);
    // Told when it's done: a listener may abort the head's signal, and nobody would have the lock then.
    this.#line.serve(head, lock);
    this.#onLeft();
    const { key } = this.name;
    this.context.tellReleased(key, fencingToken, grantedAt);
    this.context.events.emit('handedOver', () => ({
      key,
      from: fencingToken,
      fencingToken: lock.fencingToken,
      waited: this.context.clock.now() - head.since,
    }));
    this.context.tellAcquired(lock, head.since);
    return true;
  }

  /** This process no longer holds the key. After a release has been sent: who tries next, must come behind it. */
  leaseEnded(): void {
    if (this.#running) this.wake();
    else this.#start();
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

  /** Somebody elsewhere has begun to wait for the key, which is granted to us and we don't know it yet. */
  othersWait(): void {
    this.#othersToldAt = this.context.clock.now();
  }

  /** Refuses those who wait for whom `which` says so. */
  refuse(which: (request: LockRequest) => boolean, error: (request: LockRequest) => unknown): void {
    this.#line.refuseWhere(which, error);
    this.#onLeft();
  }

  /** Whether a caller could ever be passed the lease. */
  #fits(lease: Lease, { options }: LockRequest): boolean {
    return (
      this.context.localHandover &&
      lease.renew &&
      options.renew &&
      lease.ttl === options.ttl &&
      // It's shown as what the backend was told.
      lease.label === options.label &&
      // Who shares a key asks for a place of its own.
      lease.access === 'exclusive' &&
      options.access === 'exclusive'
    );
  }

  /** Whether it's the caller's turn, now that the lease could be passed on. */
  #mayHave(lease: Lease, head: LockRequest): boolean {
    // `held` is more than a third of the ttl to spare: in jeopardy, it's better to ask for a new one.
    if (!this.#fits(lease, head) || lease.state !== 'held' || lease.keepFor > 0) return false;
    if (lease.passes >= FENCE_RANGE - 1 || lease.noted) return false;
    const now = this.context.clock.now();
    const others = lease.othersSince;
    if (others === Number.POSITIVE_INFINITY) return now - lease.heldSince < ALONE_BUDGET;
    // It came before them: had it stood at the backend, it would be the first there.
    if (lease.sharedPasses === 0 && others > lease.heldSince && head.since < others) return true;
    return lease.sharedPasses < SHARED_PASSES && now - others < SHARED_BUDGET;
  }

  /** A head to whom the lease can't be passed stands at the backend like anyone. */
  #standIfNeeded(): void {
    const [head, lease] = [this.#line.first, this.#lease];
    if (head === undefined || lease === undefined || this.#running) return;
    if (!this.#fits(lease, head)) this.#start();
  }

  #start(): void {
    const head = this.#line.first;
    if (head === undefined) return;
    const { options } = head;
    this.#running = true;
    void this.#try(head).then((outcome) => {
      // Most keys are free: what most calls need, without the loop.
      if (outcome.kind === 'granted') {
        this.#give(outcome, options);
        if (this.#isServedHere) {
          this.#end();
          return;
        }
      }
      // Not below the call that happened to come first: what it causes for others isn't that call's.
      void this.context.outside(() => this.#run(outcome, options));
    });
  }

  /** Whether who waits, if anybody, can be passed what this process holds, and needs no place at the backend. */
  get #isServedHere(): boolean {
    const [next, lease] = [this.#line.first, this.#lease];
    return lease !== undefined && (next === undefined || this.#fits(lease, next));
  }

  /** Goes on after the first try, until nobody needs the backend any more. */
  async #run(first: AcquireOutcome, firstOptions: ResolvedLockOptions): Promise<void> {
    const { first: shortest, longest } = this.context.backoff;
    const backoff = new Backoff(shortest, longest, this.context.random);
    // A grant was given already.
    let outcome: AcquireOutcome | undefined = first.kind === 'granted' ? undefined : first;
    let options = firstOptions;
    for (let head = this.#line.first; head !== undefined; head = this.#line.first) {
      if (outcome === undefined) {
        options = head.options;
        outcome = await this.#try(head);
      }
      if (outcome.kind === 'granted') {
        backoff.reset();
        this.#give(outcome, options);
        if (this.#isServedHere) break;
        outcome = undefined;
        continue;
      }
      // From here on the head waits, not for one bounded command but for others: its deadline needs a timer.
      if (this.#line.first !== undefined) this.#line.watch(this.#line.first);
      if (outcome.kind === 'busy') {
        await this.#waitBehind(outcome.remaining, options.ttl, backoff);
      } else if (outcome.kind === 'conflict') {
        // Who has taken its place since may ask for something else.
        if (this.#line.first?.options.access === options.access) {
          this.#line.refuse(
            this.#line.first,
            limitError(this.name.key, options.access, outcome.access),
          );
        }
      } else if (outcome.kind === 'unavailable' && outcome.facts?.retryAfter !== undefined) {
        await this.#waitForGuard(outcome, outcome.facts.retryAfter, options.ttl, backoff);
      } else if (outcome.kind === 'unavailable' && !this.#hasWaited(this.#line.first)) {
        // It's told at once that there's nobody to ask.
        const error = unavailableError(this.name.key, outcome);
        if (this.#line.first !== undefined) this.#line.refuse(this.#line.first, error);
      } else {
        // Late: held up on its way; its reply has set our idea of the server's clock right. Unavailable: who has waited
        // goes on waiting, up to its own deadline, since its place may still be there.
        await this.#sleep(backoff.next());
      }
      outcome = undefined;
    }
    this.#end();
  }

  /** Whether a caller has waited for others, and not only for the backend's first answer. */
  #hasWaited(caller: LockRequest | undefined): boolean {
    return this.#stand?.told === true || (this.#answered && caller?.announced === true);
  }

  async #try(head: LockRequest): Promise<AcquireOutcome> {
    const {
      dueAt,
      options: { ttl, access, label },
    } = head;
    const { backend, clock, commandTimeout, stands } = this.context;
    const now = clock.now();
    this.#woken = false;
    this.#lookAt = Number.POSITIVE_INFINITY;
    this.#stand ??= newStand(this.context.newToken(), access);
    if (this.#stand.access !== access) {
      // What was reserved for it, or is about to be, is of no use to the one who inherits its place.
      const { told, sequence } = this.#stand;
      this.context.cleanUp.cancel({ name: this.name, token: this.#stand.token, ttl });
      this.#changeStand({ ...newStand(this.context.newToken(), access), told, sequence });
    }
    const stand = this.#stand;
    const callerDeadline = stand.told ? dueAt : Math.max(dueAt, now + FIRST_TRY);
    // Also where it comes to this key only now: of several, each would else take so much longer than the call may.
    const notAfter = Math.min(Math.min(now, dueAt) + commandTimeout, callerDeadline);
    // Whoever queues before it listens sleeps through a release in between. The first try of all doesn't wait until it
    // listens, since most keys are free: it doesn't queue.
    const queues = stand.told || backend.wakeUp.listensTo(this.name);
    if (queues) stands.set(stand.token, this);
    const outcome = await backend.tryAcquire({
      name: this.name,
      token: stand.token,
      ttl,
      access,
      notAfter,
      place: queues ? { aliveFor: lifeOf(ttl), sequence: stand.sequence } : undefined,
      label,
      waitsSince: head.stoodBehind && access !== 'exclusive' ? head.since : undefined,
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
        if (outcome.spent === true) this.#renewStand(stand);
        break;
      case 'late':
        // Of several servers, some may have heard it in time, and have queued it.
        if (queues) stand.left = lifeOf(ttl);
        if (outcome.spent === true) this.#renewStand(stand);
        break;
      case 'conflict':
        // A guard may have queued it just before.
        if (queues) stand.left = lifeOf(ttl);
        break;
      case 'unavailable':
        // Cut short by the caller's own deadline, it says nothing of the server.
        if (outcome.reason !== 'no-answer' || notAfter >= now + commandTimeout || !stand.told) {
          stand.unavailable = outcome;
        }
        if (outcome.sequence !== undefined) {
          stand.left = lifeOf(ttl);
          stand.sequence = outcome.sequence;
        }
        if (outcome.mayHaveRun) {
          this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl }, notAfter);
          this.#renewStand(stand);
        }
        break;
    }
    return outcome;
  }

  #give(grant: Granted, { ttl, access, label }: ResolvedLockOptions): void {
    // There's one wherever something was tried.
    const stand = this.#stand as Stand;
    // The caller that was tried for may have given up, or may have left the place to one that asked for another ttl or label.
    const head = this.#line.first;
    const usable =
      head !== undefined &&
      head.options.ttl === ttl &&
      head.options.access === access &&
      head.options.label === label &&
      this.context.clock.now() < validUntil(grant.sentAt, ttl);
    if (usable) {
      this.#changeStand(undefined);
      const { fencingToken, sentAt, othersWait } = grant;
      const { name } = this;
      const { token } = stand;
      // Who began to wait while the grant was on its way has told us meanwhile.
      const told = this.#othersToldAt >= sentAt ? this.#othersToldAt : Number.POSITIVE_INFINITY;
      const othersSince = othersWait ? sentAt : told;
      const granted = { name, token, fencingToken, sentAt, othersSince, ttl, hold: head.options };
      const lock = this.context.newLock(granted);
      this.#line.serve(head, lock);
      this.context.tellAcquired(lock, head.since);
    } else {
      this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl });
      if (head !== undefined) this.#line.watch(head);
      // One that couldn't be used doesn't cost its place.
      const { told, sequence } = stand;
      this.#changeStand({ ...newStand(this.context.newToken(), access), told, sequence });
    }
  }

  /** Its token isn't used again; what it may have left is being undone. */
  #renewStand(stand: Stand): void {
    this.#changeStand({ ...stand, token: this.context.newToken(), left: 0 });
  }

  #changeStand(next: Stand | undefined): void {
    if (this.#stand !== undefined) this.context.stands.delete(this.#stand.token);
    this.#stand = next;
  }

  async #waitBehind(remaining: number | undefined, ttl: number, backoff: Backoff): Promise<void> {
    const { wakeUp } = this.context.backend;
    const head = this.#line.first;
    if (head !== undefined) this.#announce(head, remaining);
    if (!this.#beginToWait(this.#stand as Stand)) {
      // Queuing looks at the key once more; and look again before, where it's long until we listen.
      await this.#sleep(backoff.next());
      return;
    }
    // What has no end is only seen to be gone by looking.
    const leaseEnds =
      remaining === undefined ? Number.POSITIVE_INFINITY : remaining + this.#jitter();
    const refresh = lifeOf(ttl) / 2;
    const poll = wakeUp.listensTo(this.name) ? Number.POSITIVE_INFINITY : backoff.next();
    const woken = await this.#sleep(Math.min(leaseEnds, refresh, poll));
    if (!woken) wakeUp.check(this.name);
  }

  /** Listens, and queues from the next try on. Whether it had queued already when it was told to wait. */
  #beginToWait(stand: Stand): boolean {
    this.#listen();
    const isQueued = stand.told || stand.left > 0;
    stand.told = true;
    return isQueued;
  }

  /**
   * Nothing is granted sooner: who can't wait for so long needn't wait at all. The others stand in line, so that they come before
   * whoever asks later.
   */
  async #waitForGuard(
    outcome: Unavailable,
    retryAfter: number,
    ttl: number,
    backoff: Backoff,
  ): Promise<void> {
    const until = this.context.clock.now() + retryAfter;
    this.#line.refuseWhere(
      ({ dueAt }) => dueAt <= until,
      ({ key }) => unavailableError(key, outcome),
    );
    const head = this.#line.first;
    if (head === undefined) return;
    this.#answered = true;
    this.#announce(head, retryAfter);
    const stand = this.#stand as Stand;
    this.#beginToWait(stand);
    // What was queued may have had to be undone.
    const isQueued = stand.left > 0;
    const ends = retryAfter + this.#jitter();
    await this.#sleep(Math.min(ends, isQueued ? lifeOf(ttl) / 2 : backoff.next()));
  }

  #end(): void {
    this.#running = false;
    if (this.#stand !== undefined) {
      const { token, left } = this.#stand;
      if (left > 0) this.context.cleanUp.cancel({ name: this.name, token, ttl: left });
      this.#changeStand(undefined);
    }
    if (this.#line.size > 0) this.#listen();
    else this.#leave();
  }

  /** So that we're woken, and told when somebody elsewhere begins to wait for what is passed on here. */
  #listen(): void {
    if (this.#listens) return;
    this.#listens = true;
    const { wakeUp } = this.context.backend;
    const heard = wakeUp.listensTo(this.name);
    // Not below the call that happens to be the first.
    const subscribed = this.context.outside(() => wakeUp.subscribe(this.name));
    // Who waits until we listen looks then.
    if (!heard) void subscribed.then(() => this.wake());
  }

  /** Nobody waits any more. */
  #leave(): void {
    if (this.#listens) this.context.backend.wakeUp.unsubscribe(this.name);
    this.#listens = false;
    this.context.ended(this);
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

  /** A caller has left at its deadline or by its signal. */
  onGaveUp(): void {
    this.#onLeft();
  }

  #onLeft(): void {
    const next = this.#line.first;
    if (next !== undefined) {
      // What stands at the backend asks for what nobody here wants any more, and may keep others from entering.
      if (this.#running && this.#stand !== undefined && this.#stand.access !== next.options.access)
        this.wake();
      // The next may be one to whom the lease can't be passed.
      this.#standIfNeeded();
    } else if (this.#running) {
      this.#alarm?.ring();
    } else {
      this.#leave();
    }
  }

  #announce(request: LockRequest, remaining: number | undefined): void {
    if (request.announced) return;
    request.announced = true;
    this.context.events.emit('waiting', () => ({ key: this.name.key, remaining }));
    const circle = this.context.waits?.begins(this.name, request);
    if (circle === undefined) return;
    this.#line.refuse(request, LockDeadlockError.ofCircle(this.name.key, circle));
    this.#onLeft();
  }

  /** The error of a caller whose deadline has passed. */
  timedOut(request: LockRequest): unknown {
    const { key, since, heldKeys } = request;
    const unavailable = this.#stand?.unavailable;
    if (unavailable !== undefined) return unavailableError(key, unavailable);
    if (!this.#answered) {
      return new LockUnavailableError(key, 'no-answer');
    }
    const waited = this.context.clock.now() - since;
    this.context.events.emit('timedOut', () => ({ key, waited }));
    return new LockTimeoutError(key, waited, heldKeys);
  }
}

/** What all wait queues of a locker share. */
export interface WaitQueueContext {
  readonly backend: LockBackend;
  readonly clock: Clock;
  readonly random: () => number;
  readonly events: LockEmitter;
  readonly cleanUp: CleanUp;
  readonly deadlines: Deadlines;
  /** None: deadlocks aren't looked for. */
  readonly waits: WaitGraph | undefined;
  readonly commandTimeout: number;
  readonly localHandover: boolean;
  readonly backoff: ResolvedBackoff;
  /** Which queue a wake-up for a token is meant for. */
  readonly stands: Map<string, WaitQueue>;
  /** What this process holds, by the name's owner key. */
  readonly leases: ReadonlyMap<string, Lease>;
  newToken(): string;
  /** Nobody waits in the queue any more: callers that come later need a new one. */
  ended(queue: WaitQueue): void;
  /** Makes a lease of a grant, and the first lock on it. */
  newLock(grant: LeaseGrant): HeldLock;
  /** Passes a lease, of which the last lock was released, to the next caller: the lock on it. */
  handOver(lease: Lease, request: LockRequest): HeldLock;
  tellReleased(key: string, fencingToken: number, grantedAt: number): void;
  tellAcquired(lock: HeldLock, since: number): void;
  /** Runs what isn't below the call that starts it. */
  outside<T>(work: () => T): T;
}

/** The end of a sleep: sooner by `ring` or `setFor`, never later. */
interface Alarm {
  ring(): void;
  setFor(time: number): void;
}

interface Stand {
  readonly token: string;
  readonly access: Access;
  /** The place that the backend gave it. */
  sequence: number | undefined;
  /** The backend has said "busy", or when its guard lets in again: whoever stands here has begun to wait. */
  told: boolean;
  /** For how long, in ms, the token may be left in the backend's queue. */
  left: number;
  /** The last answer was none. */
  unavailable: Unavailable | undefined;
}

function newStand(token: string, access: Access): Stand {
  return { token, access, sequence: undefined, told: false, left: 0, unavailable: undefined };
}

/** The error for a backend that can't be asked. */
export function unavailableError(
  key: string | undefined,
  { reason, cause, facts }: Unavailable,
): LockUnavailableError {
  return new LockUnavailableError(key, reason, cause, facts);
}
