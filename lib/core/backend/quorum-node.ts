import { CleanUp } from '../clean-up.js';
import type { Clock, Timer } from '../clock.js';
import type { NodeAnswer } from '../errors.js';
import type { LockName } from '../lock-name.js';
import type {
  AcquireAllOutcome,
  AcquireAllRequest,
  AcquireOutcome,
  AcquireRequest,
  CancelOutcome,
  CancelRequest,
  DowngradeOutcome,
  ExtendOutcome,
  FencedRequest,
  ForceOutcome,
  HeldToken,
  InitializeOutcome,
  LockBackend,
  NamesOutcome,
  QueryOutcome,
  ReleaseRequest,
  Unavailable,
} from './lock-backend.js';
import type { StandBackRequest } from './redis-backend.js';
import type { RunAcceptor } from './run-acceptor.js';

/**
 * How many things may be undone at one node at once: while it's down, each keeps a timer. What goes beyond ends with its
 * ttl, at this one node.
 */
const MOST_UNDONE = 1_000;

/** One of several independent Redis servers: its backend, and what is still to be undone there behind everybody's back. */
export class QuorumNode {
  readonly #cleanUp: CleanUp;
  /** How many commands haven't been answered yet, some of them for calls that were decided without it. */
  #underWay = 0;
  #onIdle: (() => void) | undefined;

  constructor(
    /** Without credentials. */
    readonly address: string,
    readonly backend: NodeBackend,
    /** How long a command may take here, in ms. */
    private readonly timeout: number,
    private readonly clock: Clock,
    random: () => number,
  ) {
    this.#cleanUp = new CleanUp(backend, clock, random);
  }

  /** A command is sent. */
  begin(): void {
    this.#underWay += 1;
  }

  /** It was answered, and what is to be done about it is under way. */
  end(): void {
    this.#underWay -= 1;
    if (this.#underWay === 0) this.#onIdle?.();
  }

  /** `refusedAfter`: monotonic time from which on a command with this token, that may be on its way, would be refused. */
  undo(held: HeldToken & CancelRequest, refusedAfter?: number): void {
    if (this.#cleanUp.size < MOST_UNDONE) this.#cleanUp.cancel(held, refusedAfter);
  }

  /** Goes on with a release that failed here; where it was never held, it may still stand in a queue, or be granted yet. */
  release(request: () => ReleaseRequest, refusedAfter: number): void {
    if (this.#cleanUp.size >= MOST_UNDONE) return;
    void this.#cleanUp.release(request).then(() => this.undo(request(), refusedAfter));
  }

  /** What it said, for an error. */
  answer(outcome: Answer | undefined): NodeAnswer {
    const { address: node } = this;
    switch (outcome?.kind) {
      case undefined:
        return { node, answer: 'no-answer' };
      case 'unavailable':
        return {
          ...{ node, answer: outcome.reason, cause: outcome.cause },
          ...(outcome.reason === 'guard' && { retryAfter: outcome.facts?.retryAfter }),
        };
      case 'granted':
      case 'busy':
      case 'late':
      case 'taken':
        return { node, answer: outcome.kind };
      case 'conflict':
        return { node, answer: 'busy' };
      default:
        return { node, answer: 'done' };
    }
  }

  /** Who holds a key here, for an error; `undefined`: nobody, or it isn't known. */
  async holderOf(name: LockName): Promise<string | undefined> {
    this.begin();
    const outcome = await this.backend.query(name);
    this.end();
    if (outcome.kind === 'unavailable') return undefined;
    const [first, ...others] = outcome.state.held;
    if (first === undefined) return undefined;
    const { host, pid, application } = first;
    const process = `process ${pid} on ${JSON.stringify(host)}`;
    const named =
      application === undefined ? process : `${JSON.stringify(application)}, ${process}`;
    return others.length === 0 ? named : `${named}, and ${others.length} more`;
  }

  /**
   * Lets commands end that are under way, and makes a last try of all that's to be undone. What takes longer than a command and
   * the one that follows it, as a walk through all keys, is cut off.
   */
  async close(): Promise<void> {
    if (this.#underWay > 0) {
      let timer: Timer | undefined;
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
        timer = this.clock.after(2 * this.timeout, resolve);
      });
      timer?.cancel();
    }
    await this.#cleanUp.close();
    await this.backend.close();
  }
}

/** What a quorum asks of a node's backend, beyond what is asked of every backend. */
export interface NodeBackend extends LockBackend {
  /** Where the runs of jobs are voted on. */
  readonly acceptor: RunAcceptor;
  connect(timeout?: number): Promise<{ kind: 'connected' } | Unavailable>;
  tryAcquire(request: AcquireRequest & FencedRequest): Promise<AcquireOutcome>;
  tryAcquireAll(request: AcquireAllRequest & FencedRequest): Promise<AcquireAllOutcome>;
  /** Undoes a grant that came to nothing, and queues the token again at its place. */
  standBack(request: StandBackRequest): Promise<CancelOutcome>;
  /** The locks and jobs of which anything is known under a prefix. */
  traces(prefix: string): Promise<NamesOutcome>;
  /** The server's time at a local time, most likely; `undefined` where nothing is known of its clock. */
  serverTimeAt(localTime: number): number | undefined;
  /** Makes sure that the server's clock is known. */
  synchronized(): Promise<Unavailable | undefined>;
}

/** Any outcome. */
export type Answer =
  | AcquireAllOutcome
  | AcquireOutcome
  | CancelOutcome
  | DowngradeOutcome
  | ExtendOutcome
  | ForceOutcome
  | InitializeOutcome
  | NamesOutcome
  | QueryOutcome
  | { readonly kind: 'connected' };
