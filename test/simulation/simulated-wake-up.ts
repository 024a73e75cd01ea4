/**
 * The subscription of a process as `lib/core/redis/redis-wake-up.ts` behaves, over a simulated wire of its own: what is
 * published while it's away is lost, and so is a message now and then that nobody misses.
 */
import type { WakeListener, WakeMessage, WakeUp } from '../../lib/core/wake-up.js';
import type { ProcessLoop } from './process-loop.js';
import type { ServedWire, Session, SimulatedServer } from './simulated-server.js';
import { type Route, Wire } from './weather.js';

const RECONNECT = [20, 150] as const;
const BLOCKED = 50;
/** A link may be dead without the server knowing, for so long at most, in ms. */
const LONGEST_HALF_OPEN = 3_000;

export class SimulatedWakeUp implements WakeUp, ServedWire {
  #wire: Wire | undefined;
  #hears = false;
  #wanted = false;
  #opening = false;
  #closed = false;
  #checking = false;
  #listener: WakeListener = () => {};
  readonly #subscribers = new Set<() => void>();

  constructor(
    private readonly loop: ProcessLoop,
    private readonly route: Route,
    private readonly server: SimulatedServer,
    private readonly session: Session,
    private readonly timeout: number,
    private readonly polls: boolean,
  ) {}

  get listening(): boolean {
    return this.#hears && this.#wanted;
  }

  get hears(): boolean {
    return this.#hears;
  }

  listensTo(): boolean {
    return this.listening;
  }

  onWake(listener: WakeListener): void {
    this.#listener = listener;
  }

  attend(): void {
    if (!this.#closed && !this.polls && this.#wire === undefined) this.#open(0);
  }

  subscribe(): Promise<void> {
    this.#wanted = true;
    if (this.#hears || this.polls || this.#closed) return Promise.resolve();
    this.attend();
    return new Promise((resolve) => {
      const done = () => {
        this.#subscribers.delete(done);
        resolve();
      };
      this.#subscribers.add(done);
      this.loop.later(this.timeout, done);
    });
  }

  /** One subscription serves all names, and stays. */
  unsubscribe(): void {}

  check(): void {
    const wire = this.#wire;
    if (!this.#hears || this.#checking || wire === undefined) return;
    this.#checking = true;
    const askedAt = this.loop.now();
    this.#ask(
      wire,
      'ping',
      () => {},
      (answered) => {
        this.#checking = false;
        if (answered || this.#closed || wire !== this.#wire) return;
        // Late only because our own event loop was blocked: the next check tells.
        if (this.loop.now() - askedAt < this.timeout + BLOCKED) this.cut();
      },
    );
  }

  close(): void {
    this.#closed = true;
    this.#hears = false;
    this.session.closed(this);
    const wire = this.#wire;
    wire?.close(0);
    if (wire !== undefined) this.session.unsubscribe(wire);
    for (const done of [...this.#subscribers]) done();
  }

  onCut(): void {
    this.cut();
  }

  cut(): void {
    const wire = this.#wire;
    if (wire === undefined || !wire.isOpen || this.#closed) return;
    this.route.faults.add('subscription cut');
    wire.close(0);
    this.session.closed(this);
    this.#hears = false;
    const { random, time } = this.route;
    const noticed = random.chance(0.5) ? 0 : random.between(0, LONGEST_HALF_OPEN);
    time.at(time.now + noticed, () => this.session.unsubscribe(wire));
    this.#open(random.between(...RECONNECT));
  }

  #open(delay: number): void {
    // Before there's one, this says that it's on its way.
    this.#wire ??= new Wire(this.route);
    if (this.#opening) return;
    this.#opening = true;
    this.loop.later(delay, () => {
      this.#opening = false;
      if (this.#closed) return;
      if (this.route.isCut || !this.server.isUp || this.server.isFrozen) {
        this.#open(this.route.random.between(...RECONNECT));
        return;
      }
      const wire = new Wire(this.route);
      this.#wire = wire;
      this.session.connected(this);
      this.#ask(
        wire,
        'subscribe',
        () => this.session.subscribe(wire, (message) => this.#tell(wire, message)),
        (answered) => {
          if (this.#closed || wire !== this.#wire || !wire.isOpen) return;
          if (!answered) {
            this.cut();
            return;
          }
          this.#hears = true;
          for (const done of [...this.#subscribers]) done();
          this.#listener({ kind: 'listening' });
        },
      );
    });
  }

  /** Has something done at the server; says within the timeout whether it answered. */
  #ask(wire: Wire, what: string, work: () => void, then: (answered: boolean) => void): void {
    let ended = false;
    const end = (answered: boolean) => {
      if (ended) return;
      ended = true;
      then(answered);
    };
    const command = { what, names: [], tokens: [], run: async () => work() };
    wire.send(() => {
      this.server.serve(this.session, command, false, () => {
        wire.reply(() => this.loop.arrive(() => end(true)));
      });
    });
    this.loop.later(this.timeout, () => end(false));
  }

  #tell(wire: Wire, message: WakeMessage): void {
    const { random, weather, faults } = this.route;
    if (random.chance(weather.loseMessage)) {
      faults.add('wake-up lost');
      return;
    }
    this.loop.arrive(() => {
      if (this.#hears && wire === this.#wire) this.#listener(message);
    });
  }
}
