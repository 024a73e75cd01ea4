import type { NamesOutcome, Unavailable } from '../backend/lock-backend.js';
import type { KeyPattern } from '../key-pattern.js';
import { LockName } from '../lock-name.js';
import type { Connection } from './connection.js';

/**
 * What shows that a name is in use, as the type of a Redis key and what its key ends with: an owner record, or a queue,
 * which may outlive the record for a moment. One of another type is no lock of ours.
 */
export const SIGNS_OF_LOCKS = [
  ['string', ''],
  ['zset', ':q'],
] as const;

/** The same for a job: its runs. */
export const SIGNS_OF_RUNS = [['hash', ':runs']] as const;

/** The same for a job on one of several independent nodes: what was proposed about its runs. */
export const SIGNS_OF_PROPOSALS = [['hash', ':proposals']] as const;

/**
 * Finds the names in use under a prefix by walking through the keys of every node with SCAN: the server goes on with
 * its work in between. A name that is in use for all of the walk is found; one that comes or goes meanwhile may be.
 */
export async function scanNames(
  connection: Connection,
  keyPrefix: string,
  prefix: string,
  pattern: KeyPattern,
  signs: readonly (readonly [type: 'string' | 'zset' | 'hash', suffix: string])[],
): Promise<NamesOutcome> {
  const connected = await connection.connect();
  if (connected.kind === 'unavailable') return connected;
  const { masters } = connection;
  if (masters.length === 0) {
    const cause = new Error('No master is known.');
    return { kind: 'unavailable', reason: 'unreachable', cause, mayHaveRun: false };
  }
  const names = new Map<string, LockName>();
  let failure: Unavailable | undefined;
  const walks = masters.flatMap((node) =>
    signs.map(async ([type, suffix]) => {
      const match = globOf(keyPrefix, prefix, pattern, suffix);
      let cursor = '0';
      do {
        const outcome = await connection.scan(node, cursor, match, type);
        if (outcome.kind === 'unavailable') {
          failure ??= outcome;
          return;
        }
        const [next, keys] = outcome.reply;
        cursor = next;
        for (const key of keys) {
          const owner = key.slice(keyPrefix.length, key.length - suffix.length);
          const name = LockName.ofOwner(prefix, owner);
          if (name !== undefined && pattern.matches(name.key)) names.set(owner, name);
        }
        // What another node knows is worth nothing without this one's, and the other way round.
      } while (cursor !== '0' && failure === undefined);
    }),
  );
  await Promise.all(walks);
  return failure ?? { kind: 'names', names: [...names.values()] };
}

/** For SCAN, a pattern that matches at least the keys that are meant. */
function globOf(keyPrefix: string, prefix: string, pattern: KeyPattern, suffix: string): string {
  const [head, tail] = [pattern.head, pattern.tail].map((part) =>
    literally(LockName.escaped(part)),
  );
  const middle = pattern.exact === undefined ? '*' : '';
  return `${literally(`${keyPrefix}${prefix}:{`)}${head}${middle}${tail}}${suffix}`;
}

/** A text as Redis' globs take it literally. */
function literally(text: string): string {
  return text.replace(/[*?[\]\\]/g, '\\$&');
}
