import { isNativeError } from 'node:util/types';

import { Logger } from '@nestjs/common';

import type { ForcedBy } from '../core/errors.js';
import type { GuardReason } from '../core/events.js';
import type { Locker } from '../core/locker.js';
import { type Diagnosis, findingLine } from '../core/safety.js';

/** Trouble that comes with every lease of an outage is told once in so long, in ms; the rest goes to `debug`. */
const QUIET = 10_000;

/**
 * What the application's log is told of an instance's locks: an outage when it begins and ends, each lock that was
 * lost (its work may have overlapped with another's), and that renewals or releases fail.
 *
 * Keys may come from requests, so they're written as JSON: no line break of theirs begins a line of the log.
 */
export class LockLog {
  readonly #logger: Logger;
  readonly #lastWarnings = new Map<string, number>();
  #outageTold = false;

  constructor(locker: Locker, name: string | undefined) {
    this.#logger = new Logger(name === undefined ? 'RedisLock' : `RedisLock(${name})`);
    locker.on('unavailable', ({ error }) => {
      this.#outageTold = true;
      this.#logger.warn(
        `Redis can't be reached; calls that need a lock fail until it is back. ${described(error.cause)}`,
      );
    });
    locker.on('available', () => {
      this.#logger.log('Redis is reachable again.');
    });
    locker.on('guarded', ({ remaining, why, node }) => {
      const server = node === undefined ? 'The Redis server' : `The Redis node ${node}`;
      this.#logger.warn(
        `${server} may have forgotten locks that are still held (${GUARDED_BECAUSE[why]}); it grants no new ones for ${Math.ceil(remaining / 1_000)} s.`,
      );
    });
    locker.on('lost', ({ key, fencingToken, reason, by }) => {
      const how = by === undefined ? reason : `${reason} by ${told(by)}`;
      this.#logger.error(
        `The lock ${JSON.stringify(key)} (fencing token ${fencingToken}) was lost: ${how}. Its work may overlap with another's.`,
      );
    });
    locker.on('forced', ({ key, held, by: { reason } }) => {
      const holders = held.map(
        ({ fencingToken, ...holder }) => `${told(holder)} (fencing token ${fencingToken})`,
      );
      this.#logger.warn(
        `The lock ${JSON.stringify(key)} was released by force from ${holders.join(', ')}${reason === undefined ? '' : `: ${JSON.stringify(reason)}`}.`,
      );
    });
    locker.on('jeopardy', ({ key, remaining, cause }) => {
      this.#warnSeldom(
        'jeopardy',
        `The lock ${JSON.stringify(key)} could not be renewed yet; it's held for another ${Math.round(remaining)} ms. ${described(cause)}`,
      );
    });
    locker.on('releaseFailed', ({ key, cause }) => {
      this.#warnSeldom(
        'releaseFailed',
        `The release of the lock ${JSON.stringify(key)} could not be confirmed; it's retried, and the key is free after its ttl at the latest. ${described(cause)}`,
      );
    });
  }

  unreachableAtBoot(): void {
    // Where the connection was refused, the event has already said so.
    if (this.#outageTold) return;
    this.#logger.warn("Redis can't be reached; calls that need a lock fail until it is there.");
  }

  /**
   * How safe the locks are with these servers and options: a line where all is well, one for each weakness otherwise. What
   * no setting closes, the doctor tells those who ask.
   */
  async tellSafety(locker: Locker): Promise<void> {
    let diagnosis: Diagnosis;
    try {
      diagnosis = await locker.diagnose();
    } catch (error) {
      // The outage is told of by its own event.
      this.#logger.debug(`How safe the locks are isn't known. ${described(error)}`);
      return;
    }
    const { level, layout, servers } = diagnosis;
    if (layout === 'memory') {
      this.#logger.log(
        'Locks are in the memory of this process, and exclude nobody outside of it.',
      );
      return;
    }
    if (level === 'strict') {
      const where = servers.length === 1 ? 'on the server' : `on all ${servers.length} servers`;
      this.#logger.log(`Locks keep P1 to P3 over restart, failover and eviction ${where}.`);
      return;
    }
    for (const finding of diagnosis.findings) {
      // A server words its refusals itself.
      const line = findingLine(finding).replace(/\p{Cc}/gu, ' ');
      if (finding.severity === 'unknown') this.#logger.log(line);
      else if (finding.severity !== 'advice') this.#logger.warn(line);
    }
  }

  #warnSeldom(kind: string, message: string): void {
    const now = performance.now();
    const last = this.#lastWarnings.get(kind);
    if (last !== undefined && now - last < QUIET) {
      this.#logger.debug(message);
    } else {
      this.#lastWarnings.set(kind, now);
      this.#logger.warn(message);
    }
  }
}

const GUARDED_BECAUSE: Record<GuardReason, string> = {
  'no-record': 'it has no record of its guard: it is new, or its data was lost',
  'other-server': 'it restarted, or is a replica that was promoted',
  'older-data': 'it is an older master, back with its old data',
};

/** Who it is. All but the pid is what another process says of itself. */
function told({ host, pid, application, reason }: Partial<ForcedBy>): string {
  const process = `process ${pid} on ${JSON.stringify(host)}`;
  const named = application === undefined ? process : `${JSON.stringify(application)}, ${process}`;
  return reason === undefined ? named : `${named}: ${JSON.stringify(reason)}`;
}

function described(cause: unknown): string {
  // Node's own errors aren't `instanceof` the Error of a test runner's sandbox.
  return isNativeError(cause) ? `Cause: ${cause.message || cause.name}` : '';
}
