/**
 * What a machine that loses its power leaves of an append-only file. A killed process leaves everything that it wrote,
 * since the system still has it; what is lost with the power is what wasn't synced: with `appendfsync everysec` that of
 * up to the last second. So the file's size is looked at all the time, and the file cut to what it was.
 */
import { readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { machineNow } from '../../../bench/machine-clock.js';

const LOOK_EVERY = 20;
const REMEMBERED = 1_200;

export class AppendOnlyFile implements Disposable {
  readonly #folder: string;
  readonly #timer: NodeJS.Timeout;
  #sizes: { readonly at: number; readonly file: string; readonly size: number }[] = [];

  /** `folder`: where the server keeps its files. */
  constructor(folder: string) {
    this.#folder = join(folder, 'appendonlydir');
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY);
    this.#timer.unref();
  }

  /** While the server is down: takes from it what was written within the last `ms`. Answers with how many bytes. */
  lose(ms: number): number {
    const file = this.#file();
    if (file === undefined) return 0;
    const now = machineNow();
    const kept = this.#sizes.findLast((look) => look.file === file && now - look.at >= ms);
    // Looked at for a shorter time than that: all it has was written meanwhile, but for its head.
    const first = this.#sizes.find((look) => look.file === file);
    const size = (kept ?? first)?.size;
    if (size === undefined) return 0;
    const lost = statSync(file).size - size;
    truncateSync(file, size);
    this.#sizes = [];
    return lost;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const file = this.#file();
    if (file === undefined) return;
    const at = machineNow();
    this.#sizes = this.#sizes.filter((look) => at - look.at < REMEMBERED);
    this.#sizes.push({ at, file, size: statSync(file).size });
  }

  /** The part to which the server appends. */
  #file(): string | undefined {
    let names: string[] = [];
    try {
      names = readdirSync(this.#folder);
    } catch {
      // There's none yet.
    }
    const name = names
      .filter((each) => each.endsWith('.incr.aof'))
      .toSorted()
      .at(-1);
    return name === undefined ? undefined : join(this.#folder, name);
  }
}
