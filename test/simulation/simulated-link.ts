/** The way of one process to one server: its connections, and what stands for the server in the process. */
import type { ProcessLoop } from './process-loop.js';
import { SimulatedBackend } from './simulated-backend.js';
import { SimulatedConnection } from './simulated-connection.js';
import type { Session, SimulatedServer } from './simulated-server.js';
import { SimulatedWakeUp } from './simulated-wake-up.js';
import type { Route } from './weather.js';

export interface LinkOptions {
  /** The process's. */
  readonly name: string;
  /** For one command at this server. */
  readonly timeout: number;
  readonly polls: boolean;
  readonly joinsKeys: boolean;
}

export class SimulatedLink {
  readonly backend: SimulatedBackend;
  readonly #connection: SimulatedConnection;
  readonly #wakeUp: SimulatedWakeUp;
  readonly #session: Session;

  constructor(
    { name, timeout, polls, joinsKeys }: LinkOptions,
    loop: ProcessLoop,
    readonly server: SimulatedServer,
    readonly route: Route,
  ) {
    this.#session = server.open(name);
    const session = this.#session;
    this.#connection = new SimulatedConnection(loop, route, server, session, timeout, () =>
      this.backend.forgetClock(),
    );
    this.#wakeUp = new SimulatedWakeUp(loop, route, server, session, timeout, polls);
    this.backend = new SimulatedBackend(loop, this.#connection, this.#wakeUp, joinsKeys);
  }

  cutCommands(): void {
    this.#connection.cut();
  }

  cutSubscription(): void {
    this.#wakeUp.cut();
  }

  /** Its process is gone: what was sent may still get there. */
  abandon(): void {
    this.#connection.abandon();
  }

  /** The server knows that its process is gone. */
  end(): void {
    this.#session.end();
  }
}
