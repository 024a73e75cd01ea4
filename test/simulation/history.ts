/**
 * What happened in a simulation, by true time: what the server granted and took away, what holders believed, how calls
 * ended. And, line by line, the trace, where somebody wants to read it.
 */
import type { LockName } from '../../lib/core/lock-name.js';
import type { ProcessLoop } from './process-loop.js';
import type { ServerCommand, ServerHolder } from './server-command.js';

export type ServerEvent =
  /** `raised`: it held the key already, and got a larger fencing token. */
  | {
      readonly kind: 'granted' | 'raised';
      readonly at: number;
      readonly process: string;
      readonly key: string;
      readonly token: string;
      readonly access: string;
      readonly fence: number;
    }
  /** Taken from its holder by `forceRelease`. */
  | {
      readonly kind: 'forced';
      readonly at: number;
      readonly key: string;
      readonly token: string;
    }
  | { readonly kind: 'data lost'; readonly at: number };

/** A stretch of true time in which a holder would have said that it holds a key. */
export interface Belief {
  readonly process: string;
  readonly loop: ProcessLoop;
  readonly key: string;
  readonly token: string;
  readonly fence: number;
  readonly access: string;
  readonly ttl: number;
  readonly from: number;
  to: number;
  /** `deadline`: its time was up. `ended`: released, lost, or downgraded. */
  end: 'open' | 'deadline' | 'ended' | 'killed';
  /** When its signal aborted. */
  abortedAt: number | undefined;
  /** Whether it had a signal to abort. */
  readonly watched: boolean;
}

/** A call of the library that's bounded. */
export interface Call {
  readonly process: string;
  readonly loop: ProcessLoop;
  readonly what: string;
  readonly from: number;
  /** In local ms. */
  readonly bound: number;
  to: number | undefined;
  outcome: string;
}

export class History {
  readonly events: ServerEvent[] = [];
  readonly beliefs: Belief[] = [];
  readonly calls: Call[] = [];
  /** What was seen to be wrong at once. */
  readonly violations: string[] = [];
  /** How often what happened, beside faults. */
  readonly counts: Record<string, number> = {};
  /** Which process has sent a token. */
  readonly processOf = new Map<string, string>();
  readonly #names = new Map<string, string>();

  constructor(
    private readonly now: () => number,
    private readonly write: ((line: string) => void) | undefined,
  ) {}

  get isTraced(): boolean {
    return this.write !== undefined;
  }

  trace(describe: () => string): void {
    this.write?.(`${this.now().toFixed(2).padStart(10)} ${describe()}`);
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  add(event: ServerEvent): void {
    this.events.push(event);
    this.trace(() => `server: ${event.kind}`);
  }

  violate(what: string): void {
    this.violations.push(`at ${this.now().toFixed(2)}: ${what}`);
    this.trace(() => `VIOLATION ${what}`);
  }

  /** Tokens are random; their names in the trace aren't. */
  nameOf(token: string): string {
    let name = this.#names.get(token);
    if (name === undefined) this.#names.set(token, (name = `t${this.#names.size + 1}`));
    return name;
  }

  /** What a command did to the holders of one of its keys. */
  tellChange(
    at: number,
    process: string,
    command: ServerCommand<unknown>,
    { key }: LockName,
    before: readonly ServerHolder[],
    after: readonly ServerHolder[],
  ): void {
    const { what, tokens, givenUpAt } = command;
    const isForced = what === 'forceRelease';
    for (const token of tokens) this.processOf.set(token, process);
    this.trace(
      () =>
        `server: ${process} ${what} ${key} ${tokens.map((one) => this.nameOf(one)).join(' ')} -> [${after
          .map((one) => `${this.nameOf(one.token)} ${one.access} ${one.kind} ${one.fence}`)
          .join(', ')}]`,
    );
    for (const holder of after) {
      const known = before.find(({ token }) => token === holder.token);
      if (holder.kind !== 'held' || (known?.kind === 'held' && known.fence === holder.fence))
        continue;
      if (what === 'downgrade') continue;
      const { token, access, fence } = holder;
      const kind = known?.kind === 'held' ? 'raised' : 'granted';
      this.events.push({ kind, at, process, key, token, access, fence });
      this.count('grants of the server');
      if (givenUpAt !== undefined && at > givenUpAt) {
        this.violate(`notAfter: ${key} was granted ${at - givenUpAt} ms after its caller gave up`);
      }
    }
    for (const holder of before) {
      if (tokens.includes(holder.token)) continue;
      const now = after.find(({ token }) => token === holder.token);
      if (isForced) {
        if (now === undefined) {
          this.events.push({ kind: 'forced', at, key, token: holder.token });
          this.count('leases taken by force');
          if (givenUpAt !== undefined && at > givenUpAt) {
            this.violate(`notAfter: ${key} was taken by force after its caller gave up`);
          }
        }
      } else if (now?.until !== holder.until || now.kind !== holder.kind) {
        this.violate(`I4: ${what} of ${process} changed another's lock on ${key}`);
      }
    }
  }
}
