/** What a process sends to the server, and what the server then has of a key: as it's run, and as it's written down. */
import type { LockName } from '../../lib/core/lock-name.js';
import type { ServedBackend } from './served-backend.js';

export interface ServerCommand<R> {
  readonly what: string;
  readonly names: readonly LockName[];
  /** Whose lock it's about; of an extend, one each. */
  readonly tokens: readonly string[];
  /** Of a command that takes: true time after which its caller has given up. */
  readonly givenUpAt?: number;
  run(backend: ServedBackend): Promise<R>;
}

/** Who holds a key, or keeps it for nobody. */
export interface ServerHolder {
  readonly kind: 'held' | 'kept';
  readonly token: string;
  readonly access: string;
  readonly fence: number;
  /** By the server's clock. */
  readonly until: number;
}
