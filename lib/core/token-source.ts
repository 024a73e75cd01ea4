import { randomBytes, randomFillSync } from 'node:crypto';

const RANDOM_BYTES = 12;
const POOL_BYTES = 512 * RANDOM_BYTES;

/**
 * Makes the tokens under which a process takes locks: `<process>.<random>`, each half 72 and 96 random bits. Nobody else
 * can guess one, and none is ever made twice, so that a token alone says whose a lease is.
 */
export class TokenSource {
  readonly #process = randomBytes(9).toString('base64url');
  // Drawn in one go: to ask the system for a few bytes at a time costs more than all else about a token.
  readonly #pool = Buffer.alloc(POOL_BYTES);
  #used = POOL_BYTES;

  next(): string {
    if (this.#used === POOL_BYTES) {
      randomFillSync(this.#pool);
      this.#used = 0;
    }
    const start = this.#used;
    this.#used += RANDOM_BYTES;
    return `${this.#process}.${this.#pool.toString('base64url', start, this.#used)}`;
  }
}
