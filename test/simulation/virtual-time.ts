/**
 * The one true time of a simulation, in ms. What is to happen stands in a heap and happens in order, each event with all
 * the promises that it settles before the next: an hour takes no longer than what happens in it.
 *
 *     const time = new VirtualTime(() => { ... looks at the world between two events ... });
 *     await time.drive(async () => { await time.sleep(1_000); ... });
 */
export class VirtualTime {
  #now = 0;
  #count = 0;
  readonly #heap: VirtualEvent[] = [];

  /** `between`: called when everything that an event has caused at its moment is over. */
  constructor(private readonly between: () => void = () => {}) {}

  get now(): number {
    return this.#now;
  }

  /** How many events there have been. */
  get count(): number {
    return this.#count;
  }

  at(time: number, work: () => void): void {
    this.#count += 1;
    const event = { at: Math.max(time, this.#now), order: this.#count, work };
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(event, heap[parent] as VirtualEvent)) break;
      heap[index] = heap[parent] as VirtualEvent;
      index = parent;
    }
    heap[index] = event;
  }

  sleep(duration: number): Promise<void> {
    return new Promise((resolve) => this.at(this.#now + duration, resolve));
  }

  /** Lets time pass until the story has ended. @throws what the story throws, and where nothing is left to happen. */
  drive<T>(story: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      let ended = false;
      const step = () => {
        try {
          this.between();
          if (ended) return;
          const next = this.#take();
          if (next === undefined) throw new Error('Nothing is left that could end the simulation.');
          this.#now = next.at;
          next.work();
        } catch (error) {
          ended = true;
          reject(error as Error);
          return;
        }
        // Between two of them, Node runs every microtask there is.
        setImmediate(step);
      };
      story().then(
        (value) => {
          ended = true;
          resolve(value);
        },
        (error: unknown) => {
          ended = true;
          reject(error as Error);
        },
      );
      setImmediate(step);
    });
  }

  #take(): VirtualEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, heap[child] as VirtualEvent)) child += 1;
      if (!isBefore(heap[child] as VirtualEvent, last)) break;
      heap[index] = heap[child] as VirtualEvent;
      index = child;
    }
    heap[index] = last;
    return first;
  }
}

interface VirtualEvent {
  readonly at: number;
  /** Of two at one time, the one that was asked for first comes first. */
  readonly order: number;
  readonly work: () => void;
}

function isBefore(a: VirtualEvent, b: VirtualEvent): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
