/**
 * One replica of an application: a real `Locker` in a process whose time, connections and luck are simulated.
 */
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import { LockError } from '../../lib/core/errors.js';
import { LOCK_EVENT_NAMES } from '../../lib/core/events.js';
import { Locker } from '../../lib/core/locker.js';
import type { Call, History } from './history.js';
import { ProcessLoop } from './process-loop.js';
import type { Random } from './random.js';
import { SimulatedBackend } from './simulated-backend.js';
import { SimulatedConnection } from './simulated-connection.js';
import type { Session, SimulatedServer } from './simulated-server.js';
import { SimulatedWakeUp } from './simulated-wake-up.js';
import type { Route } from './weather.js';
import { Witness } from './witness.js';

export interface ProcessOptions {
  readonly name: string;
  readonly rate: number;
  readonly commandTimeout: number;
  readonly drainTimeout: number;
  readonly ttl: number;
  readonly localHandover: boolean;
  readonly detectDeadlocks: boolean;
  readonly polls: boolean;
  readonly joinsKeys: boolean;
}

/** A signal's reason, which isn't one of the library's errors. */
export class GivenUp extends Error {
  override readonly name = 'GivenUp';
}

export class SimulatedProcess {
  readonly name: string;
  readonly loop: ProcessLoop;
  readonly locker: Locker;
  readonly witness: Witness;
  readonly commandTimeout: number;
  state: 'running' | 'closing' | 'closed' | 'killed' = 'running';
  readonly #connection: SimulatedConnection;
  readonly #wakeUp: SimulatedWakeUp;
  readonly #session: Session;

  constructor(
    readonly options: ProcessOptions,
    readonly server: SimulatedServer,
    readonly route: Route,
    readonly history: History,
    random: Random,
    onRun: (process: SimulatedProcess) => void,
  ) {
    const { name, rate, commandTimeout, polls, joinsKeys } = options;
    this.name = name;
    this.commandTimeout = commandTimeout;
    const { time, sabotage } = server;
    this.loop = new ProcessLoop(time, random, rate, random.between(0, 1e6), () => onRun(this));
    const { loop } = this;
    this.#session = server.open(name);
    this.#connection = new SimulatedConnection(
      ...([loop, route, server, this.#session, commandTimeout] as const),
      () => simulated.forgetClock(),
    );
    this.#wakeUp = new SimulatedWakeUp(
      ...([loop, route, server, this.#session, commandTimeout, polls] as const),
    );
    const simulated = new SimulatedBackend(loop, this.#connection, this.#wakeUp, joinsKeys);
    const backend: LockBackend = sabotage?.client?.(simulated, () => loop.now()) ?? simulated;
    this.locker = new Locker(
      {
        connection: 'memory',
        ttl: options.ttl,
        commandTimeout,
        drainTimeout: options.drainTimeout,
        localHandover: options.localHandover,
        detectDeadlocks: options.detectDeadlocks,
        wakeUp: polls ? 'poll' : 'publish',
        application: name,
      },
      { backend, clock: loop, random: random.next, wallClock: () => server.clock.now() },
    );
    this.witness = new Witness(name, loop, history, (key, token) => server.endOf(key, token));
    for (const event of LOCK_EVENT_NAMES) {
      this.locker.on(event, (facts) => {
        history.count(`event ${event}`);
        history.trace(() => `${name} ${event} ${'key' in facts ? facts.key : ''}`);
      });
    }
  }

  get isAlive(): boolean {
    return this.state !== 'killed';
  }

  /** Writes down how long a call took and how it ended. An error that no caller should meet is a violation. */
  async call<T>(what: string, bound: number, work: () => Promise<T>): Promise<T> {
    const call = this.begin(what, bound);
    try {
      const value = await work();
      this.end(call, value === null ? 'nothing' : 'done');
      return value;
    } catch (error) {
      this.end(call, this.codeOf(error));
      throw error;
    }
  }

  begin(what: string, bound: number): Call {
    const { name, loop } = this;
    const call: Call = {
      ...{ process: name, loop, what, from: loop.time.now, bound },
      ...{ to: undefined, outcome: 'none' },
    };
    this.history.calls.push(call);
    this.history.trace(() => `${name} calls ${what}`);
    return call;
  }

  end(call: Call, outcome: string): void {
    if (call.to !== undefined) return;
    call.to = this.loop.time.now;
    call.outcome = outcome;
    this.history.count(`${call.what.split(' ')[0]}: ${outcome}`);
    this.history.trace(() => `${this.name} ends ${call.what}: ${outcome}`);
  }

  codeOf(error: unknown): string {
    if (error instanceof GivenUp) return 'aborted';
    if (LockError.is(error) && error.code !== 'LOCK_CONFIG' && error.code !== 'LOCK_KEY') {
      return error.code;
    }
    this.history.violate(`an error that nobody should meet: ${(error as Error)?.stack}`);
    return 'other';
  }

  freeze(duration: number): void {
    this.loop.freeze(duration);
  }

  cutCommands(): void {
    this.#connection.cut();
  }

  cutSubscription(): void {
    this.#wakeUp.cut();
  }

  /** As a crash ends it. */
  kill(noticedAfter: number): void {
    this.witness.kill();
    this.loop.kill();
    this.state = 'killed';
    this.#connection.abandon();
    const { time } = this.loop;
    time.at(time.now + noticedAfter, () => this.#session.end());
  }

  async close(): Promise<void> {
    if (this.state !== 'running') return;
    this.state = 'closing';
    const { drainTimeout, commandTimeout } = this.options;
    await this.call('close', drainTimeout + 4 * commandTimeout, () => this.locker.close());
    this.state = 'closed';
    this.#session.end();
  }
}
