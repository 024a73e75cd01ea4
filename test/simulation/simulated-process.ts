/**
 * One replica of an application: a real `Locker` in a process whose time, connections and luck are simulated; and, where
 * there are several servers, a real `QuorumBackend` over them.
 */
import type { LockBackend } from '../../lib/core/backend/lock-backend.js';
import { QuorumBackend } from '../../lib/core/backend/quorum-backend.js';
import { LockError } from '../../lib/core/errors.js';
import { LOCK_EVENT_NAMES, LockEmitter } from '../../lib/core/events.js';
import { Locker } from '../../lib/core/locker.js';
import type { Call, History } from './history.js';
import { ProcessLoop } from './process-loop.js';
import type { Random } from './random.js';
import { altered, type Sabotage } from './sabotage.js';
import type { ServerGroup } from './server-group.js';
import { SimulatedLink } from './simulated-link.js';
import type { SimulatedServer } from './simulated-server.js';
import type { VirtualTime } from './virtual-time.js';
import type { Route } from './weather.js';
import { Witness } from './witness.js';

export interface ProcessOptions {
  readonly name: string;
  readonly rate: number;
  readonly commandTimeout: number;
  readonly nodeTimeout: number;
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
  /** One to each server. */
  readonly links: readonly SimulatedLink[];

  constructor(
    readonly options: ProcessOptions,
    time: VirtualTime,
    servers: ServerGroup,
    routeTo: (server: SimulatedServer) => Route,
    readonly history: History,
    private readonly random: Random,
    sabotage: Sabotage | undefined,
    onRun: (process: SimulatedProcess) => void,
  ) {
    const { name, rate, commandTimeout, nodeTimeout, polls } = options;
    this.name = name;
    this.commandTimeout = commandTimeout;
    this.loop = new ProcessLoop(time, random, rate, random.between(0, 1e6), () => onRun(this));
    const { loop } = this;
    const timeout = servers.isQuorum ? nodeTimeout : commandTimeout;
    this.links = servers.servers.map(
      (server) => new SimulatedLink({ ...options, timeout }, loop, server, routeTo(server)),
    );
    const [first] = this.links as readonly [SimulatedLink, ...SimulatedLink[]];
    const simulated = servers.isQuorum ? this.#overAll(sabotage) : first.backend;
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
      { backend, clock: loop, random: random.next, wallClock: () => first.server.clock.now() },
    );
    this.witness = new Witness(name, loop, history, (key, token) => servers.endOf(key, token));
    for (const event of LOCK_EVENT_NAMES) {
      this.locker.on(event, (facts) => {
        history.count(`event ${event}`);
        history.trace(() => `${name} ${event} ${'key' in facts ? facts.key : ''}`);
      });
    }
  }

  #overAll(sabotage: Sabotage | undefined): LockBackend {
    const { loop, links, history, options } = this;
    const { name: application, commandTimeout, nodeTimeout, polls } = options;
    const addresses = links.map(({ server }) => `redis://server-${server.index}:6379`);
    const quorum = new QuorumBackend(
      {
        ...{ connection: addresses, commandTimeout, nodeTimeout, application, prefix: 'lock' },
        wakeUp: polls ? 'poll' : 'publish',
      },
      loop,
      this.random.next,
      new LockEmitter(),
      ({ connection }) => {
        const { backend } = links[addresses.indexOf(connection as string)] as SimulatedLink;
        return sabotage?.node?.(backend, () => loop.now()) ?? backend;
      },
    );
    // One that is over before it's known, since a node was slow, is nobody's.
    const lasts = (sentAt: number, ttl: number) => sentAt + ttl > loop.now();
    return altered(quorum, {
      tryAcquire: async (request) => {
        const outcome = await quorum.tryAcquire(request);
        if (outcome.kind === 'granted' && lasts(outcome.sentAt, request.ttl)) {
          history.told(request.name.key, request.token, outcome.fencingToken);
        }
        return outcome;
      },
      tryAcquireAll: async (request) => {
        const outcome = await quorum.tryAcquireAll(request);
        if (outcome.kind === 'granted' && lasts(outcome.sentAt, request.ttl)) {
          for (const { name, token } of request.wanted) {
            history.told(name.key, token, outcome.fencingToken);
          }
        }
        return outcome;
      },
    });
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

  /** As a crash ends it. */
  kill(noticedAfter: number): void {
    this.witness.kill();
    this.loop.kill();
    this.state = 'killed';
    const { time } = this.loop;
    for (const link of this.links) {
      link.abandon();
      time.at(time.now + noticedAfter, () => link.end());
    }
  }

  async close(): Promise<void> {
    if (this.state !== 'running') return;
    this.state = 'closing';
    const { drainTimeout, commandTimeout } = this.options;
    await this.call('close', drainTimeout + 4 * commandTimeout, () => this.locker.close());
    this.state = 'closed';
    for (const link of this.links) link.end();
  }
}
