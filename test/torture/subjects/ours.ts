import { LockConfigError, LockError, LockLostError } from '../../../lib/core/errors.js';
import type { Lock } from '../../../lib/core/lock.js';
import { type AcquireOptions, Locker } from '../../../lib/core/locker.js';
import type { LockerOptions } from '../../../lib/core/options.js';
import {
  acquireGuardedScript,
  acquireScript,
  extendScript,
  releaseScript,
} from '../../../lib/core/redis/scripts.generated.js';
import { type Command, type Protocol, STEPS } from '../steps.js';
import { connectionOf, type Where } from '../where.js';
import type { Subject, SubjectClient, SubjectLock, SubjectOptions } from './subject.js';

class OurLocks implements SubjectClient {
  readonly #locker: Locker;

  constructor(
    locker: Locker,
    private readonly options: AcquireOptions,
  ) {
    this.#locker = locker;
  }

  async acquire(key: string): Promise<SubjectLock | undefined> {
    try {
      return new OurLock(await this.#locker.acquire(key, this.options));
    } catch (error) {
      if (LockError.is(error) && error.code === 'LOCK_TIMEOUT') return undefined;
      throw error;
    }
  }

  outcomeOf(error: unknown): string {
    if (!LockError.is(error)) return String(error);
    const { reason } = error as { reason?: string };
    return reason === undefined ? error.code : `${error.code} ${reason}`;
  }

  close(): Promise<void> {
    return this.#locker.close();
  }
}

class OurLock implements SubjectLock {
  readonly fencingToken: number;

  constructor(private readonly lock: Lock) {
    this.fencingToken = lock.fencingToken;
  }

  get isHeld(): boolean {
    return this.lock.isHeld;
  }

  onLost(callback: (reason: string) => void): void {
    const { signal } = this.lock;
    signal.addEventListener('abort', () => {
      const { reason } = signal;
      callback(reason instanceof LockLostError ? reason.reason : String(reason));
    });
  }

  release(): Promise<string> {
    return this.lock.release();
  }
}

/** Of the scripts that a single server is sent. */
const COMMANDS: ReadonlyMap<string, Command> = new Map([
  [acquireScript.sha1, 'acquire'],
  [acquireGuardedScript.sha1, 'acquire'],
  [extendScript.sha1, 'renewal'],
  [releaseScript.sha1, 'release'],
]);

const protocol: Protocol = {
  steps: STEPS,
  commandOf(request) {
    for (const [digest, command] of COMMANDS) if (request.includes(digest)) return command;
    return undefined;
  },
  newsOf(reply) {
    // Its fencing token alone, where nobody waits.
    if (/^(:|\$16\r\n)\d{16}\r\n/.test(reply) || reply.includes('granted')) return 'granted';
    // With its place in the queue.
    if (/busy\r\n:-?\d+\r\n:[1-9]/.test(reply)) return 'queued';
    // On the channel of its process: the token for which the key is reserved.
    return /\r\nmessage\r\n\$\d+\r\n[^\r]+\r\n\$\d+\r\n[^+! \r][^ \r]*\r\n/.test(reply)
      ? 'woken'
      : undefined;
  },
};

function variant(
  id: string,
  title: string,
  settings: string,
  promises: Subject['promises'],
  more: (options: SubjectOptions) => Partial<LockerOptions>,
): Subject {
  const optionsFor = (options: SubjectOptions): LockerOptions => ({
    connection: connectionOf(options.where),
    ttl: options.ttl,
    waitTimeout: options.waitTimeout,
    commandTimeout: options.commandTimeout,
    drainTimeout: 1,
    ...more(options),
  });
  return {
    id,
    title,
    settings,
    belief: 'while `lock.isHeld`',
    fences: true,
    promises,
    protocol,
    lacks(topology, limit) {
      try {
        // What isn't offered is refused before anything is connected.
        const [nowhere = '', ...others] = [1, 2, 3].map((port) => `redis://127.0.0.1:${port}`);
        const where: Where =
          topology === 'nodes'
            ? { kind: 'nodes', urls: [nowhere, ...others] }
            : { kind: 'single', url: nowhere };
        const options = { where, ttl: 500, waitTimeout: 500, commandTimeout: 100, lag: 0 };
        const limited = limit === undefined ? {} : { limit };
        void new Locker({ ...optionsFor(options), ...limited }).close();
        return undefined;
      } catch (error) {
        if (error instanceof LockConfigError) return error.message;
        throw error;
      }
    },
    async open(options) {
      const locker = new Locker(optionsFor(options));
      await locker.connect();
      return new OurLocks(locker, options.limit === undefined ? {} : { limit: options.limit });
    },
  };
}

export const ours = variant('ours', 'ours', 'all defaults', 'plain', () => ({}));

/** `longestTtl` and `lag` keep the waiting short; by default they are made for leases of seconds. */
export const oursGuarded = variant(
  'ours-guard',
  'ours, guard',
  'guard: true, with the longestTtl and lag of the scenario',
  'guarded',
  ({ ttl, lag }) => ({ guard: { longestTtl: ttl, lag } }),
);
