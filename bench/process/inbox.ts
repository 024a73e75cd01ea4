/** The messages that our parent process sends, one after the other. */
export class Inbox {
  readonly #received: unknown[] = [];
  #onNews: (() => void) | undefined;

  constructor() {
    process.on('message', (message) => {
      this.#received.push(message);
      this.#onNews?.();
    });
    // Without a parent there's nobody to measure for.
    process.on('disconnect', () => process.exit(1));
  }

  async next<M>(): Promise<M> {
    while (this.#received.length === 0) {
      await new Promise<void>((resolve) => {
        this.#onNews = resolve;
      });
    }
    return this.#received.shift() as M;
  }
}
