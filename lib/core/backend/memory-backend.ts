import { hostname } from 'node:os';

import { type Clock, systemClock, type Timer } from '../clock.js';
import type { LockName } from '../lock-name.js';
import type { WakeListener, WakeMessage, WakeUp } from '../wake-up.js';
import {
  type AcquireOutcome,
  type AcquireRequest,
  type CancelOutcome,
  type CancelRequest,
  type ExtendOutcome,
  FENCE_RANGE,
  type HeldToken,
  type LockBackend,
  type QueryOutcome,
  type ReleaseOutcome,
  type ReleaseRequest,
} from './lock-backend.js';
import { type JobRuns, MemoryRunStore } from './memory-run-store.js';

/** A reserved key waits so long for the waiter that was woken, in ms. */
const CLAIM_WINDOW = 1_000;
/** The last fencing token of a key is remembered for so long after its lease, in ms. */
const FENCE_RETENTION = 10_000;

/**
 * What the memory backends of one process share, as Redis is what several processes share. Entries leave when they
 * expire, by one timer for the whole store.
 */
export class MemoryStore {
  readonly entries = new Map<string, MemoryEntry>();
  readonly wakeUps = new Set<MemoryWakeUp>();
  readonly runs: JobRuns = new Map();
  #sweep: Timer | undefined;

  constructor(readonly clock: Clock = systemClock) {}

  /** The entry of a key, with what has expired taken out. */
  entryOf(name: LockName): MemoryEntry {
    let entry = this.entries.get(name.owner);
    if (entry === undefined) {
      entry = { owner: undefined, queue: [], fence: 0, fenceUntil: 0 };
      this.entries.set(name.owner, entry);
      this.#sweepLater();
    }
    if (entry.owner !== undefined && entry.owner.until <= this.clock.now()) {
      // A holder that was cut off may have used its whole range.
      if (entry.owner.kind === 'held') entry.fence += FENCE_RANGE - 1;
      entry.owner = undefined;
    }
    return entry;
  }

  #sweepLater(): void {
    this.#sweep ??= this.clock.after(
      FENCE_RETENTION,
      () => {
        this.#sweep = undefined;
        const now = this.clock.now();
        for (const [key, { owner, queue, fenceUntil }] of this.entries) {
          const inUse =
            (owner !== undefined && owner.until > now) ||
            fenceUntil > now ||
            queue.some((w) => w.aliveUntil >= now);
          if (!inUse) this.entries.delete(key);
        }
        if (this.entries.size > 0) this.#sweepLater();
      },
      'background',
    );
  }
}

/** One store for every `connection: 'memory'` of the process: two applications in it exclude each other, as over Redis. */
const sharedStore = new MemoryStore();

/**
 * Locks in this process's memory, by the same protocol as over Redis: leases, expiry, fencing tokens, one queue, and
 * reservation for the waiter that's woken. For tests and for running an application without Redis; it excludes
 * nobody outside of this process.
 */
export class MemoryBackend implements LockBackend {
  readonly wakeUp: MemoryWakeUp;
  readonly runs: MemoryRunStore;
  readonly #store: MemoryStore;
  readonly #clock: Clock;
  readonly #application: string | undefined;

  constructor(options: { application: string | undefined }, store: MemoryStore = sharedStore) {
    this.#store = store;
    this.#clock = store.clock;
    this.#application = options.application;
    this.wakeUp = new MemoryWakeUp(store);
    this.runs = new MemoryRunStore(store.runs);
  }

  async connect(): Promise<{ kind: 'connected' }> {
    return { kind: 'connected' };
  }

  async tryAcquire(request: AcquireRequest): Promise<AcquireOutcome> {
    const { token, ttl, place } = request;
    const now = this.#clock.now();
    if (now > request.notAfter) return { kind: 'late' };
    const entry = this.#store.entryOf(request.name);
    if (entry.owner?.kind === 'held' && entry.owner.token === token) {
      entry.owner.until = now + ttl;
      const { fencingToken } = entry.owner;
      return { kind: 'granted', fencingToken, sentAt: now, othersWait: entry.queue.length > 0 };
    }
    if (entry.owner === undefined) this.#handOn(entry, token);
    if (
      entry.owner === undefined ||
      (entry.owner.kind === 'reserved' && entry.owner.token === token)
    ) {
      const last = entry.fenceUntil > now ? entry.fence : 0;
      const fencingToken = Math.max(last + 1, Date.now() * 1_000);
      this.#rememberFence(entry, fencingToken, ttl);
      entry.owner = {
        kind: 'held',
        token,
        fencingToken,
        since: new Date(),
        application: this.#application,
        until: now + ttl,
        wakeUp: this.wakeUp,
      };
      return { kind: 'granted', fencingToken, sentAt: now, othersWait: entry.queue.length > 0 };
    }
    const othersWaited = entry.queue.length > 0;
    const sequence = place && this.#enqueue(entry, token, place.aliveFor, place.sequence);
    if (!othersWaited && entry.queue.length > 0 && entry.owner.kind === 'held') {
      entry.owner.wakeUp.tell({ kind: 'othersWait', owner: request.name.owner });
    }
    return { kind: 'busy', remaining: entry.owner.until - now, sequence };
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const now = this.#clock.now();
    return leases.map(({ name, token, ttl }) => {
      const entry = this.#store.entryOf(name);
      const { owner } = entry;
      if (owner?.kind !== 'held' || owner.token !== token) return { kind: 'taken' };
      owner.until = now + ttl;
      this.#rememberFence(entry, owner.fencingToken, ttl);
      return { kind: 'extended', sentAt: now };
    });
  }

  async release({ name, token, lastFence, keepFor }: ReleaseRequest): Promise<ReleaseOutcome> {
    const entry = this.#store.entryOf(name);
    const { owner } = entry;
    if (owner?.kind !== 'held' || owner.token !== token) return { kind: 'taken' };
    this.#rememberFence(entry, lastFence, 0);
    if (keepFor > 0) {
      entry.owner = { ...owner, kind: 'kept', until: this.#clock.now() + keepFor };
      lookWithin(entry, keepFor);
    } else {
      entry.owner = undefined;
      this.#handOn(entry, undefined);
    }
    return { kind: 'released' };
  }

  async cancel({ name, token, lastFence = 0 }: CancelRequest): Promise<CancelOutcome> {
    const entry = this.#store.entryOf(name);
    entry.queue = entry.queue.filter((waiter) => waiter.token !== token);
    const { owner } = entry;
    if (owner !== undefined && owner.kind !== 'kept' && owner.token === token) {
      this.#rememberFence(entry, lastFence, 0);
      entry.owner = undefined;
      this.#handOn(entry, undefined);
    }
    return { kind: 'cancelled' };
  }

  async query(name: LockName): Promise<QueryOutcome> {
    const now = this.#clock.now();
    const { owner, queue } = this.#store.entryOf(name);
    const held =
      owner === undefined || owner.kind === 'reserved'
        ? []
        : [
            {
              fencingToken: owner.fencingToken,
              since: owner.since,
              remaining: owner.until - now,
              host: hostname(),
              pid: process.pid,
              application: owner.application,
              kept: owner.kind === 'kept',
            },
          ];
    const pending = queue
      .filter((waiter) => waiter.aliveUntil >= now)
      .map(({ sequence }) => ({ sequence }));
    return { kind: 'found', state: { key: name.key, held, pending } };
  }

  async close(): Promise<void> {
    this.#store.wakeUps.delete(this.wakeUp);
  }

  #rememberFence(entry: MemoryEntry, fence: number, ttl: number): void {
    entry.fence = Math.max(entry.fence, fence);
    entry.fenceUntil = Math.max(
      entry.fenceUntil,
      this.#clock.now() + ttl + FENCE_RETENTION + Math.max(0, fence / 1_000 - Date.now()),
    );
  }

  #enqueue(entry: MemoryEntry, token: string, aliveFor: number, hint: number | undefined): number {
    const aliveUntil = this.#clock.now() + aliveFor;
    const known = entry.queue.find((waiter) => waiter.token === token);
    if (known !== undefined) {
      known.aliveUntil = aliveUntil;
      return known.sequence;
    }
    const sequence = hint ?? Math.max(Date.now() * 1_000, (entry.queue.at(-1)?.sequence ?? 0) + 1);
    const wakeUp = this.wakeUp.listening ? this.wakeUp : undefined;
    entry.queue.push({ token, sequence, aliveUntil, wakeUp });
    entry.queue.sort((a, b) => a.sequence - b.sequence);
    return sequence;
  }

  /** Reserves a free key for the first live waiter, as the script of the same name does. */
  #handOn(entry: MemoryEntry, claimant: string | undefined): void {
    const now = this.#clock.now();
    for (let head = entry.queue.shift(); head !== undefined; head = entry.queue.shift()) {
      if (head.token === claimant) return;
      const { wakeUp } = head;
      const gone = wakeUp !== undefined && !this.#store.wakeUps.has(wakeUp);
      if (head.aliveUntil < now || gone) continue;
      entry.owner = { kind: 'reserved', token: head.token, until: now + CLAIM_WINDOW };
      wakeUp?.tell({ kind: 'woken', token: head.token, within: 0 });
      lookWithin(entry, CLAIM_WINDOW);
      return;
    }
  }
}

/** Tells the first few waiters when to look at the latest, as the script of the same name does. */
function lookWithin({ queue }: MemoryEntry, milliseconds: number): void {
  for (const { wakeUp, token } of queue.slice(0, 3)) {
    wakeUp?.tell({ kind: 'woken', token, within: milliseconds });
  }
}

class MemoryWakeUp implements WakeUp {
  #listener: WakeListener = () => {};

  constructor(private readonly store: MemoryStore) {}

  get listening(): boolean {
    return this.store.wakeUps.has(this);
  }

  async subscribe(): Promise<void> {
    this.store.wakeUps.add(this);
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  check(): void {}

  /** Later, as a message would come: the release that wakes must not run into the waiter's next step. */
  tell(message: WakeMessage): void {
    queueMicrotask(() => this.#listener(message));
  }
}

interface MemoryEntry {
  owner: MemoryOwner | undefined;
  /** By rising sequence. */
  queue: {
    readonly token: string;
    readonly sequence: number;
    aliveUntil: number;
    /** None: it polls. */
    readonly wakeUp: MemoryWakeUp | undefined;
  }[];
  fence: number;
  fenceUntil: number;
}

/** `until` is monotonic. */
type MemoryOwner =
  | { readonly kind: 'reserved'; readonly token: string; until: number }
  | {
      readonly kind: 'held' | 'kept';
      readonly token: string;
      readonly fencingToken: number;
      readonly since: Date;
      readonly application: string | undefined;
      readonly wakeUp: MemoryWakeUp;
      until: number;
    };
