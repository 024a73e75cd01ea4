/**
 * What a lock is for: counts who is inside, how often somebody came in while another was, and how often with a fencing
 * token that wasn't larger than the last. Where nothing is done inside, two can't meet in one process, so that there only
 * the tokens tell.
 */
export class CriticalSection {
  violations = 0;
  #inside = 0;
  #lastToken = 0;

  readonly enter = (fencingToken?: number): void => {
    this.#inside += 1;
    if (this.#inside > 1) this.violations += 1;
    if (fencingToken === undefined) return;
    if (fencingToken <= this.#lastToken) this.violations += 1;
    this.#lastToken = fencingToken;
  };

  readonly leave = (): void => {
    this.#inside -= 1;
  };

  /** For work that takes no time. */
  readonly pass = (): void => {
    this.enter();
    this.leave();
  };
}
