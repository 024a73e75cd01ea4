/**
 * What a taker writes down while it lives, on the monotonic clock of the machine: one file for each process, one line for
 * each entry, written at once, so that a kill loses no more than the line under way.
 */
import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

export type Entry =
  /** A caller has asked for a key; its `call` says when it was answered. */
  | { readonly what: 'asked'; readonly ask: string; readonly key: string; readonly at: number }
  /** From now on it believes that it holds a key by what it asked. */
  | {
      readonly what: 'held';
      readonly id: string;
      readonly ask: string;
      readonly key: string;
      readonly fence: number | undefined;
      readonly at: number;
    }
  /** It still does; written now and then, for those that are killed. */
  | { readonly what: 'still'; readonly id: string; readonly at: number }
  /** It has believed it up to here. */
  | { readonly what: 'ended'; readonly id: string; readonly at: number }
  /** It was told that it lost the key; `late`: by how much the event loop was behind around then, in ms. */
  | {
      readonly what: 'told';
      readonly id: string;
      readonly at: number;
      readonly reason: string;
      readonly late: number;
    }
  /** A call has ended; `stalled`: the process stood still for part of it. */
  | {
      readonly what: 'call';
      readonly call: 'acquire' | 'release';
      /** Of an acquire: which one. */
      readonly ask?: string | undefined;
      readonly outcome: string;
      readonly at: number;
      readonly took: number;
      readonly stalled: boolean;
    }
  /** An error that nobody could catch, and that would have ended a process which doesn't listen for it. */
  | { readonly what: 'unhandled'; readonly error: string; readonly at: number };

export class Journal {
  readonly #file: number;

  constructor(path: string) {
    this.#file = openSync(path, 'a');
  }

  write(entry: Entry): void {
    writeSync(this.#file, `${JSON.stringify(entry)}\n`);
  }
}

/** The entries of all processes that wrote into a folder, each with the name of its process. */
export function readJournals(folder: string): Map<string, Entry[]> {
  return new Map(
    readdirSync(folder).map((file) => [
      file.replace(/\.jsonl$/, ''),
      readFileSync(join(folder, file), 'utf8')
        .split('\n')
        // The last may have been cut off by a kill.
        .filter((line) => line.endsWith('}'))
        .map((line) => JSON.parse(line) as Entry),
    ]),
  );
}
