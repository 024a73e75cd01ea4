import type { ExtendOutcome, LockBackend } from './backend/lock-backend.js';
import type { Clock, Timer } from './clock.js';
import type { LockEmitter } from './events.js';
import type { Lease } from './lease.js';

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
 * The leases stand in a binary heap by the time at which something is to be done about them. All that are due go to
 * the backend together; each has at most one renewal under way.
 */
export class Renewal {
  readonly #heap: Lease[] = [];
  #timer: Timer | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #stopped = false;

  constructor(
    private readonly backend: LockBackend,
    private readonly clock: Clock,
    private readonly random: () => number,
    private readonly events: LockEmitter,
  ) {}

  /** How many leases it watches: all that this process holds. */
  get size(): number {
    return this.#heap.length;
  }

  get leases(): readonly Lease[] {
    return [...this.#heap];
  }

  watch(lease: Lease): void {
    lease.dueAt = this.#nextEvent(lease);
    lease.heapIndex = this.#heap.length;
    this.#heap.push(lease);
    this.#siftUp(lease);
    this.#arm();
  }

  /** Stops watching. The timer stays: the next lease most likely needs it as it is. */
  unwatch(lease: Lease): void {
    const index = lease.heapIndex;
    if (index < 0) return;
    lease.heapIndex = -1;
    const last = this.#heap.pop() as Lease;
    if (last === lease) return;
    this.#heap[index] = last;
    last.heapIndex = index;
    this.#siftUp(last);
    this.#siftDown(last);
  }

  /** Renews a lease now, outside its turn, unless a renewal is under way already. */
  async renewNow(lease: Lease): Promise<ExtendOutcome> {
    if (lease.extending === undefined) this.#extend([lease]);
    return lease.extending as Promise<ExtendOutcome>;
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#timerAt = Number.POSITIVE_INFINITY;
  }

  #nextEvent(lease: Lease): number {
    const end = Math.min(lease.deadline, lease.holdUntil);
    if (!lease.renew) return end;
    const next =
      lease.extending === undefined
        ? Math.max(lease.sentAt + lease.ttl * RENEW_AFTER, lease.retryAt)
        : // Being renewed: only jeopardy is left to be noticed.
          lease.overdueAt > this.clock.now()
          ? lease.overdueAt
          : end;
    return Math.min(end, next);
  }

  #arm(): void {
    const first = this.#heap[0];
    // A timer that is set for earlier finds nothing due and arms the next: cheaper than one timer set per lock.
    if (this.#stopped || first === undefined || this.#timerAt <= first.dueAt) return;
    this.#timer?.cancel();
    this.#timerAt = first.dueAt;
    this.#timer = this.clock.after(
      first.dueAt - this.clock.now(),
      () => {
        this.#timer = undefined;
        this.#timerAt = Number.POSITIVE_INFINITY;
        this.#tick();
      },
      'background',
    );
  }

  #tick(): void {
    const now = this.clock.now();
    const due: Lease[] = [];
    // Those that are due at once, and those that may as well go along.
    for (
      let lease = this.#heap[0];
      lease !== undefined && lease.dueAt <= now;
      lease = this.#heap[0]
    ) {
      // Looking at the state ends a lease past its deadline, which takes it out of the heap.
      if (!lease.isHeld) {
        this.unwatch(lease);
        continue;
      }
      if (lease.renew && lease.extending === undefined) {
        due.push(lease);
        this.unwatch(lease);
      } else {
        if (now >= lease.overdueAt) this.#endanger(lease, undefined);
        this.#reschedule(lease);
      }
    }
    if (due.length > 0) {
      for (let lease = this.#heap[0]; lease !== undefined; lease = this.#heap[0]) {
        const goesAlong =
          lease.renew && lease.extending === undefined && lease.dueAt <= now + lease.ttl * EARLY;
        if (!goesAlong) break;
        due.push(lease);
        this.unwatch(lease);
      }
    }
    for (let start = 0; start < due.length; start += BATCH_SIZE) {
      const batch = due.slice(start, start + BATCH_SIZE);
      this.#extend(batch);
      // One may have been released meanwhile, by a listener of another's loss.
      for (const lease of batch) if (lease.isHeld) this.watch(lease);
    }
    this.#arm();
  }

  #extend(batch: Lease[]): void {
    const done = this.#extendAndApply(batch);
    batch.forEach((lease, index) => {
      lease.extending = done.then((outcomes) => outcomes[index] as ExtendOutcome);
    });
  }

  async #extendAndApply(batch: Lease[]): Promise<readonly ExtendOutcome[]> {
    const outcomes = await this.backend.extend(batch);
    batch.forEach((lease, index) => {
      const outcome = outcomes[index] as ExtendOutcome;
      lease.extending = undefined;
      if (!lease.isHeld) return;
      switch (outcome.kind) {
        case 'extended':
          lease.prolong(outcome.sentAt);
          this.events.emit('renewed', () => ({
            key: lease.name.key,
            fencingToken: lease.fencingToken,
            remaining: lease.deadline - this.clock.now(),
          }));
          break;
        case 'taken':
          lease.lose('taken');
          return;
        case 'unavailable':
          // Soon again, but neither at once nor in step with other processes.
          lease.retryAt = this.clock.now() + (lease.ttl / 20) * (0.5 + this.random());
          this.#endanger(lease, outcome.cause);
          break;
      }
      this.#reschedule(lease);
    });
    this.#arm();
    return outcomes;
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

  #reschedule(lease: Lease): void {
    if (lease.heapIndex < 0) return;
    lease.dueAt = this.#nextEvent(lease);
    this.#siftUp(lease);
    this.#siftDown(lease);
  }

  #siftUp(lease: Lease): void {
    const heap = this.#heap;
    let index = lease.heapIndex;
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = heap[parentIndex] as Lease;
      if (parent.dueAt <= lease.dueAt) break;
      heap[index] = parent;
      parent.heapIndex = index;
      index = parentIndex;
    }
    heap[index] = lease;
    lease.heapIndex = index;
  }

  #siftDown(lease: Lease): void {
    const heap = this.#heap;
    let index = lease.heapIndex;
    for (;;) {
      let childIndex = 2 * index + 1;
      if (childIndex >= heap.length) break;
      const right = heap[childIndex + 1];
      if (right !== undefined && right.dueAt < (heap[childIndex] as Lease).dueAt) childIndex += 1;
      const child = heap[childIndex] as Lease;
      if (child.dueAt >= lease.dueAt) break;
      heap[index] = child;
      child.heapIndex = index;
      index = childIndex;
    }
    heap[index] = lease;
    lease.heapIndex = index;
  }
}
