/**
 * One server of a simulation: the rules of `MemoryStore`, which `test/conformance/backends-agree.spec.ts` shows to be
 * those of the scripts, by a clock of its own, run one command at a time.
 *
 *     up ──freeze──▶ frozen: what arrives waits, and is run in order afterwards
 *      └──stop──▶ down: connections are refused, those that were there are cut; with its data or without
 *
 * What it does is written into the history.
 */
import type { Clock } from '../../lib/core/clock.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { WakeMessage } from '../../lib/core/wake-up.js';
import type { History } from './history.js';
import type { Sabotage } from './sabotage.js';
import { ServedBackend, ServedStore } from './served-backend.js';
import type { ServerCommand, ServerHolder } from './server-command.js';
import type { VirtualTime } from './virtual-time.js';
import type { Wire } from './weather.js';

/** What a server needs for one command, in true ms: two are never run at the same moment. */
const COMMAND_TIME = 0.01;
/** When a right clock says that it is, at the beginning: fencing tokens are of the size that they have in life. */
const EPOCH = 1_790_000_000_000;

export class SimulatedServer {
  readonly clock: Clock;
  readonly #store: ServedStore;
  readonly #sessions = new Set<Session>();
  #downUntil = 0;
  #isEmptied = false;
  /** What it had when it lost its data. */
  #forgotten: ReadonlyMap<string, ServedEntry> = new Map();
  #frozenUntil = 0;
  #busyUntil = 0;

  constructor(
    readonly index: number,
    readonly time: VirtualTime,
    /** Its ms that pass in a true one. */
    readonly rate: number,
    /** How far its clock is ahead of a right one at the beginning, in whole ms. */
    private readonly ahead: number,
    readonly history: History,
    readonly sabotage: Sabotage | undefined,
  ) {
    this.clock = {
      // Whole ms, as Redis counts.
      now: () => Math.floor(this.preciseNow),
      after: (delay, callback) => {
        let cancelled = false;
        time.at(time.now + delay / rate, () => {
          if (!cancelled) callback();
        });
        return { cancel: () => (cancelled = true), keepAlive: () => {} };
      },
    };
    this.#store = new ServedStore(this.clock, sabotage?.wallClock ?? (() => this.clock.now()));
  }

  get preciseNow(): number {
    return EPOCH + this.ahead + this.time.now * this.rate;
  }

  get isUp(): boolean {
    return this.time.now >= this.#downUntil;
  }

  /** True time from which on it's up, as far as is known. */
  get upAt(): number {
    return this.#downUntil;
  }

  /** It's down, and will come back without its data. */
  get isEmptied(): boolean {
    return this.#isEmptied && !this.isUp;
  }

  get isFrozen(): boolean {
    return this.time.now < this.#frozenUntil;
  }

  freeze(duration: number): void {
    this.#frozenUntil = Math.max(this.#frozenUntil, this.time.now + duration);
  }

  restart(duration: number, keepsData: boolean): void {
    this.#isEmptied = !keepsData || this.isEmptied;
    this.#downUntil = Math.max(this.#downUntil, this.time.now + duration);
    this.#frozenUntil = 0;
    this.#busyUntil = this.#downUntil;
    for (const session of this.#sessions) session.cut();
    if (keepsData) return;
    // Away already, it has nothing more to lose.
    if (this.#store.entries.size > 0) this.#forgotten = new Map(this.#store.entries);
    this.#store.entries.clear();
    this.history.dataLost(this.time.now);
  }

  open(process: string): Session {
    const session = new Session(this, this.#store, process);
    this.#sessions.add(session);
    return session;
  }

  close(session: Session): void {
    this.#sessions.delete(session);
  }

  /** When it comes to it. */
  serve<R>(
    session: Session,
    command: ServerCommand<R>,
    listens: boolean,
    answer: (result: R, at: number) => void,
  ): void {
    const { time } = this;
    const at = Math.max(time.now, this.#frozenUntil, this.#busyUntil + COMMAND_TIME);
    this.#busyUntil = at;
    const downUntil = this.#downUntil;
    time.at(at, () => {
      // It was stopped before it came to it, or freezes again.
      if (this.#downUntil !== downUntil || !this.isUp) return;
      if (this.isFrozen) this.serve(session, command, listens, answer);
      else this.#run(session, command, listens, answer);
    });
  }

  #run<R>(
    session: Session,
    command: ServerCommand<R>,
    listens: boolean,
    answer: (result: R, at: number) => void,
  ): void {
    const before = command.names.map((name) => this.holdersOf(name));
    const at = this.preciseNow;
    const running = command.run(listens ? session.listening : session.polling);
    // A command is run at once: only its answer is a promise.
    command.names.forEach((name, index) =>
      this.history.tellChange(
        this.time.now,
        this.index,
        session.process,
        command,
        name,
        before[index] as readonly ServerHolder[],
        this.holdersOf(name),
      ),
    );
    void running.then((result) => answer(result, at));
  }

  /** Who has a key, by what is in the store: nothing is changed by the question. */
  holdersOf({ owner }: LockName): readonly ServerHolder[] {
    return this.#holdersIn(this.#store.entries.get(owner));
  }

  #holdersIn(entry: ServedEntry | undefined): readonly ServerHolder[] {
    if (entry === undefined) return [];
    const now = this.clock.now();
    const holders: ServerHolder[] = [];
    for (const one of entry.owner === undefined
      ? entry.sharers.values()
      : [entry.owner, ...entry.sharers.values()]) {
      if (one.until <= now || one.kind === 'reserved') continue;
      const { kind, token, access, until, fencingToken } = one;
      holders.push({ kind, token, access, until, fence: fencingToken });
    }
    return holders;
  }

  /** Whether it holds the key for the token, or did when it lost its data and went away. */
  holds(name: LockName, token: string): boolean {
    const entry = (this.isEmptied ? this.#forgotten : this.#store.entries).get(name.owner);
    return this.#holdersIn(entry).some((one) => one.kind === 'held' && one.token === token);
  }

  /** True time at which it may give a key to another, where the token holds it. */
  endOf(name: LockName, token: string): number | undefined {
    const holder = this.holdersOf(name).find((one) => one.token === token);
    return holder?.kind === 'held' ? (holder.until - EPOCH - this.ahead) / this.rate : undefined;
  }

  /** What is left of anybody: held, kept or reserved keys and waiters that count as alive. */
  get remains(): readonly Remains[] {
    const now = this.clock.now();
    return [...this.#store.entries].flatMap(([key, { owner, sharers, queue }]) => [
      ...[...(owner === undefined ? [] : [owner]), ...sharers.values()]
        .filter(({ until }) => until > now)
        .map(({ kind, token, until }) => ({ key, kind, token, lasts: until - now })),
      ...queue
        .filter(({ aliveUntil }) => aliveUntil >= now)
        .map(({ token, aliveUntil }) => ({
          ...{ key, kind: 'waiting' as const, token, lasts: aliveUntil - now },
        })),
    ]);
  }
}

type ServedEntry = ReturnType<ServedStore['entryOf']>;

export interface Remains {
  readonly key: string;
  readonly kind: 'held' | 'kept' | 'reserved' | 'waiting';
  readonly token: string;
  readonly lasts: number;
}

/** What the server knows of one process: its subscription, and two ways in, for one who listens and one who doesn't. */
export class Session {
  readonly listening: ServedBackend;
  readonly polling: ServedBackend;
  readonly #subscription: ServedBackend['wakeUp'];
  readonly #wires = new Set<ServedWire>();
  #subscriber: { readonly wire: Wire; readonly tell: (message: WakeMessage) => void } | undefined;

  constructor(
    private readonly server: SimulatedServer,
    store: ServedStore,
    readonly process: string,
  ) {
    const [listening, polling] = [true, false].map(() => {
      const backend = new ServedBackend(process, store);
      backend.wakeUp.onWake((message) => this.#tell(message));
      return backend;
    }) as [ServedBackend, ServedBackend];
    this.#subscription = listening.wakeUp;
    const served = (backend: ServedBackend): ServedBackend =>
      server.sabotage?.server?.(backend, (name) => server.holdersOf(name)) ?? backend;
    this.listening = served(listening);
    this.polling = served(polling);
  }

  /** A connection of the process, to be cut when the server stops. */
  connected(wire: ServedWire): void {
    this.#wires.add(wire);
  }

  closed(wire: ServedWire): void {
    this.#wires.delete(wire);
  }

  subscribe(wire: Wire, tell: (message: WakeMessage) => void): void {
    this.#subscriber = { wire, tell };
    void this.#subscription.subscribe();
  }

  /** The server has noticed that nobody hears any more. */
  unsubscribe(wire: Wire): void {
    if (this.#subscriber?.wire !== wire) return;
    this.#subscriber = undefined;
    void this.listening.close();
  }

  cut(): void {
    if (this.#subscriber !== undefined) this.unsubscribe(this.#subscriber.wire);
    for (const wire of [...this.#wires]) wire.onCut();
  }

  /** The process is gone, and the server knows it. */
  end(): void {
    this.cut();
    this.server.close(this);
  }

  #tell(message: WakeMessage): void {
    const subscriber = this.#subscriber;
    if (subscriber === undefined) return;
    subscriber.wire.reply(() => subscriber.tell(message));
  }
}

export interface ServedWire {
  onCut(): void;
}
