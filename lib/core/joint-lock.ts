import type { Access } from './access.js';
import { LockConfigError, type LockLostError } from './errors.js';
import type { LeaseState } from './lease.js';
import type { HeldLock, Lock, LockReleased } from './lock.js';

/** From the best to the worst that may have become of one of several. */
const STATES: readonly LeaseState[] = ['held', 'jeopardy', 'released', 'lost'];
const RELEASES: readonly LockReleased[] = ['released', 'unconfirmed', 'lost'];

/**
 * Several locks that were taken together and count as one: held while all are, until the earliest deadline; losing one is
 * losing all. Each stands on a lease of its own, which is renewed, passed on and entered again like any other.
 */
export class JointLock implements Lock {
  #signal: AbortSignal | undefined;
  #released: Promise<LockReleased> | undefined;

  constructor(readonly parts: readonly HeldLock[]) {
    for (const part of parts) part.joint = this;
  }

  get key(): string {
    return this.keys.join(', ');
  }

  get keys(): readonly string[] {
    return this.parts.map(({ key }) => key);
  }

  get access(): Access {
    return (this.parts[0] as HeldLock).access;
  }

  get fencingToken(): number {
    const [token, ...others] = new Set(this.fencingTokens.values());
    if (others.length > 0) {
      throw new LockConfigError(
        `The keys ${this.key} have different fencing tokens, because some of them were entered again: use lock.fencingTokens.get(key).`,
      );
    }
    return token as number;
  }

  get fencingTokens(): ReadonlyMap<string, number> {
    return new Map(this.parts.map(({ key, fencingToken }) => [key, fencingToken]));
  }

  get state(): LeaseState {
    return worst(
      STATES,
      this.parts.map(({ state }) => state),
    );
  }

  get isHeld(): boolean {
    return this.parts.every(({ isHeld }) => isHeld);
  }

  get remaining(): number {
    return Math.min(...this.parts.map(({ remaining }) => remaining));
  }

  get signal(): AbortSignal {
    this.#signal ??= AbortSignal.any(this.parts.map(({ signal }) => signal));
    return this.#signal;
  }

  assertHeld(): void {
    for (const part of this.parts) part.assertHeld();
  }

  lostError(): LockLostError {
    const lost =
      this.parts.find(({ state }) => state === 'lost') ??
      this.parts.find(({ isHeld }) => !isHeld) ??
      (this.parts[0] as HeldLock);
    return lost.lostError();
  }

  async extend(): Promise<void> {
    await allOf(this.parts.map((part) => part.extend()));
  }

  async downgrade(): Promise<void> {
    // All or none: the others aren't downgraded where one can't be.
    for (const part of this.parts) part.checkDowngrade();
    await allOf(this.parts.map((part) => part.downgrade()));
  }

  release(): Promise<LockReleased> {
    this.#released ??= Promise.all(this.parts.map((part) => part.release())).then((outcomes) =>
      worst(RELEASES, outcomes),
    );
    return this.#released;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

function worst<T>(order: readonly T[], given: readonly T[]): T {
  return order[Math.max(...given.map((one) => order.indexOf(one)))] as T;
}

/** Waits for all; then throws what the first failed with. */
async function allOf(attempts: readonly Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(attempts)) {
    if (outcome.status === 'rejected') throw outcome.reason;
  }
}
