import { AsyncLocalStorage } from 'node:async_hooks';

import type { HeldLock, LockKeeper } from './lock.js';
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
export function runHolding<T>(lock: HeldLock, keeper: LockKeeper, work: () => T): T {
  return storage.run({ lock, keeper, outer: storage.getStore() }, work);
}

/** The lock under which the running call was started last: of whichever keeper, and whether or not it's still held. */
export function lockOfCall(): HeldLock | undefined {
  return storage.getStore()?.lock;
}

/** The locks of a keeper that the running call was started under and that are still held, innermost first. */
export function* heldByCall(keeper: LockKeeper): Generator<HeldLock> {
  for (let link = storage.getStore(); link !== undefined; link = link.outer) {
    if (link.keeper === keeper && link.lock.isHeld) yield link.lock;
  }
}

/** Their keys. */
export function keysHeldByCall(keeper: LockKeeper): readonly string[] {
  // Most calls hold nothing: cheaper than to start the generator for those.
  if (storage.getStore() === undefined) return NO_KEYS;
  return Array.from(heldByCall(keeper), ({ key }) => key);
}

const NO_KEYS: readonly string[] = [];

/** The innermost of them on one name. */
export function heldByCallOn(keeper: LockKeeper, name: LockName): HeldLock | undefined {
  for (let link = storage.getStore(); link !== undefined; link = link.outer) {
    if (link.keeper === keeper && link.lock.lease.name.owner === name.owner && link.lock.isHeld)
      return link.lock;
  }
  return undefined;
}
