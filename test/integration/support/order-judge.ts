/**
 * Judges the order in which processes are granted a key, from what happens at the server, event by event. The head comment
 * of `order.spec.ts` says what an inversion is.
 */
export type OrderEvent =
  | {
      readonly what: 'queued';
      readonly key: string;
      readonly process: string;
      readonly token: string;
      readonly sequence: number;
    }
  | { readonly what: 'unqueued'; readonly key: string; readonly token: string }
  | {
      readonly what: 'enter' | 'leave';
      readonly key: string;
      readonly process: string;
      readonly fence: number;
    };

/** A process's place in the queue. */
interface Stand {
  readonly process: string;
  readonly sequence: number;
}

/** A stand that left the queue while the key was free, and who was ahead of it then. */
interface Departure {
  readonly process: string;
  readonly ahead: readonly Stand[];
}

class KeyJudge {
  readonly queue = new Map<string, Stand>();
  holder: string | undefined;
  lastProcess: string | undefined;
  lastFence = 0;
  /** How often in a row that process was granted the key, while others waited. */
  run = 0;
  /** Who waited when the last holder left. */
  waitedAtLeave: readonly Stand[] = [];
  departures: Departure[] = [];
}

export class OrderJudge {
  readonly #keys = new Map<string, KeyJudge>();
  /** Grants that broke exclusion, the order of fencing tokens, or that of the queue. */
  readonly overlaps: string[] = [];
  readonly fenceInversions: string[] = [];
  readonly inversions: string[] = [];
  /** Whose turn had come, but another was granted the key. */
  readonly passedOver: string[] = [];
  grants = 0;
  /** Grants to a process that had stood in the queue. */
  grantsFromQueue = 0;

  /** `longestRun`: how often in a row a process may serve its own callers while others wait. */
  constructor(private readonly longestRun: number) {}

  /** How many stand in the queues. */
  get queued(): number {
    return [...this.#keys.values()].reduce((sum, { queue }) => sum + queue.size, 0);
  }

  see(event: OrderEvent): void {
    let key = this.#keys.get(event.key);
    if (key === undefined) this.#keys.set(event.key, (key = new KeyJudge()));
    switch (event.what) {
      case 'queued':
        key.queue.set(event.token, event);
        break;
      case 'unqueued':
        this.#onUnqueued(key, event.token);
        break;
      case 'enter':
        this.#onEnter(key, event.process, event.fence, JSON.stringify(event));
        break;
      case 'leave':
        key.holder = undefined;
        key.waitedAtLeave = [...key.queue.values()];
        key.departures = [];
        break;
    }
  }

  #onUnqueued(key: KeyJudge, token: string): void {
    const stand = key.queue.get(token);
    key.queue.delete(token);
    // While the key is held nobody's turn comes: a place that is no longer needed was given up.
    if (stand === undefined || key.holder !== undefined) return;
    const ahead = [...key.queue.values()].filter(({ sequence }) => sequence < stand.sequence);
    key.departures.push({ process: stand.process, ahead });
  }

  #onEnter(key: KeyJudge, process: string, fence: number, grant: string): void {
    this.grants += 1;
    if (key.holder !== undefined) this.overlaps.push(grant);
    if (fence <= key.lastFence) this.fenceInversions.push(grant);

    const departure = key.departures.findLast((each) => each.process === process);
    if (departure !== undefined) this.grantsFromQueue += 1;
    for (const each of key.departures) {
      if (each.process !== process) this.passedOver.push(`${each.process} by ${grant}`);
    }
    const waiting = new Set(key.queue.values());
    const candidates =
      departure?.ahead ?? key.waitedAtLeave.filter((stand) => stand.process !== process);
    const jumped = candidates.filter((stand) => waiting.has(stand));
    key.run = process === key.lastProcess && jumped.length > 0 ? key.run + 1 : 1;
    if (jumped.length > 0 && (process !== key.lastProcess || key.run > this.longestRun)) {
      this.inversions.push(`${grant} before ${JSON.stringify(jumped)}`);
    }
    key.holder = process;
    key.lastProcess = process;
    key.lastFence = fence;
    key.departures = [];
  }
}
