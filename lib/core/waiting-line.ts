import { watchAbort } from './abort-watch.js';
import type { Agenda, AgendaEntry } from './agenda.js';

/**
 * Callers of this process that wait for one thing, first come, first served. Each leaves the line in one of three
 * ways: it's served (or refused) from outside, its deadline passes, or its signal aborts. What was started when it
 * joined (its place on the agenda, its abort listener) ends when it leaves.
 *
 * Used by the wait queue of a key, and by a held lock for those who enter it again.
 */
export class WaitingLine<C extends Caller<T>, T> {
  #first: C | undefined;
  #last: C | undefined;
  #size = 0;

  constructor(
    private readonly deadlines: Deadlines,
    private readonly owner: LineOwner<C>,
  ) {}

  get size(): number {
    return this.#size;
  }

  get first(): C | undefined {
    return this.#first;
  }

  /** Joins at the end. The deadline isn't watched before {@link watch}; the signal is at once. */
  join(caller: C): void {
    caller.line = this as AnyLine;
    caller.previous = this.#last;
    if (this.#last === undefined) this.#first = caller;
    else this.#last.next = caller;
    this.#last = caller;
    this.#size += 1;
    const { signal } = caller;
    if (signal === undefined) return;
    if (signal.aborted) this.refuse(caller, signal.reason);
    else caller.unlisten = watchAbort(signal, () => this.#giveUp(caller, signal.reason));
  }

  /**
   * Ends a caller's wait at its deadline. Apart from `join`, because a caller that is served at its first try, whose
   * command has a bound of its own, needs no other.
   */
  watch(caller: C): void {
    if (caller.heapIndex < 0 && this.#has(caller)) this.deadlines.add(caller as AnyCaller);
  }

  /** The caller's deadline has passed. */
  timeOut(caller: C): void {
    // It leaves before anybody is told: a listener that releases the key would have it served else.
    if (!this.#leave(caller)) return;
    caller.reject(this.owner.timedOut(caller));
    this.owner.onGaveUp?.();
  }

  /** Whether it stood in the line until now. */
  serve(caller: C, value: T): boolean {
    if (!this.#leave(caller)) return false;
    caller.resolve(value);
    return true;
  }

  refuse(caller: C, error: unknown): void {
    if (this.#leave(caller)) caller.reject(error);
  }

  serveAll(value: T): void {
    for (const caller of this.#all()) this.serve(caller, value);
  }

  refuseWhere(which: (caller: C) => boolean, error: (caller: C) => unknown): void {
    for (const caller of this.#all()) if (which(caller)) this.refuse(caller, error(caller));
  }

  #all(): C[] {
    const all: C[] = [];
    for (let caller = this.#first; caller !== undefined; caller = caller.next as C | undefined) {
      all.push(caller);
    }
    return all;
  }

  #has(caller: C): boolean {
    return caller.line === (this as AnyLine);
  }

  #giveUp(caller: C, error: unknown): void {
    if (!this.#leave(caller)) return;
    caller.reject(error);
    this.owner.onGaveUp?.();
  }

  #leave(caller: C): boolean {
    if (!this.#has(caller)) return false;
    const { previous, next } = caller;
    if (previous === undefined) this.#first = next as C | undefined;
    else previous.next = next;
    if (next === undefined) this.#last = previous as C | undefined;
    else next.previous = previous;
    caller.line = undefined;
    caller.previous = undefined;
    caller.next = undefined;
    this.#size -= 1;
    if (caller.heapIndex >= 0) this.deadlines.remove(caller as AnyCaller);
    caller.unlisten?.();
    return true;
  }
}

/** Whose line it is. */
export interface LineOwner<C> {
  /** Makes the error of a caller whose deadline has passed. */
  timedOut(caller: C): unknown;
  /** A caller has left at its deadline or by its signal. */
  onGaveUp?(): void;
}

/** The deadlines of all callers in all lines of a locker. */
export type Deadlines = Agenda<AnyCaller>;

// A line knows what its callers wait for; the agenda of all deadlines needn't.
// oxlint-disable-next-line typescript/no-explicit-any
export type AnyCaller = Caller<any>;
// oxlint-disable-next-line typescript/no-explicit-any
type AnyLine = WaitingLine<any, any>;

/**
 * One who waits. Its promise settles when it leaves the line. It carries its own links in the line and its place on the
 * agenda: a thousand callers that wait cost a thousand of these and nothing else.
 */
export class Caller<T> implements AgendaEntry {
  heapIndex = -1;
  line: AnyLine | undefined;
  previous: AnyCaller | undefined;
  next: AnyCaller | undefined;
  unlisten: (() => void) | undefined;
  readonly promise: Promise<T>;
  resolve!: (value: T) => void;
  reject!: (error: unknown) => void;

  /** `dueAt`: the monotonic time at which the caller stops waiting. */
  constructor(
    readonly dueAt: number,
    readonly signal: AbortSignal | undefined,
  ) {
    this.promise = new Promise<T>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}
