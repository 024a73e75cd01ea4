/**
 * What a simulated server does for one process: `MemoryBackend`, and what only a node of a quorum is asked for beside that,
 * as `stand-back.lua` and `_fence-floor.lua` do it.
 */
import { MemoryBackend, MemoryStore } from '../../lib/core/backend/memory-backend.js';
import type {
  AcquireAllOutcome,
  AcquireAllRequest,
  AcquireOutcome,
  AcquireRequest,
  CancelOutcome,
  FencedRequest,
} from '../../lib/core/backend/lock-backend.js';
import type { StandBackRequest } from '../../lib/core/backend/redis-backend.js';
import type { Clock } from '../../lib/core/clock.js';

/** A server follows one who asks for a later fencing token no further than this, in ms. */
const FURTHEST_AHEAD = 1_000;

/** What a simulated server keeps, and the fencing token that the present command asks for, in ms. */
export class ServedStore extends MemoryStore {
  #floor: number | undefined;

  constructor(clock: Clock, wallClock: () => number) {
    super(clock, () => Math.max(wallClock(), this.#floor ?? 0));
  }

  /** A command is run at once: only its answer is a promise. */
  above<R>(floor: number | undefined, work: () => R): R {
    // Whole ms, as the clock here.
    this.#floor = floor && Math.min(Math.ceil(floor / 1_000), this.clock.now() + FURTHEST_AHEAD);
    try {
      return work();
    } finally {
      this.#floor = undefined;
    }
  }
}

export class ServedBackend extends MemoryBackend {
  constructor(
    application: string,
    private readonly store: ServedStore,
  ) {
    super({ application }, store);
  }

  override tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome> {
    return this.store.above(request.fenceFloor, () => super.tryAcquire(request));
  }

  override tryAcquireAll(request: AcquireAllRequest & FencedRequest): Promise<AcquireAllOutcome> {
    return this.store.above(request.fenceFloor, () => super.tryAcquireAll(request));
  }

  /** Queued before it lets go, so that it's among those to whom the key is handed on. */
  async standBack(request: StandBackRequest): Promise<CancelOutcome> {
    const { name, token, access, place, notAfter } = request;
    const { queue } = this.store.entryOf(name);
    const now = this.store.clock.now();
    const aliveUntil = now + place.aliveFor;
    const known = queue.find((waiter) => waiter.token === token);
    if (now > notAfter) {
      // Nobody waits any more.
    } else if (known === undefined) {
      const wakeUp = this.wakeUp.listening ? this.wakeUp : undefined;
      queue.push({ token, access, sequence: place.sequence, aliveUntil, wakeUp });
      queue.sort((a, b) => a.sequence - b.sequence);
    } else {
      known.aliveUntil = aliveUntil;
    }
    await this.release({ name, token, ttl: 0, access, lastFence: 0, keepFor: 0 });
    return { kind: 'cancelled' };
  }
}
