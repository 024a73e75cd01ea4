import { hostname } from 'node:os';

import { type Access, capacityOf, limitsDiffer } from '../access.js';
import { type Clock, systemClock, type Timer } from '../clock.js';
import type { KeyPattern } from '../key-pattern.js';
import { LockName } from '../lock-name.js';
import type { Survey } from '../survey.js';
import type { WakeListener, WakeMessage, WakeUp } from '../wake-up.js';
import {
  type AcquireAllOutcome,
  type AcquireAllRequest,
  type AcquireOutcome,
  type AcquireRequest,
  type CancelOutcome,
  type CancelRequest,
  type DowngradeOutcome,
  type DowngradeRequest,
  type ExtendOutcome,
  FENCE_RANGE,
  type ForceOutcome,
  type ForceRequest,
  type HeldToken,
  type HolderOutcome,
  type HolderState,
  type LockBackend,
  type MarkBlockedOutcome,
  type MarkBlockedRequest,
  type NamesOutcome,
  type QueryOutcome,
  type ReleaseOutcome,
  type ReleaseRequest,
  type UnmarkBlockedOutcome,
  type UnmarkBlockedRequest,
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

  /** `wallClock`: in ms since the epoch; the floor of fencing tokens and places, as the server's clock is over Redis. */
  constructor(
    readonly clock: Clock = systemClock,
    readonly wallClock: () => number = () => Date.now(),
  ) {}

  /** The entry of a key, with what has expired taken out. */
  entryOf(name: LockName): MemoryEntry {
    let entry = this.entries.get(name.owner);
    if (entry === undefined) {
      entry = { owner: undefined, sharers: new Map(), queue: [], fence: 0, fenceUntil: 0 };
      this.entries.set(name.owner, entry);
      this.#sweepLater();
    }
    if (entry.owner !== undefined && entry.owner.until <= this.clock.now()) {
      // A holder that was cut off may have used its whole range.
      if (entry.owner.kind === 'held') entry.fence += FENCE_RANGE - 1;
      entry.owner = undefined;
    }
    for (const [token, { until }] of entry.sharers) {
      if (until <= this.clock.now()) entry.sharers.delete(token);
    }
    return entry;
  }

  #sweepLater(): void {
    this.#sweep ??= this.clock.after(
      FENCE_RETENTION,
      () => {
        this.#sweep = undefined;
        const now = this.clock.now();
        for (const [key, { owner, sharers, queue, fenceUntil }] of this.entries) {
          const inUse =
            (owner !== undefined && owner.until > now) ||
            [...sharers.values()].some(({ until }) => until > now) ||
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
    const { token, ttl, place, access = 'exclusive', waitsSince, label } = request;
    const now = this.#clock.now();
    if (now > request.notAfter) return { kind: 'late' };
    const entry = this.#store.entryOf(request.name);
    const granted = (fencingToken: number): AcquireOutcome => {
      const othersWait = entry.queue.length > 0;
      return { kind: 'granted', fencingToken, sentAt: now, othersWait };
    };
    const mine = mineOf(entry, token);
    if (mine?.kind === 'held') {
      mine.until = now + ttl;
      return granted(mine.fencingToken);
    }
    if (isKeptFor(entry, token)) return { kind: 'late' };
    const [sharer] = entry.sharers.values();
    if (sharer !== undefined && limitsDiffer(sharer.access, access)) {
      return { kind: 'conflict', access: sharer.access };
    }
    const sequence =
      place?.sequence ??
      (waitsSince === undefined
        ? undefined
        : (this.#store.wallClock() - (now - waitsSince)) * 1_000);
    if (mine?.kind === 'reserved' || this.#handOn(entry, { token, access, sequence })) {
      const last = entry.fenceUntil > now ? entry.fence : 0;
      const fencingToken = Math.max(last + 1, this.#store.wallClock() * 1_000);
      this.#rememberFence(entry, fencingToken, ttl);
      this.#hold(entry, token, access, fencingToken, now + ttl, label);
      return granted(fencingToken);
    }
    const othersWaited = entry.queue.length > 0;
    const given = place && this.#enqueue(entry, token, access, place.aliveFor, sequence);
    if (!othersWaited && entry.queue.length > 0 && entry.owner?.kind === 'held') {
      entry.owner.wakeUp.tell({ kind: 'othersWait', owner: request.name.owner });
    }
    return { kind: 'busy', remaining: endOf(entry, access) - now, sequence: given };
  }

  readonly countsHolders = true;
  readonly losesInPart = false;
  readonly joinsKeys = true;

  async tryAcquireAll(request: AcquireAllRequest): Promise<AcquireAllOutcome> {
    const { wanted, ttl, access, fencingToken: given, label } = request;
    const now = this.#clock.now();
    if (now > request.notAfter) return { kind: 'late' };
    const entries = wanted.map(({ name }) => this.#store.entryOf(name));
    let fencingToken = given ?? this.#store.wallClock() * 1_000;
    for (const [index, entry] of entries.entries()) {
      const token = wanted[index]?.token as string;
      const mine = mineOf(entry, token);
      if (isKeptFor(entry, token)) return { kind: 'late' };
      // In the way that's asked for: one that was held up must not take a downgrade back.
      if (mine?.kind !== 'held' || mine.access !== access) {
        const [sharer] = entry.sharers.values();
        if (sharer !== undefined && limitsDiffer(sharer.access, access)) {
          return { kind: 'conflict', index, access: sharer.access };
        }
        const waits = entry.queue.some(({ aliveUntil }) => aliveUntil >= now);
        if (given !== undefined || waits || !mayEnter(entry, access)) {
          return { kind: 'busy', index, remaining: Math.max(0, endOf(entry, access) - now) };
        }
      }
      const last = entry.fenceUntil > now ? entry.fence : 0;
      if (given === undefined) fencingToken = Math.max(fencingToken, last + 1);
    }
    for (const [index, entry] of entries.entries()) {
      this.#rememberFence(entry, fencingToken, ttl);
      this.#hold(entry, wanted[index]?.token as string, access, fencingToken, now + ttl, label);
    }
    return { kind: 'granted', fencingToken, sentAt: now, othersWait: false };
  }

  async extend(leases: readonly HeldToken[]): Promise<ExtendOutcome[]> {
    const now = this.#clock.now();
    return leases.map(({ name, token, ttl }) => {
      const entry = this.#store.entryOf(name);
      const mine = mineOf(entry, token);
      if (mine?.kind !== 'held') return { kind: 'taken' };
      mine.until = now + ttl;
      this.#rememberFence(entry, mine.fencingToken, ttl);
      return { kind: 'extended', sentAt: now };
    });
  }

  async release({ name, token, lastFence, keepFor }: ReleaseRequest): Promise<ReleaseOutcome> {
    const entry = this.#store.entryOf(name);
    const mine = mineOf(entry, token);
    if (mine?.kind !== 'held') return { kind: 'taken' };
    this.#rememberFence(entry, lastFence, 0);
    if (keepFor > 0) {
      mine.kind = 'kept';
      mine.until = this.#clock.now() + keepFor;
      lookWithin(entry, keepFor);
    } else {
      this.#handOnAfter(entry, () => this.#leave(entry, token));
    }
    return { kind: 'released' };
  }

  async downgrade({ name, token, fencingToken }: DowngradeRequest): Promise<DowngradeOutcome> {
    const entry = this.#store.entryOf(name);
    const { owner } = entry;
    if (owner?.kind === 'held' && owner.token === token) {
      entry.owner = undefined;
      this.#rememberFence(entry, fencingToken, 0);
      entry.sharers.set(token, { ...owner, fencingToken, access: 'shared' });
      this.#handOn(entry);
    }
    return mineOf(entry, token)?.kind === 'held' ? { kind: 'released' } : { kind: 'taken' };
  }

  async markBlocked(request: MarkBlockedRequest): Promise<MarkBlockedOutcome> {
    const { name, token, mark, waitsFor, since = this.#store.wallClock() * 1_000, lasts } = request;
    const entry = this.#store.entryOf(name);
    if (entry.owner?.kind !== 'held' || entry.owner.token !== token) return { kind: 'taken' };
    entry.blocked = { token, mark, waitsFor, since, until: this.#clock.now() + lasts };
    return { kind: 'marked', since };
  }

  async unmarkBlocked({ name, mark }: UnmarkBlockedRequest): Promise<UnmarkBlockedOutcome> {
    const entry = this.#store.entryOf(name);
    if (entry.blocked?.mark === mark) entry.blocked = undefined;
    return { kind: 'unmarked' };
  }

  async holderOf(name: LockName): Promise<HolderOutcome> {
    const { owner, blocked } = this.#store.entryOf(name);
    if (owner?.kind !== 'held') return { kind: 'none' };
    const { token } = owner;
    const valid = blocked?.token === token && blocked.until > this.#clock.now();
    return { kind: 'held', token, blocked: valid ? blocked : undefined };
  }

  async cancel({ name, token, lastFence = 0 }: CancelRequest): Promise<CancelOutcome> {
    const entry = this.#store.entryOf(name);
    entry.queue = entry.queue.filter((waiter) => waiter.token !== token);
    const mine = mineOf(entry, token);
    this.#handOnAfter(entry, () => {
      if (mine === undefined || mine.kind === 'kept') return;
      this.#rememberFence(entry, lastFence, 0);
      this.#leave(entry, token);
    });
    return { kind: 'cancelled' };
  }

  async forceRelease(request: ForceRequest): Promise<ForceOutcome> {
    const { name, reason, fencingToken: meant, notAfter } = request;
    if (this.#clock.now() > notAfter) return { kind: 'late' };
    const entry = this.#store.entryOf(name);
    const application = this.#application;
    const by = { host: hostname(), pid: process.pid, application, reason };
    const taken = [entry.owner, ...entry.sharers.values()].filter(
      (one): one is MemoryHolder =>
        one !== undefined && one.kind !== 'reserved' && isMeant(one, meant),
    );
    for (const { kind, token, access, fencingToken, wakeUp } of taken) {
      this.#leave(entry, token);
      if (kind === 'kept') continue;
      wakeUp.tell({ kind: 'forced', token, owner: name.owner, by });
      // One alone may have passed the lease on in its process, and used its whole range.
      const used = access === 'exclusive' ? FENCE_RANGE : 1;
      this.#rememberFence(entry, fencingToken + used - 1, 0);
    }
    if (taken.length > 0) this.#handOn(entry);
    const now = this.#clock.now();
    return { kind: 'forced', held: taken.map((one) => holderOf(one, now)), by };
  }

  async query(name: LockName): Promise<QueryOutcome> {
    const now = this.#clock.now();
    const { owner, sharers, queue } = this.#store.entryOf(name);
    const held = [...(owner === undefined ? [] : [owner]), ...sharers.values()].flatMap((one) =>
      one.kind === 'reserved' ? [] : [holderOf(one, now)],
    );
    const pending = queue
      .filter((waiter) => waiter.aliveUntil >= now)
      .map(({ sequence, access }) => ({ sequence, access }));
    return { kind: 'found', state: { key: name.key, held, pending } };
  }

  async names(prefix: string, pattern: KeyPattern): Promise<NamesOutcome> {
    const names: LockName[] = [];
    for (const owner of this.#store.entries.keys()) {
      const name = LockName.ofOwner(prefix, owner);
      if (name !== undefined && pattern.matches(name.key)) names.push(name);
    }
    return { kind: 'names', names };
  }

  async survey(): Promise<Survey> {
    return { kind: 'surveyed', layout: 'memory', servers: [] };
  }

  async initializeGuard(): Promise<{ kind: 'unguarded' }> {
    return { kind: 'unguarded' };
  }

  async close(): Promise<void> {
    this.#store.wakeUps.delete(this.wakeUp);
  }

  #rememberFence(entry: MemoryEntry, fence: number, ttl: number): void {
    entry.fence = Math.max(entry.fence, fence);
    entry.fenceUntil = Math.max(
      entry.fenceUntil,
      this.#clock.now() +
        ttl +
        FENCE_RETENTION +
        Math.max(0, fence / 1_000 - this.#store.wallClock()),
    );
  }

  #enqueue(
    entry: MemoryEntry,
    token: string,
    access: Access,
    aliveFor: number,
    hint: number | undefined,
  ): number {
    const aliveUntil = this.#clock.now() + aliveFor;
    const known = entry.queue.find((waiter) => waiter.token === token);
    if (known !== undefined) {
      known.aliveUntil = aliveUntil;
      return known.sequence;
    }
    const sequence =
      hint ?? Math.max(this.#store.wallClock() * 1_000, (entry.queue.at(-1)?.sequence ?? 0) + 1);
    const wakeUp = this.wakeUp.listening ? this.wakeUp : undefined;
    entry.queue.push({ token, access, sequence, aliveUntil, wakeUp });
    entry.queue.sort((a, b) => a.sequence - b.sequence);
    return sequence;
  }

  #hold(
    entry: MemoryEntry,
    token: string,
    access: Access,
    fencingToken: number,
    until: number,
    label: string | undefined,
  ): void {
    const held: MemoryHolder = {
      kind: 'held',
      token,
      access,
      fencingToken,
      since: new Date(this.#store.wallClock()),
      application: this.#application,
      label,
      wakeUp: this.wakeUp,
      until,
    };
    if (access === 'exclusive') entry.owner = held;
    else entry.sharers.set(token, held);
  }

  /** Who waits was told when the last of all would have ended, and is told again where that has come nearer. */
  #handOnAfter(entry: MemoryEntry, change: () => void): void {
    const ended = lastEndOf(entry);
    change();
    this.#handOn(entry);
    const ends = lastEndOf(entry);
    if (entry.sharers.size > 0 && ends < ended - CLAIM_WINDOW) {
      lookWithin(entry, ends - this.#clock.now());
    }
  }

  #leave(entry: MemoryEntry, token: string): void {
    if (entry.owner?.token === token) entry.owner = undefined;
    entry.sharers.delete(token);
  }

  /**
   * Lets in whoever may enter, first come, first served, as the script of the same name does. Whether the claimant may,
   * where one asks.
   */
  #handOn(entry: MemoryEntry, claimant?: Claimant): boolean {
    const now = this.#clock.now();
    let entered: Access | undefined;
    const until = now + CLAIM_WINDOW;
    let reserved = false;
    for (;;) {
      const [head] = entry.queue;
      const claims =
        claimant !== undefined &&
        entered === undefined &&
        (head === undefined ||
          head.token === claimant.token ||
          (claimant.sequence !== undefined && claimant.sequence < head.sequence));
      if (claims) {
        if (!mayEnter(entry, claimant.access, entered)) break;
        entry.queue = entry.queue.filter(({ token }) => token !== claimant.token);
        entered = claimant.access;
        continue;
      }
      if (head === undefined) break;
      const { token, access, wakeUp } = head;
      const gone = wakeUp !== undefined && !this.#store.wakeUps.has(wakeUp);
      const alive = head.aliveUntil >= now && !gone;
      if (alive && !mayEnter(entry, access, entered)) break;
      entry.queue.shift();
      if (!alive) continue;
      const reservation: MemoryReservation = { kind: 'reserved', token, access, until };
      if (access === 'exclusive') entry.owner = reservation;
      else entry.sharers.set(token, reservation);
      wakeUp?.tell({ kind: 'woken', token, within: 0 });
      reserved = true;
    }
    if (reserved) lookWithin(entry, CLAIM_WINDOW);
    return entered !== undefined;
  }
}

/** Whether a fencing token, where one is given, is of this holder's lease, which one alone may have passed on. */
function isMeant(holder: MemoryHolder, token: number | undefined): boolean {
  const { kind, access, fencingToken } = holder;
  const range = kind === 'held' && access === 'exclusive' ? FENCE_RANGE : 1;
  return token === undefined || (token >= fencingToken && token < fencingToken + range);
}

interface Claimant {
  readonly token: string;
  readonly access: Access;
  readonly sequence: number | undefined;
}

/** The one rule for who may enter. `entered`: who asks has, and isn't in the entry yet. */
function mayEnter({ owner, sharers }: MemoryEntry, access: Access, entered?: Access): boolean {
  const [sharer] = sharers.values();
  const inside = entered ?? owner?.access ?? sharer?.access;
  if (inside === undefined) return true;
  const count = sharers.size + (entered === undefined ? 0 : 1);
  return access !== 'exclusive' && access === inside && count < capacityOf(access);
}

/** What a token has of a key. */
function mineOf({ owner, sharers }: MemoryEntry, token: string): MemoryOwner | undefined {
  return owner?.token === token ? owner : sharers.get(token);
}

/** Whether it has given back what it shared, and its place is kept: what it asks for has come a second time. */
function isKeptFor({ sharers }: MemoryEntry, token: string): boolean {
  return sharers.get(token)?.kind === 'kept';
}

/** When one who waits may have it, if nobody prolongs or leaves sooner: one place of its own kind, or all others. */
function endOf({ owner, sharers }: MemoryEntry, access: Access): number {
  const ends = [...(owner === undefined ? [] : [owner]), ...sharers.values()];
  const times = ends.map(({ until }) => until);
  if (times.length === 0) return 0;
  return ends.every((one) => one.access === access) ? Math.min(...times) : Math.max(...times);
}

function lastEndOf({ sharers }: MemoryEntry): number {
  return Math.max(0, ...Array.from(sharers.values(), ({ until }) => until));
}

/** Tells the first few waiters when to look at the latest, as the script of the same name does. */
function lookWithin({ queue }: MemoryEntry, milliseconds: number): void {
  for (const { wakeUp, token } of queue.slice(0, 3)) {
    wakeUp?.tell({ kind: 'woken', token, within: milliseconds });
  }
}

function holderOf(owner: MemoryHolder, now: number): HolderState {
  return {
    fencingToken: owner.fencingToken,
    access: owner.access,
    since: owner.since,
    remaining: owner.until - now,
    host: hostname(),
    pid: process.pid,
    application: owner.application,
    label: owner.label,
    kept: owner.kind === 'kept',
  };
}

class MemoryWakeUp implements WakeUp {
  #listener: WakeListener = () => {};

  constructor(private readonly store: MemoryStore) {}

  get listening(): boolean {
    return this.store.wakeUps.has(this);
  }

  listensTo(): boolean {
    return this.listening;
  }

  async subscribe(): Promise<void> {
    this.store.wakeUps.add(this);
  }

  unsubscribe(): void {}

  /** What is told to a holder in this process always gets there. */
  attend(): void {}

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
  /** Who has it alone. */
  owner: MemoryOwner | undefined;
  /** Who share it, by token: all of one access. */
  readonly sharers: Map<string, MemoryOwner>;
  /** By rising sequence. */
  queue: {
    readonly token: string;
    readonly access: Access;
    readonly sequence: number;
    aliveUntil: number;
    /** None: it polls. */
    readonly wakeUp: MemoryWakeUp | undefined;
  }[];
  fence: number;
  fenceUntil: number;
  /** What its holder waits for, where that has lasted for long. */
  blocked?:
    | {
        readonly token: string;
        readonly mark: string;
        readonly waitsFor: LockName;
        readonly since: number;
        readonly until: number;
      }
    | undefined;
}

/** `until` is monotonic. */
interface MemoryReservation {
  readonly kind: 'reserved';
  readonly token: string;
  readonly access: Access;
  until: number;
}

interface MemoryHolder {
  kind: 'held' | 'kept';
  readonly token: string;
  readonly access: Access;
  readonly fencingToken: number;
  readonly since: Date;
  readonly application: string | undefined;
  readonly label: string | undefined;
  readonly wakeUp: MemoryWakeUp;
  until: number;
}

type MemoryOwner = MemoryReservation | MemoryHolder;
