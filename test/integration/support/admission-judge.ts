/**
 * Judges who is let in, from what happens at the server, event by event. The head comment of `order-access.spec.ts` says
 * what an inversion is.
 */
export type AdmissionEvent =
  /** A token stands in the queue, at its sequence. */
  | {
      readonly what: 'queued';
      readonly key: string;
      readonly token: string;
      readonly sequence: number;
      readonly access: string;
    }
  | { readonly what: 'unqueued'; readonly key: string; readonly token: string }
  /** A token has got the key, or a place among those who share it: granted or reserved. `since`: if it says since when it waits. */
  | {
      readonly what: 'admitted';
      readonly key: string;
      readonly token: string;
      readonly access: string;
      readonly since?: number | undefined;
    }
  | { readonly what: 'left'; readonly key: string; readonly token: string }
  /** The script that wrote all this is over: only now it counts who is inside together. */
  | { readonly what: 'written'; readonly key: string };

interface Waiter {
  readonly sequence: number;
  readonly access: string;
  /** How many were let in since it came. */
  passed: number;
}

class KeyJudge {
  readonly waiting = new Map<string, Waiter>();
  /** Those that have left the queue: let in, as is to be seen next, or given up. */
  readonly gone = new Map<string, Waiter>();
  readonly inside = new Map<string, string>();
}

export class AdmissionJudge {
  readonly #keys = new Map<string, KeyJudge>();
  /** Admissions that broke exclusion or a limit, and those that broke the order of the queue. */
  readonly overlaps: string[] = [];
  readonly inversions: string[] = [];
  admissions = 0;
  admissionsFromQueue = 0;
  /** How many were inside together at most. */
  mostInside = 0;
  /** By access: how many were let in at most while one waited. */
  readonly longestWait = new Map<string, number>();

  /** How many stand in the queues. */
  get queued(): number {
    return [...this.#keys.values()].reduce((sum, { waiting }) => sum + waiting.size, 0);
  }

  see(event: AdmissionEvent): void {
    let key = this.#keys.get(event.key);
    if (key === undefined) this.#keys.set(event.key, (key = new KeyJudge()));
    if (event.what === 'written') {
      this.#onWritten(event.key, [...key.inside.values()]);
      return;
    }
    const { token } = event;
    switch (event.what) {
      case 'queued':
        key.waiting.set(token, { sequence: event.sequence, access: event.access, passed: 0 });
        break;
      case 'unqueued': {
        const waiter = key.waiting.get(token);
        if (waiter !== undefined) key.gone.set(token, waiter);
        key.waiting.delete(token);
        break;
      }
      case 'admitted':
        // Claiming what was reserved, renewing: it's inside already.
        if (!key.inside.has(token)) this.#onAdmitted(key, event);
        break;
      case 'left':
        key.inside.delete(token);
        break;
    }
  }

  #onAdmitted(key: KeyJudge, event: Extract<AdmissionEvent, { readonly what: 'admitted' }>): void {
    const { token, access } = event;
    const stood = key.gone.get(token) ?? key.waiting.get(token);
    key.gone.delete(token);
    key.waiting.delete(token);
    this.admissions += 1;
    if (stood !== undefined) {
      this.admissionsFromQueue += 1;
      this.longestWait.set(access, Math.max(stood.passed, this.longestWait.get(access) ?? 0));
    }
    // Who has never stood there, is behind all that do.
    const sequence = stood?.sequence ?? event.since ?? Number.POSITIVE_INFINITY;
    const jumped = [...key.waiting].filter(([, waiter]) => waiter.sequence < sequence);
    if (jumped.length > 0) {
      this.inversions.push(`${JSON.stringify(event)} before ${JSON.stringify(jumped)}`);
    }
    for (const waiter of key.waiting.values()) waiter.passed += 1;
    key.inside.set(token, access);
  }

  #onWritten(key: string, inside: readonly string[]): void {
    this.mostInside = Math.max(this.mostInside, inside.length);
    const [access = 'shared', ...others] = inside;
    const most = access === 'exclusive' ? 1 : Number(/^limit:(\d+)$/.exec(access)?.[1] ?? Infinity);
    if (inside.length > most || others.some((other) => other !== access)) {
      this.overlaps.push(`${key}: ${JSON.stringify(inside)}`);
    }
  }
}
