import { LockKeyError } from './errors.js';

/** Keys may come from request data: an unbounded one would be a way to fill Redis' memory. */
export const LONGEST_KEY_BYTES = 512;

/** Each run of a job holds a lock under a prefix of its own; see run-once.ts. */
const RUN = /:run:[\w-]{12}$/;

/** The server does nothing else while one script takes all of them. */
const MOST_KEYS = 1_000;

/**
 * What to lock: a key, or several, all or none of them. Several are taken in one order everywhere, whatever order they
 * are given in, so that two who want the same ones don't wait for each other; one that is given twice counts once; at most 1,000.
 */
export type LockKeys = string | readonly string[];

/**
 * The Redis keys of one lock. Everything of a lock shares the hash tag `{…}`, so that a Cluster keeps it in one slot.
 *
 * Two different pairs of prefix and key never share a Redis key: a prefix has no braces, and in the key `%`, `{` and
 * `}` are escaped, so the first `{` ends the prefix and the only `}` ends the key.
 */
export class LockName {
  /** What the caller calls the lock. */
  readonly key: string;
  /** Who holds it, for whom it's reserved, and the last fencing token: a string with an expiry. */
  readonly owner: string;

  private constructor(key: string, owner: string) {
    this.key = key;
    this.owner = owner;
  }

  /**
   * @throws LockKeyError where the key is no string, is empty, has more than 512 bytes in UTF-8, or holds half of a
   * surrogate pair (all of which UTF-8 writes alike, so two keys would become one).
   */
  static of(prefix: string, key: string): LockName {
    if (typeof key !== 'string') {
      throw new LockKeyError(
        `A lock key is a non-empty string, got ${key === null ? 'null' : typeof key}. Build it from scalar values.`,
      );
    }
    if (key === '')
      throw new LockKeyError('A lock key is a non-empty string, got an empty one.', key);
    // A UTF-16 unit is at most three bytes, so that most keys needn't be measured.
    if (key.length * 3 > LONGEST_KEY_BYTES && Buffer.byteLength(key) > LONGEST_KEY_BYTES) {
      throw new LockKeyError(
        `A lock key has at most ${LONGEST_KEY_BYTES} bytes, got ${Buffer.byteLength(key)}. Use an id or a hash instead of the whole value.`,
        key,
      );
    }
    if (!key.isWellFormed()) {
      throw new LockKeyError(
        'A lock key is well-formed Unicode, got one with half of a surrogate pair.',
        key,
      );
    }
    return new LockName(key, `${prefix}:{${escape(key)}}`);
  }

  /** The name whose `owner` this is under the prefix; `undefined` where it's none of ours. */
  static ofOwner(prefix: string, owner: string): LockName | undefined {
    const start = `${prefix}:{`;
    if (!owner.startsWith(start) || !owner.endsWith('}')) return undefined;
    const escaped = owner.slice(start.length, -1);
    const key = unescape(escaped);
    const isOurs =
      key !== '' &&
      escape(key) === escaped &&
      key.isWellFormed() &&
      Buffer.byteLength(key) <= LONGEST_KEY_BYTES;
    return isOurs ? new LockName(key, owner) : undefined;
  }

  /** A part of a key as it's written in the Redis keys. */
  static escaped(part: string): string {
    return escape(part);
  }

  /** The name whose `owner` this is, whatever its prefix. */
  static ofAnyOwner(owner: string): LockName {
    return new LockName(unescape(owner.slice(owner.indexOf(':{') + 2, -1)), owner);
  }

  /**
   * Each of several once, in the order in which everybody takes them.
   * @throws LockKeyError for an empty list, or where one of them can't name a lock.
   */
  static ofAll(prefix: string, keys: readonly string[]): readonly LockName[] {
    if (keys.length === 0) {
      throw new LockKeyError('Expected at least one lock key, got an empty list.');
    }
    if (keys.length > MOST_KEYS) {
      throw new LockKeyError(
        `Expected at most ${MOST_KEYS} lock keys at once, got ${keys.length}. Lock what they have in common, or some at a time.`,
      );
    }
    const names = new Map<string, LockName>();
    for (const key of keys) {
      const name = LockName.of(prefix, key);
      names.set(name.owner, name);
    }
    return [...names.values()].toSorted((a, b) => (a.owner < b.owner ? -1 : 1));
  }

  /** Who waits, in order: a sorted set of tokens by sequence. */
  get queue(): string {
    return `${this.owner}:q`;
  }

  /** What its holder waits for, where that has lasted for long: a string with an expiry. */
  get blocked(): string {
    return `${this.owner}:b`;
  }

  /** What is known of each waiter: a hash from token to how long it lives and how to wake it. */
  get waiters(): string {
    return `${this.owner}:w`;
  }

  /** What is known of the runs, where it's a job's: a hash from token to record. */
  get runs(): string {
    return `${this.owner}:runs`;
  }

  /** The same on one of several independent nodes: what was proposed about the runs, a hash with an expiry. */
  get proposals(): string {
    return `${this.owner}:proposals`;
  }
}

/** The prefix of the lock of one run: `id` has 12 characters of base64url. */
export function runPrefix(prefix: string, id: string): string {
  return `${prefix}:run:${id}`;
}

/** The prefix that was given for a lock: without what tells the runs of jobs apart. */
export function givenPrefix(prefix: string): string {
  return prefix.replace(RUN, '');
}

function escape(key: string): string {
  if (!/[%{}]/.test(key)) return key;
  return key.replace(/[%{}]/g, (character) =>
    character === '%' ? '%25' : character === '{' ? '%7B' : '%7D',
  );
}

function unescape(escaped: string): string {
  if (!escaped.includes('%')) return escaped;
  return escaped.replace(/%(25|7B|7D)/g, (_, code) =>
    code === '25' ? '%' : code === '7B' ? '{' : '}',
  );
}
