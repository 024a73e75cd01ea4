/** The report is written every second, for as long as somebody lets the shop stand open. */
export const LONGEST_LIST = 10_000;

/**
 * Where the shop keeps its records: what all replicas read and write. It knows nothing of locks and protects nobody
 * from another, except `writeFenced`, which refuses who comes too late.
 */
export abstract class Store {
  abstract read(name: string): Promise<string | undefined>;
  abstract write(name: string, value: string): Promise<void>;
  abstract remove(name: string): Promise<void>;

  /** Keeps the newest {@link LONGEST_LIST}. */
  abstract append(name: string, entry: string): Promise<void>;
  abstract entries(name: string): Promise<string[]>;

  abstract readFenced(name: string): Promise<FencedRecord | undefined>;
  /**
   * Writes unless a larger fencing token has written before: its owner came later, so the writer has lost its lock,
   * whether it knows that or not. Look and write are one step. `false`: refused, nothing is changed.
   */
  abstract writeFenced(name: string, record: FencedRecord): Promise<boolean>;
}

/** A value, and the fencing token under which it was written. */
export interface FencedRecord {
  readonly value: string;
  readonly fence: number;
}
