import type { Redis } from 'ioredis';

import type { Clock } from '../clock.js';

/** A timeout that comes so many ms late came to a blocked event loop, and says nothing of the server. */
const BLOCKED = 50;

/**
 * Finds out whether a link to a server that only listens still lives: it may be dead without either side knowing. One
 * question at a time, however many ask.
 *
 *     idle ──ask──▶ asked ──answered──▶ idle
 *                     └──not in time──▶ idle, and whoever asked is told that the link is dead
 */
export class LinkCheck {
  #isUnderWay = false;

  /** `timeout`: that of the client for each of its commands, in ms. */
  constructor(
    private readonly clock: Clock,
    private readonly timeout: number,
  ) {}

  ask(client: Redis, onDead: () => void): void {
    if (this.#isUnderWay) return;
    this.#isUnderWay = true;
    const askedAt = this.clock.now();
    client
      .ping()
      .catch(() => {
        // Late only because our own event loop was blocked: the next check tells.
        if (this.clock.now() - askedAt < this.timeout + BLOCKED) onDead();
      })
      .finally(() => {
        this.#isUnderWay = false;
      });
  }
}
