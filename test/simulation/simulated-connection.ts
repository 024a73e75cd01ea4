/**
 * The connection for commands as `lib/core/redis/connection.ts` behaves, over a simulated wire: every outcome is a value,
 * each comes within the command timeout, and what was sent isn't sent again.
 *
 *     connecting ──▶ ready ──cut, or silent for a command timeout──▶ reconnecting ──▶ ready …
 */
import type { Unavailable } from '../../lib/core/backend/lock-backend.js';
import type { ProcessLoop } from './process-loop.js';
import type { ServerCommand } from './server-command.js';
import type { ServedWire, Session, SimulatedServer } from './simulated-server.js';
import { type Route, Wire } from './weather.js';

/** As in the real one: a timer that comes so many ms late came to a blocked event loop. */
const BLOCKED = 50;
const TIMER_PRECISION = 5;
const RECONNECT = [20, 150] as const;
/** How likely a command that is under way when its connection is cut is still run. */
const SURVIVES = 0.5;

export class SimulatedConnection implements ServedWire {
  #state: 'connecting' | 'ready' | 'reconnecting' | 'closed' = 'connecting';
  #wire: Wire;
  readonly #calls = new Set<Call>();
  #onReady: (() => void)[] = [];
  #heardAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly loop: ProcessLoop,
    private readonly route: Route,
    private readonly server: SimulatedServer,
    private readonly session: Session,
    private readonly commandTimeout: number,
    private readonly onReconnected: () => void,
  ) {
    this.#wire = new Wire(route);
    this.#open();
  }

  get driftOfServer(): number {
    return Math.abs(this.server.rate - 1);
  }

  /** Waits for the first connection, within the command timeout. */
  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.#connectBy(this.loop.now() + this.commandTimeout);
  }

  /** It's sent before the call returns, unless the connection isn't there yet. */
  async run<R>(
    command: ServerCommand<R>,
    listens: boolean,
    givenDeadline = Number.POSITIVE_INFINITY,
  ): Promise<Replied<R> | Unavailable> {
    const deadline = Math.min(givenDeadline, this.loop.now() + this.commandTimeout);
    if (this.#state !== 'ready') {
      const connected = await this.#connectBy(deadline);
      if (connected.kind === 'unavailable') return connected;
    }
    return this.#send(command, listens, deadline);
  }

  close(): void {
    this.#state = 'closed';
    this.#wire.close(1);
    this.session.closed(this);
    this.#failAll('The connection was closed.');
  }

  /** Its process is gone: what was sent may still get there. */
  abandon(): void {
    this.#state = 'closed';
    this.#wire.close(SURVIVES);
  }

  onCut(): void {
    this.cut();
  }

  /** The connection breaks: both sides learn it. */
  cut(): void {
    if (this.#state !== 'ready') return;
    this.#drop();
    this.loop.arrive(() => this.#failAll('Connection is closed.'));
  }

  #send<R>(
    command: ServerCommand<R>,
    listens: boolean,
    deadline: number,
  ): Promise<Replied<R> | Unavailable> {
    const { loop, route, session } = this;
    const sentAt = loop.now();
    if (this.#state !== 'ready') return Promise.resolve(this.#unreachable());
    if (sentAt >= deadline) return Promise.resolve(noAnswer('Its time is up.', false));
    return new Promise((resolve) => {
      const call: Call = { fail: (cause) => settle(noAnswer(cause, true)) };
      const settle = (outcome: Replied<R> | Unavailable) => {
        if (this.#calls.delete(call)) resolve(outcome);
      };
      this.#calls.add(call);
      loop.later(deadline - sentAt, () => this.#timeOut(call, sentAt));
      const wire = this.#wire;
      const { weather, random, faults } = route;
      const deliver = () => {
        if (random.chance(weather.loseCommand)) {
          faults.add('command lost');
          return;
        }
        this.server.serve(session, command, listens, (reply, serverTime) => {
          if (random.chance(weather.loseReply)) {
            faults.add('reply lost');
            return;
          }
          wire.reply(() =>
            loop.arrive(() => {
              const receivedAt = loop.now();
              this.#heardAt = receivedAt;
              settle({ kind: 'reply', reply, serverTime, sentAt, receivedAt });
            }),
          );
        });
      };
      wire.send(deliver);
      if (weather.duplicate > 0 && random.chance(weather.duplicate)) {
        faults.add('command run twice');
        wire.send(deliver);
      }
    });
  }

  #timeOut(call: Call, sentAt: number): void {
    if (!this.#calls.has(call)) return;
    const took = this.loop.now() - sentAt;
    call.fail('Command timed out');
    const silent = this.#heardAt < sentAt && took >= this.commandTimeout - TIMER_PRECISION;
    const blocked = took > this.commandTimeout + BLOCKED;
    if (!silent || blocked || this.#state !== 'ready') return;
    this.#drop();
    this.#failAll('Connection is closed.');
  }

  #failAll(cause: string): void {
    for (const call of [...this.#calls]) call.fail(cause);
  }

  #drop(): void {
    this.route.faults.add('connection cut');
    this.#wire.close(SURVIVES);
    this.session.closed(this);
    this.#state = 'reconnecting';
    this.#open();
  }

  #open(): void {
    const { loop, route } = this;
    const delay = this.#state === 'connecting' ? 0 : route.random.between(...RECONNECT);
    loop.later(delay, () => {
      if (this.#state !== 'connecting' && this.#state !== 'reconnecting') return;
      if (route.isCut || !this.server.isUp || this.server.isFrozen) {
        this.#state = 'reconnecting';
        this.#open();
        return;
      }
      this.#wire = new Wire(route);
      this.#state = 'ready';
      this.session.connected(this);
      this.onReconnected();
      for (const ready of this.#onReady) ready();
      this.#onReady = [];
    });
  }

  async #connectBy(deadline: number): Promise<{ kind: 'connected' } | Unavailable> {
    if (this.#state === 'connecting') {
      await new Promise<void>((resolve) => {
        this.#onReady.push(resolve);
        this.loop.later(deadline - this.loop.now(), resolve);
      });
    }
    return this.#state === 'ready' ? { kind: 'connected' } : this.#unreachable();
  }

  #unreachable(): Unavailable {
    const cause = new Error('connect ECONNREFUSED');
    return { kind: 'unavailable', reason: 'unreachable', cause, mayHaveRun: false };
  }
}

interface Call {
  fail(cause: string): void;
}

export interface Replied<R> {
  readonly kind: 'reply';
  readonly reply: R;
  readonly serverTime: number;
  readonly sentAt: number;
  readonly receivedAt: number;
}

function noAnswer(message: string, mayHaveRun: boolean): Unavailable {
  return { kind: 'unavailable', reason: 'no-answer', cause: new Error(message), mayHaveRun };
}
