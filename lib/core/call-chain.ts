import { AsyncLocalStorage } from 'node:async_hooks';

import type { JointLock } from './joint-lock.js';
import { HeldLock, type Lock, type LockKeeper } from './lock.js';
import type { LockName } from './lock-name.js';

/**
 * Which locks the running call has been started under, innermost first. It says what was *inherited*, which isn't
 * what is *held*: a call may outlive the lock it was started under, so every reader asks the lock itself.
 */
interface CallChain {
  readonly lock: HeldLock;
  readonly keeper: LockKeeper;
  readonly outer: CallChain | undefined;
}

const storage = new AsyncLocalStorage<CallChain>();

/** Runs a function, and all that it starts, as the work of a lock's holder. */
export function runHolding<T>(lock: HeldLock | JointLock, keeper: LockKeeper, work: () => T): T {
  let chain = storage.getStore();
  for (const part of lock instanceof HeldLock ? [lock] : lock.parts) {
    chain = { lock: part, keeper, outer: chain };
  }
  return storage.run(chain as CallChain, work);
}

/** The lock under which the running call was started last: of whichever keeper, and whether or not it's still held. */
export function lockOfCall(): Lock | undefined {
  const lock = storage.getStore()?.lock;
  return lock?.joint ?? lock;
}

/** The locks of a keeper that the running call was started under and that are still held, innermost first. */
export function* heldByCall(keeper: LockKeeper): Generator<HeldLock> {
  for (let link = storage.getStore(); link !== undefined; link = link.outer) {
    if (link.keeper === keeper && link.lock.isHeld) yield link.lock;
  }
}

/** The same at once. */
export function locksHeldByCall(keeper: LockKeeper): readonly HeldLock[] {
  // Most calls hold nothing: cheaper than to start the generator for those.
  return storage.getStore() === undefined ? NO_LOCKS : [...heldByCall(keeper)];
}

const NO_LOCKS: readonly HeldLock[] = [];

/** The innermost of them on one name. */
export function heldByCallOn(keeper: LockKeeper, name: LockName): HeldLock | undefined {
  for (let link = storage.getStore(); link !== undefined; link = link.outer) {
    if (link.keeper === keeper && link.lock.lease.name.owner === name.owner && link.lock.isHeld)
      return link.lock;
  }
  return undefined;
}
