import { LockConfigError } from '../errors.js';
import type { RunStore } from './run-store.js';

/**
 * Runs of jobs aren't recorded on several independent nodes: the history of a job is one sequence of steps, each of which
 * depends on all before, and nodes that each missed some of them have no common one.
 */
export class QuorumRunStore implements RunStore {
  claim(): Promise<never> {
    return refused();
  }

  abandon(): Promise<never> {
    return refused();
  }

  finish(): Promise<never> {
    return refused();
  }

  names(): Promise<never> {
    return refused();
  }

  list(): Promise<never> {
    return refused();
  }
}

function refused(): Promise<never> {
  return Promise.reject(
    new LockConfigError(
      'Runs of jobs (runOnce, runs) need one Redis: their history is one sequence, which several independent nodes would each keep in part. Use an instance of the module with a `connection` to one Redis for them, or a lock with `holdAtLeast`.',
      'connection',
    ),
  );
}
