/**
 * What happened in a simulation, by true time: what the server, or a majority of several, granted and took away, what holders
 * believed, how calls ended. And, line by line, the trace, where somebody wants to read it.
 */
import type { LockName } from '../../lib/core/lock-name.js';
import type { ProcessLoop } from './process-loop.js';
import type { ServerCommand, ServerHolder } from './server-command.js';

export type ServerEvent =
  /** `raised`: it held the key already, and got a larger fencing token. */
  | {
      readonly kind: 'granted' | 'raised';
      /** Since when a majority of the servers holds it. */
      readonly at: number;
      /** Since when the first of them did, and when its process knew of all of them: one server decides at once. */
      readonly begunAt: number;
      knownAt: number;
      readonly process: string;
      readonly key: string;
      readonly token: string;
      readonly access: string;
      /** As it's told to the holder; not a number: it wasn't. */
      fence: number;
    }
  /** Taken from its holder by `forceRelease`. */
  | {
      readonly kind: 'forced';
      readonly at: number;
      readonly key: string;
      readonly token: string;
      /** No majority holds it any more. */
      readonly ends: boolean;
    }
  /** By so many servers that nothing else is left of it. */
  | { readonly kind: 'data lost'; readonly at: number };

/** The servers of a simulation, as far as it matters who decides. */
export interface Servers {
  readonly isQuorum: boolean;
  readonly majority: number;
  /** Which of them hold the key for the token. */
  holding(name: LockName, token: string): readonly number[];
}

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

export type Grant = Extract<ServerEvent, { kind: 'granted' | 'raised' }>;

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
  /** When which server granted what to which token, at last. */
  readonly #grantedAt = new Map<string, number>();
  /** Those that were made with this history. */
  servers!: Servers;

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

  /** Of several independent servers, one that comes back without data is away for so long that nothing was left of it. */
  dataLost(at: number): void {
    this.trace(() => 'server: data lost');
    if (!this.servers.isQuorum) this.events.push({ kind: 'data lost', at });
  }

  /** What a quorum has told a process: it holds the key under this fencing token. */
  told(key: string, token: string, fence: number): void {
    const grant = this.events.findLast(
      (event): event is Grant => 'fence' in event && event.key === key && event.token === token,
    );
    if (grant === undefined) {
      // Some of them were taken from it before the others granted.
      if (this.wasForced(key, token)) return;
      this.violate(`P8: ${key} is held by ${this.nameOf(token)} with too few servers`);
    } else if (Number.isNaN(grant.fence)) {
      grant.fence = fence;
      grant.knownAt = this.now();
    } else if (grant.fence !== fence) {
      const at = this.now();
      this.events.push({ ...grant, kind: 'raised', at, begunAt: at, knownAt: at, fence });
    }
  }

  /** Whether some server has taken the key from the lease with this fencing token. */
  wasForcedUnder(key: string, fence: number): boolean {
    return this.events.some(
      (event) =>
        'fence' in event &&
        event.key === key &&
        event.fence === fence &&
        this.wasForced(key, event.token),
    );
  }

  /** Whether some server has taken the key from this token. */
  wasForced(key: string, token: string): boolean {
    return this.events.some(
      (event) => event.kind === 'forced' && event.key === key && event.token === token,
    );
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
    server: number,
    process: string,
    command: ServerCommand<unknown>,
    name: LockName,
    before: readonly ServerHolder[],
    after: readonly ServerHolder[],
  ): void {
    const { what, tokens, givenUpAt } = command;
    const { key } = name;
    const { servers } = this;
    const where = servers.isQuorum ? `server ${server + 1}` : 'server';
    const isForced = what === 'forceRelease';
    for (const token of tokens) this.processOf.set(token, process);
    this.trace(
      () =>
        `${where}: ${process} ${what} ${key} ${tokens.map((one) => this.nameOf(one)).join(' ')} -> [${after
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
      if (!servers.isQuorum) {
        const facts = { at, begunAt: at, knownAt: at, process, key, token, access, fence };
        this.events.push({ kind, ...facts });
        this.count('grants of the server');
      } else if (kind === 'granted') {
        this.#voted(at, server, process, name, holder);
      }
      if (givenUpAt !== undefined && at > givenUpAt) {
        this.violate(`notAfter: ${key} was granted ${at - givenUpAt} ms after its caller gave up`);
      }
    }
    for (const holder of before) {
      if (tokens.includes(holder.token)) continue;
      const now = after.find(({ token }) => token === holder.token);
      if (isForced) {
        if (now === undefined) {
          const { token } = holder;
          const ends = servers.holding(name, token).length === servers.majority - 1;
          this.events.push({ kind: 'forced', at, key, token, ends });
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

  /** One of several servers has granted. */
  #voted(
    at: number,
    server: number,
    process: string,
    name: LockName,
    { token, access }: ServerHolder,
  ): void {
    const { key } = name;
    const { servers } = this;
    const idOf = (index: number) => `${index} ${token} ${key}`;
    this.#grantedAt.set(idOf(server), at);
    this.count('votes of a server');
    const granting = servers.holding(name, token);
    if (granting.length !== servers.majority) return;
    const begunAt = Math.min(...granting.map((one) => this.#grantedAt.get(idOf(one)) ?? at));
    const untold = { knownAt: Number.POSITIVE_INFINITY, fence: Number.NaN };
    this.events.push({ kind: 'granted', at, begunAt, process, key, token, access, ...untold });
    this.count('grants of the server');
    this.trace(() => `majority: ${key} is granted to ${this.nameOf(token)} of ${process}`);
  }
}
