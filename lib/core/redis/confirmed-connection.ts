import type { Unavailable } from '../backend/unavailable.js';
import type { Clock } from '../clock.js';
import { LockConfigError } from '../errors.js';
import { LockEmitter } from '../events.js';
import type { ResolvedReplicas } from '../options.js';
import { Connection, type ConnectionSource, type RedisClient, type Replied } from './connection.js';
import { isUnknownScript, type Script } from './script.js';
import type { ScriptRunner } from './script-runner.js';

/**
 * A connection to one server for scripts whose writes replicas must have. WAIT speaks of what its own connection has
 * written, and blocks it meanwhile; hence a connection of its own, and rounds:
 *
 *     idle ──a script──▶ round: scripts and one WAIT behind them, in one write ──WAIT answered──▶ idle
 *                          ▲   those that come meanwhile gather for the next ──────────────────────┘
 *
 * A script's reply is told as soon as it's there, with a promise of what the replicas say: one that granted nothing need
 * not wait for it. What a replica confirms, it has with all that was written to the master before, by whomever: what only
 * takes away (a release, a downgrade) needs no confirmation of its own.
 *
 * @see https://redis.io/docs/latest/commands/wait/
 */
export class ConfirmedConnection implements ScriptRunner {
  readonly #connection: Connection;
  #gathered: Call[] = [];
  #roundUnderWay = false;

  constructor(
    source: ConnectionSource,
    private readonly replicas: ResolvedReplicas,
    private readonly commandTimeout: number,
    private readonly clock: Clock,
    onReady: () => void,
  ) {
    // An outage is told of by the connection for the other commands.
    this.#connection = new Connection(source, commandTimeout, clock, new LockEmitter(), onReady);
  }

  connect(): Promise<{ kind: 'connected' } | Unavailable> {
    return this.#connection.connect();
  }

  run<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline?: number,
  ): Promise<Replied<R> | Unavailable> {
    return this.runWith(script, keys, args, deadline, false);
  }

  /** `asking`: the server has these keys already, while they are on their way to it. */
  runWith<K extends readonly string[], A extends readonly (string | number)[], R>(
    script: Script<K, A, R>,
    keys: K,
    args: A,
    deadline: number | undefined,
    asking: boolean,
  ): Promise<Replied<R> | Unavailable> {
    const dueAt = Math.min(
      deadline ?? Number.POSITIVE_INFINITY,
      this.clock.now() + this.commandTimeout,
    );
    return new Promise((resolve) => {
      this.#gathered.push({
        dueAt,
        asking,
        byDigest: (client) => script.runByDigest(client, keys, args),
        bySource: (client) => script.runBySource(client, keys, args),
        knownScript: true,
        resolve: resolve as (outcome: Replied<unknown> | Unavailable) => void,
      });
      if (!this.#roundUnderWay) void this.#goRound();
    });
  }

  close(): void {
    this.#connection.close();
  }

  async #goRound(): Promise<void> {
    this.#roundUnderWay = true;
    while (this.#gathered.length > 0) {
      if (!this.#connection.isReady) {
        const connected = await this.#connection.connect();
        if (connected.kind === 'unavailable') {
          for (const call of this.#gathered.splice(0)) call.resolve(connected);
          break;
        }
      }
      await this.#round(this.#gathered.splice(0));
    }
    this.#roundUnderWay = false;
  }

  async #round(calls: readonly Call[]): Promise<void> {
    const confirmed = this.#connection.together(() => {
      const replies = calls.map((call) => this.#send(call));
      const outcome = this.#confirmation();
      replies.forEach((reply, index) => {
        const { resolve } = calls[index] as Call;
        void reply.then((its) => {
          if (its === 'unknown script') return;
          resolve(its.kind === 'unavailable' ? its : { ...its, confirmed: outcome });
        });
      });
      return outcome;
    });
    await confirmed;
  }

  /** A server that doesn't know the script is sent its source in the next round, with a WAIT behind it. */
  async #send(call: Call): Promise<Replied<unknown> | Unavailable | 'unknown script'> {
    const { dueAt, asking, knownScript } = call;
    if (asking) void this.#connection.send((client) => client.call('ASKING'), dueAt);
    const outcome = await this.#connection.send(knownScript ? call.byDigest : call.bySource, dueAt);
    if (!knownScript || outcome.kind === 'reply' || !isUnknownScript(outcome.cause)) return outcome;
    this.#gathered.push({ ...call, knownScript: false });
    return 'unknown script';
  }

  /** What the replicas say of everything that was sent before: nothing, or why it can't be relied on. */
  async #confirmation(): Promise<Unavailable | undefined> {
    const { atLeast: wanted, timeout, aof } = this.replicas;
    const outcome = await this.#connection.send(async (client): Promise<[number, number]> => {
      if (!aof) return [1, Number(await client.call('WAIT', wanted, timeout))];
      const reply = (await client.call('WAITAOF', 1, wanted, timeout)) as unknown[];
      return [Number(reply[0]), Number(reply[1])];
    });
    if (outcome.kind === 'unavailable') {
      if (outcome.reason !== 'refused') return outcome;
      const cause = aof ? this.#aofError(outcome.cause) : outcome.cause;
      return { ...outcome, reason: 'replicas', cause, facts: { wanted } };
    }
    const [onOwnDisk, confirmed] = outcome.reply;
    if (confirmed >= wanted && onOwnDisk >= 1) return undefined;
    const cause =
      onOwnDisk >= 1 ? undefined : new Error('The master did not have it on its own disk in time.');
    const facts = { confirmed, wanted };
    return { kind: 'unavailable', reason: 'replicas', cause, mayHaveRun: true, facts };
  }

  #aofError(cause: unknown): LockConfigError {
    return new LockConfigError(
      'Option `replicas.aof` needs a server that knows WAITAOF (Redis 7.2 or later) and has `appendonly yes`. Change the server, or leave the option out.',
      'replicas.aof',
      true,
      cause,
    );
  }
}

/** A script that waits for its round. */
interface Call {
  readonly dueAt: number;
  readonly asking: boolean;
  readonly byDigest: (client: RedisClient) => Promise<unknown>;
  readonly bySource: (client: RedisClient) => Promise<unknown>;
  readonly knownScript: boolean;
  readonly resolve: (outcome: Replied<unknown> | Unavailable) => void;
}
