/**
 * The takers of a run: several processes, of which one may be killed, stopped or blocked; who is killed is replaced, so
 * that there are always as many.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { machineNow } from '../../bench/machine-clock.js';
import { spawnWorker, type TestWorker } from '../support/worker.js';
import { type Entry, readJournals } from './journal.js';
import type { FromTaker, TakerOptions, ToTaker } from './taker.js';
import type { Where } from './where.js';

export interface CrewOptions extends Omit<TakerOptions, 'name' | 'folder' | 'seed' | 'where'> {
  readonly processes: number;
  readonly seed: number;
  /** Where the process at a place in the crew finds Redis: each may have a way of its own. */
  readonly whereOf: (place: number) => Where;
}

const START_TIMEOUT = 60_000;

export class Crew implements AsyncDisposable {
  readonly #options: CrewOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), 'redis-lock-torture-'));
  readonly #members: Member[] = [];
  #started = 0;

  private constructor(options: CrewOptions) {
    this.#options = options;
  }

  static async start(options: CrewOptions): Promise<Crew> {
    const crew = new Crew(options);
    try {
      await Promise.all(Array.from({ length: options.processes }, (_, place) => crew.#fill(place)));
      return crew;
    } catch (error) {
      await crew[Symbol.asyncDispose]();
      throw error;
    }
  }

  get size(): number {
    return this.#options.processes;
  }

  get keys(): readonly string[] {
    return this.#options.keys;
  }

  /** Kills the process at a place (SIGKILL), now. */
  kill(place: number): void {
    void this.#at(place).worker.kill();
  }

  /** Kills the process at a place, if it isn't killed yet; another takes its place. */
  async replace(place: number): Promise<void> {
    await this.#at(place).worker.kill();
    await this.#fill(place);
  }

  nameOf(place: number): string {
    return this.#at(place).name;
  }

  pause(place: number): void {
    this.#at(place).worker.pause();
  }

  resume(place: number): void {
    this.#at(place).worker.resume();
  }

  /** Keeps a process's event loop busy for so long. */
  block(place: number, length: number): void {
    this.#at(place).worker.send({ block: length });
  }

  /** Lets all finish; answers with the names of those that hadn't ended by themselves within `patience`. */
  async stop(patience: number): Promise<string[]> {
    const deadline = machineNow() + patience;
    const left = await Promise.all(
      this.#members.map(async ({ name, worker }) => {
        worker.send('stop');
        let timer: NodeJS.Timeout | undefined;
        const late = new Promise<string>((resolve) => {
          timer = setTimeout(() => resolve(name), deadline - machineNow());
        });
        const exit = await Promise.race([worker.exited, late]);
        clearTimeout(timer);
        await worker.kill();
        return typeof exit === 'string' || exit.code !== 0 ? name : undefined;
      }),
    );
    return left.filter((name) => name !== undefined);
  }

  journals(): Map<string, Entry[]> {
    return readJournals(this.#folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#members.map(({ worker }) => worker.kill()));
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #fill(place: number): Promise<void> {
    this.#started += 1;
    const name = `${place}-${this.#started}`;
    const { processes: _, whereOf, seed, ...common } = this.#options;
    const options: TakerOptions = {
      ...common,
      name,
      folder: this.#folder,
      where: whereOf(place),
      seed: seed * 1_000 + this.#started,
    };
    const worker = spawnWorker<FromTaker, ToTaker>(new URL('./taker.ts', import.meta.url), {
      args: [JSON.stringify(options)],
    });
    this.#members[place] = { name, worker };
    await worker.next((message) => message === 'ready', START_TIMEOUT);
  }

  #at(place: number): Member {
    const member = this.#members[place];
    if (member === undefined) throw new Error(`There is no taker at ${place}.`);
    return member;
  }
}

interface Member {
  readonly name: string;
  readonly worker: TestWorker<FromTaker, ToTaker>;
}
