import type { Clock, Timer } from './clock.js';

/** What stands on an {@link Agenda}. It keeps its place itself, so that it costs no entry of its own. */
export interface AgendaEntry {
  /** Monotonic. */
  dueAt: number;
  /** Its place in the heap; -1: it isn't on the agenda. */
  heapIndex: number;
}

/**
 * Things that are due at some time, and one timer for all of them: a binary heap by `dueAt`, from which any entry can
 * leave in logarithmic time. A timer that is set for earlier than needed finds nothing due and is set anew, which is
 * cheaper than one that is set and cleared for each entry.
 *
 * `keepsAlive`: while something stands on it, the process doesn't end for want of other things to do.
 *
 * Used for the leases to be renewed, the callers that wait, and the commands under way.
 */
export class Agenda<T extends AgendaEntry> {
  readonly #heap: T[] = [];
  #timer: Timer | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #stopped = false;
  readonly #ring = () => {
    this.#timer = undefined;
    this.#timerAt = Number.POSITIVE_INFINITY;
    const first = this.#heap[0];
    if (first !== undefined && first.dueAt <= this.clock.now()) this.onDue();
    this.#arm();
  };

  /** `onDue` is told when something is due: it takes what is, with {@link takeDue}. */
  constructor(
    private readonly clock: Clock,
    private readonly keepsAlive: boolean,
    private readonly onDue: () => void,
  ) {}

  get size(): number {
    return this.#heap.length;
  }

  get first(): T | undefined {
    return this.#heap[0];
  }

  /** All entries, in no particular order. */
  get entries(): readonly T[] {
    return [...this.#heap];
  }

  add(entry: T): void {
    entry.heapIndex = this.#heap.length;
    this.#heap.push(entry);
    this.#siftUp(entry);
    if (this.keepsAlive && this.#heap.length === 1) this.#timer?.keepAlive(true);
    if (this.#heap[0] === entry) this.#arm();
  }

  remove(entry: T): void {
    const index = entry.heapIndex;
    if (index < 0) return;
    entry.heapIndex = -1;
    const last = this.#heap.pop() as T;
    if (last !== entry) {
      this.#heap[index] = last;
      last.heapIndex = index;
      this.#siftUp(last);
      this.#siftDown(last);
    }
    // The timer stays: the next entry most likely needs it as it is.
    if (this.keepsAlive && this.#heap.length === 0) this.#timer?.keepAlive(false);
  }

  /** The entry's `dueAt` has changed. */
  moved(entry: T): void {
    if (entry.heapIndex < 0) return;
    this.#siftUp(entry);
    this.#siftDown(entry);
    if (this.#heap[0] === entry) this.#arm();
  }

  /** Takes the first entry off the agenda, if it's due by then. */
  takeDue(by: number): T | undefined {
    const first = this.#heap[0];
    if (first === undefined || first.dueAt > by) return undefined;
    this.remove(first);
    return first;
  }

  /** Nothing is told any more. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #arm(): void {
    const first = this.#heap[0];
    if (this.#stopped || first === undefined || this.#timerAt <= first.dueAt) return;
    this.#timer?.cancel();
    this.#timerAt = first.dueAt;
    this.#timer = this.clock.after(
      first.dueAt - this.clock.now(),
      this.#ring,
      this.keepsAlive ? 'foreground' : 'background',
    );
  }

  #siftUp(entry: T): void {
    const heap = this.#heap;
    let index = entry.heapIndex;
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = heap[parentIndex] as T;
      if (parent.dueAt <= entry.dueAt) break;
      heap[index] = parent;
      parent.heapIndex = index;
      index = parentIndex;
    }
    heap[index] = entry;
    entry.heapIndex = index;
  }

  #siftDown(entry: T): void {
    const heap = this.#heap;
    let index = entry.heapIndex;
    for (;;) {
      let childIndex = 2 * index + 1;
      if (childIndex >= heap.length) break;
      const right = heap[childIndex + 1];
      if (right !== undefined && right.dueAt < (heap[childIndex] as T).dueAt) childIndex += 1;
      const child = heap[childIndex] as T;
      if (child.dueAt >= entry.dueAt) break;
      heap[index] = child;
      child.heapIndex = index;
      index = childIndex;
    }
    heap[index] = entry;
    entry.heapIndex = index;
  }
}
