/** What a lock is for: counts who is inside, and how often somebody came in while another was. */
export class CriticalSection {
  violations = 0;
  #inside = 0;

  readonly enter = (): void => {
    this.#inside += 1;
    if (this.#inside > 1) this.violations += 1;
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
