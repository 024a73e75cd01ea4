import { Agenda } from './agenda.js';
import { type ExtendOutcome, type LockBackend, standingOf } from './backend/lock-backend.js';
import type { Clock } from './clock.js';
import type { LockEmitter } from './events.js';
import type { Extension, Lease } from './lease.js';

/** A renewal is due when this part of the ttl has passed, which leaves time for several more tries. */
const RENEW_AFTER = 1 / 3;
/** Leases due within this part of their ttl from now go along: fewer commands, and it spreads the beats of replicas. */
const EARLY = 1 / 12;
/** How many leases one script prolongs at most: the server does nothing else meanwhile. */
const BATCH_SIZE = 500;

/**
 * Watches every lease of a locker with one timer: renews those that are to be, reports jeopardy, and ends each at its
 * deadline or `maxHold`, so that `signal` aborts in time without anybody asking.
 *
 * All that are due go to the backend together; each has at most one renewal under way.
 *
 * Where it may have been missed that a lease was taken away, all are looked at once: those that are renewed by a renewal
 * before its time, the others by a question, since nobody has asked for more than their ttl.
 */
export class Renewal {
  readonly #agenda: Agenda<Lease>;

  constructor(
    private readonly backend: LockBackend,
    private readonly clock: Clock,
    private readonly random: () => number,
    private readonly events: LockEmitter,
  ) {
    this.#agenda = new Agenda(clock, false, () => this.#tick());
  }

  /** How many leases it watches: all that this process holds. */
  get size(): number {
    return this.#agenda.size;
  }

  get leases(): readonly Lease[] {
    return this.#agenda.entries;
  }

  watch(lease: Lease): void {
    this.#watch(lease, this.clock.now());
  }

  #watch(lease: Lease, now: number): void {
    lease.dueAt = nextEvent(lease, now);
    this.#agenda.add(lease);
  }

  unwatch(lease: Lease): void {
    this.#agenda.remove(lease);
  }

  /** The lease was passed on: its next holder may have another `maxHold`. */
  passedOn(lease: Lease): void {
    if (lease.holdUntil < lease.dueAt) this.#reschedule(lease, this.clock.now());
  }

  /** Renews a lease now, outside its turn, unless a renewal is under way already. */
  async renewNow(lease: Lease): Promise<ExtendOutcome> {
    for (;;) {
      const { leases, outcomes } = lease.extending ?? this.#extend([lease]);
      const outcome = (await outcomes)[leases.indexOf(lease)] as ExtendOutcome;
      // Still held all the same: it's being asked again.
      if (outcome.kind !== 'taken' || lease.extending === undefined) return outcome;
    }
  }

  /** What was told to holders may have been missed: finds out which leases are still ours. */
  lookAtAll(): void {
    const now = this.clock.now();
    const renewed = this.leases.filter((lease) => lease.renew && lease.isHeldAt(now));
    const underWay = new Set(renewed.flatMap(({ extending }) => extending ?? []));
    this.#extendAll(renewed);
    // What is under way may have been done before the lease was taken away.
    for (const { leases, outcomes } of underWay) {
      void outcomes.then(() => this.#extendAll(leases.filter(({ renew }) => renew)));
    }
    for (const lease of this.leases) {
      if (lease.renew) continue;
      lease.lookAt = now;
      this.#reschedule(lease, now);
    }
  }

  stop(): void {
    this.#agenda.stop();
  }

  #tick(): void {
    const now = this.clock.now();
    const due: Lease[] = [];
    for (let lease = this.#agenda.takeDue(now); lease; lease = this.#agenda.takeDue(now)) {
      // Looking at the state ends a lease that is past its deadline.
      if (!lease.isHeldAt(now)) continue;
      if (lease.renew && lease.extending === undefined) {
        due.push(lease);
      } else {
        if (now >= lease.lookAt) void this.#ask(lease);
        if (now >= lease.overdueAt) this.#endanger(lease, undefined);
        // A listener may have ended it.
        if (lease.isHeldAt(now)) this.#watch(lease, now);
      }
    }
    if (due.length > 0) {
      // Those that may as well go along.
      for (let lease = this.#agenda.first; lease !== undefined; lease = this.#agenda.first) {
        const goesAlong =
          lease.renew && lease.extending === undefined && lease.dueAt <= now + lease.ttl * EARLY;
        if (!goesAlong) break;
        due.push(lease);
        this.unwatch(lease);
      }
    }
    this.#extendAll(due);
    for (const lease of due) if (lease.isHeldAt(now)) this.#watch(lease, now);
  }

  /** Those that are still held, and not being renewed already, in batches. */
  #extendAll(leases: readonly Lease[]): void {
    const now = this.clock.now();
    for (let start = 0; start < leases.length; start += BATCH_SIZE) {
      // One may have been released meanwhile, by a listener of another's loss.
      const batch = leases
        .slice(start, start + BATCH_SIZE)
        .filter((lease) => lease.extending === undefined && lease.isHeldAt(now));
      if (batch.length > 0) this.#extend(batch);
    }
  }

  #extend(leases: readonly Lease[]): Extension {
    const extension: Extension = { leases, outcomes: this.#extendAndApply(leases) };
    for (const lease of leases) lease.extending = extension;
    return extension;
  }

  async #extendAndApply(batch: readonly Lease[]): Promise<readonly ExtendOutcome[]> {
    const asked = batch.map(({ access }) => access);
    const outcomes = await this.backend.extend(batch);
    const now = this.clock.now();
    const told = this.events.has('renewed');
    batch.forEach((lease, index) => {
      const outcome = outcomes[index] as ExtendOutcome;
      lease.extending = undefined;
      if (!lease.isHeldAt(now)) return;
      switch (outcome.kind) {
        case 'extended':
          lease.prolong(outcome.sentAt, now);
          if (!told) break;
          this.events.emit('renewed', () => ({
            key: lease.name.key,
            fencingToken: lease.fencingToken,
            remaining: lease.deadline - now,
          }));
          break;
        case 'taken':
          if (lease.access !== asked[index]) {
            // Downgraded meanwhile, which may have been done first: over another connection, or at another node.
            this.#extend([lease]);
            break;
          }
          lease.lose('taken');
          return;
        case 'unavailable':
          lease.retryAt = this.#soon(lease, now);
          this.#endanger(lease, outcome.cause);
          break;
      }
      this.#reschedule(lease, now);
    });
    return outcomes;
  }

  /** Whether it's still ours, of one that isn't renewed: its holder was promised no more than its ttl. */
  async #ask(lease: Lease): Promise<void> {
    lease.lookAt = Number.POSITIVE_INFINITY;
    // Twice: the first time, a command that changes its fencing token may have been done and not yet been answered.
    for (let look = 0; look < 2 && lease.isHeld; look += 1) {
      const outcome = await this.backend.query(lease.name);
      const standing =
        outcome.kind === 'unavailable'
          ? 'perhaps'
          : standingOf(outcome, lease.access, lease.fencingToken);
      if (standing === 'held') return;
      if (standing === 'perhaps') {
        const now = this.clock.now();
        lease.lookAt = this.#soon(lease, now);
        this.#reschedule(lease, now);
        return;
      }
    }
    lease.lose('taken');
  }

  /** Again after a failure, but neither at once nor in step with other processes. */
  #soon({ ttl }: Lease, now: number): number {
    return now + (ttl / 20) * (0.5 + this.random());
  }

  #endanger(lease: Lease, cause: unknown): void {
    if (!lease.endanger()) return;
    this.events.emit('jeopardy', () => ({
      key: lease.name.key,
      fencingToken: lease.fencingToken,
      remaining: lease.deadline - this.clock.now(),
      cause,
    }));
  }

  #reschedule(lease: Lease, now: number): void {
    if (lease.heapIndex < 0) return;
    lease.dueAt = nextEvent(lease, now);
    this.#agenda.moved(lease);
  }
}

/** When there's something to be done about a lease. */
function nextEvent(lease: Lease, now: number): number {
  const end = Math.min(lease.deadline, lease.holdUntil);
  if (!lease.renew) return Math.min(end, lease.lookAt);
  const next =
    lease.extending === undefined
      ? Math.max(lease.sentAt + lease.ttl * RENEW_AFTER, lease.retryAt)
      : // Being renewed: only jeopardy is left to be noticed.
        lease.overdueAt > now
        ? lease.overdueAt
        : end;
  return Math.min(end, next);
}
