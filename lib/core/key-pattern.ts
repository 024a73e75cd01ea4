import { LockKeyError } from './errors.js';
import { LONGEST_KEY_BYTES } from './lock-name.js';

const ANY_TEXT = Symbol('*');
const ANY_CHARACTER = Symbol('?');

type Part = string | typeof ANY_TEXT | typeof ANY_CHARACTER;

/**
 * Which keys are meant: a glob of `*` (any text, also none) and `?` (any one character). A backslash takes the next
 * character literally, and everything else stands for itself.
 *
 * Matched here and not by Redis, whose `?` is one byte of a key that was escaped, and whose time for many `*` grows
 * without bound. Redis is only asked for what begins and ends alike (`head`, `tail`).
 */
export class KeyPattern {
  /** The one key it can match, where it has neither `*` nor `?`. */
  readonly exact: string | undefined;
  /** What every key that it matches begins with. */
  readonly head: string;
  /** What every key that it matches ends with, behind the head. */
  readonly tail: string;
  readonly #parts: readonly Part[];

  private constructor(parts: readonly Part[]) {
    const isText = (part: Part): part is string => typeof part === 'string';
    const first = parts.findIndex((part) => !isText(part));
    const last = parts.findLastIndex((part) => !isText(part));
    this.#parts = parts;
    this.exact = first < 0 ? parts.join('') : undefined;
    this.head = (first < 0 ? parts : parts.slice(0, first)).join('');
    this.tail = first < 0 ? '' : parts.slice(last + 1).join('');
  }

  /**
   * @throws LockKeyError where it's no string, is empty, has more than 512 bytes in UTF-8, holds half of a surrogate
   * pair, or ends with a lone backslash.
   */
  static of(pattern: string): KeyPattern {
    if (typeof pattern !== 'string' || pattern === '') {
      throw new LockKeyError(
        `A pattern of lock keys is a non-empty string such as 'order:*', got ${
          pattern === '' ? 'an empty one' : pattern === null ? 'null' : typeof pattern
        }. For all keys, leave it out.`,
      );
    }
    if (Buffer.byteLength(pattern) > LONGEST_KEY_BYTES || !pattern.isWellFormed()) {
      throw new LockKeyError(
        `A pattern of lock keys is well-formed Unicode of at most ${LONGEST_KEY_BYTES} bytes, as keys are. Shorten it with '*'.`,
        pattern,
      );
    }
    const parts: Part[] = [];
    let escaped = false;
    for (const character of pattern) {
      if (escaped) {
        parts.push(character);
        escaped = false;
      } else if (character === '\\') {
        escaped = true;
      } else if (character === '*') {
        if (parts.at(-1) !== ANY_TEXT) parts.push(ANY_TEXT);
      } else {
        parts.push(character === '?' ? ANY_CHARACTER : character);
      }
    }
    if (escaped) {
      throw new LockKeyError(
        'A pattern of lock keys ends with a backslash that has nothing to take literally. For a backslash, write two.',
        pattern,
      );
    }
    return new KeyPattern(parts);
  }

  /** In time that grows with the product of both lengths at most: either may come from a request. */
  matches(key: string): boolean {
    const parts = this.#parts;
    const characters = Array.from(key);
    let [at, part] = [0, 0];
    // Where to go on if what was tried last fails: the last `*` takes one character more.
    let [star, resumeAt] = [-1, 0];
    while (at < characters.length) {
      const wanted = parts[part];
      if (wanted === ANY_TEXT) {
        star = part;
        resumeAt = at;
        part += 1;
      } else if (wanted === ANY_CHARACTER || (wanted !== undefined && wanted === characters[at])) {
        at += 1;
        part += 1;
      } else if (star >= 0) {
        resumeAt += 1;
        at = resumeAt;
        part = star + 1;
      } else {
        return false;
      }
    }
    if (parts[part] === ANY_TEXT) part += 1;
    return part === parts.length;
  }
}

/** What names every key. */
export const EVERY_KEY = KeyPattern.of('*');
