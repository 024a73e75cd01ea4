import type { Clock } from '../clock.js';
import { withHolders } from './busy-nodes.js';
import type {
  AcquireOutcome,
  AcquireRequest,
  FencedRequest,
  Granted,
  Place,
} from './lock-backend.js';
import { majorityOf, noQuorum } from './inquiry.js';
import type { QuorumNode } from './quorum-node.js';

/**
 * So much later than the fastest clock of the nodes, in ms, each is asked to number a grant: longer than a command is on its
 * way, or the nodes would give their own times; less than the range of a lease, so that tokens don't run ahead of the clocks.
 */
export const FENCE_LEAD = 5;
/** When two or more have each got some nodes and none a majority, each tries again within so many ms, at random. */
const SPLIT_PAUSE = 30;
/** Not at once, so that what the others undo is undone by then. */
const SHORTEST_PAUSE = 2;

/**
 * One try for a key at all nodes.
 *
 *     asking ──a majority granted──▶ fencing ──a majority holds the token F──▶ granted
 *       │                              └──────────too few do────────────────▶ failed
 *       └──none can be any more──▶ failed: what was granted is undone
 *
 * Who is slow isn't waited for where a majority grants. Its answer comes later: its grant belongs to the lease, which
 * is extended and released everywhere; its place in a queue is undone, as nobody waits any more. Nor by who doesn't wait
 * for the key; but by one that does, since its token stands in the nodes' queues and is used again, so that nothing of
 * it may be unknown.
 *
 * Fencing tokens rise, although the nodes' clocks differ and each node knows only of its own grants:
 *
 *  1. Each granting node gives one that is larger than all it knows of. F is the largest of a majority's.
 *  2. It's reported only when a majority holds F, or more, in the record of this very grant: those that gave less are
 *     told F first (the second phase).
 *
 * Proof. Be G an earlier grant under tokens up to g, and N this one. By 2, a majority of nodes recorded G's first token
 * or more, and a node lets go of G in three ways only: told the last token used (release, cancel, force), or by expiry, when
 * it counts the whole range as used; either way it knows g or more. By 1, a majority granted N. The two majorities have
 * a node in common, which granted N after it had let go of G, so under a token larger than g; and F is as large. (Of those
 * who share a key and come in the same moment, neither is earlier, and their tokens may be equal.)
 *
 * The second phase is seldom needed: all nodes are asked for the same floor, a little ahead of the fastest of their clocks,
 * so that they give the same token.
 */
export class AcquireVote {
  #state: 'asking' | 'fencing' | 'granted' | 'failed' = 'asking';
  readonly #answers: (AcquireOutcome | undefined)[];
  readonly #majority: number;
  #missing: number;
  #granted = 0;
  /** The largest token of those that granted: of the first majority, from then on. */
  #fence = 0;
  #sentAt = Number.POSITIVE_INFINITY;
  #othersWait = false;
  /** How many nodes hold `#fence` or more. */
  #holding = 0;
  /** How many are being told `#fence`. */
  #raising = 0;
  #resolve!: (outcome: AcquireOutcome) => void;

  /** `request`: as it's sent to each node; where it has a place, with a sequence. */
  constructor(
    private readonly nodes: readonly QuorumNode[],
    private readonly request: NodeRequest,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {
    this.#majority = majorityOf(nodes.length);
    this.#missing = nodes.length;
    this.#answers = nodes.map(() => undefined);
  }

  run(): Promise<AcquireOutcome> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      // All are written before any is waited for.
      for (let index = 0; index < this.nodes.length; index += 1) {
        const node = this.nodes[index] as QuorumNode;
        node.begin();
        void node.backend.tryAcquire(this.request).then((outcome) => {
          this.#answered(index, outcome);
          node.end();
        });
      }
    });
  }

  #answered(index: number, outcome: AcquireOutcome): void {
    this.#answers[index] = outcome;
    this.#missing -= 1;
    switch (this.#state) {
      case 'asking':
        if (outcome.kind === 'granted') this.#count(outcome);
        if (this.#granted >= this.#majority) this.#beginToFence();
        else if (this.#isHopeless) void this.#fail();
        return;
      case 'fencing':
      case 'granted':
        if (outcome.kind === 'granted') this.#holdFence(index, outcome.fencingToken);
        else if (mayStandInLine(outcome)) this.#undoPlace(index);
        this.#checkFence();
        return;
      case 'failed':
        this.#undo(index, outcome);
    }
  }

  #count({ fencingToken, sentAt, othersWait }: Granted): void {
    this.#granted += 1;
    this.#fence = Math.max(this.#fence, fencingToken);
    // The server's lease can't end before the first of the counted ones does.
    this.#sentAt = Math.min(this.#sentAt, sentAt);
    this.#othersWait ||= othersWait;
  }

  get #isHopeless(): boolean {
    if (this.#missing === 0) return true;
    if (this.request.place !== undefined) return false;
    if (this.#granted + this.#missing >= this.#majority) return false;
    // Of an even number, half may end the hope, and say too little of who has it; and where nobody can be asked, what each
    // node said is to be told.
    const busy = this.#answers.filter((answer) => answer?.kind === 'busy').length;
    return this.#granted + busy >= this.#majority;
  }

  #beginToFence(): void {
    this.#state = 'fencing';
    for (let index = 0; index < this.#answers.length; index += 1) {
      const answer = this.#answers[index];
      if (answer?.kind === 'granted') this.#holdFence(index, answer.fencingToken);
      else if (answer !== undefined && mayStandInLine(answer)) this.#undoPlace(index);
    }
    this.#checkFence();
  }

  /** Makes sure that a node that granted holds the token: exactly this, by which the grant is shown, and released by force. */
  #holdFence(index: number, given: number): void {
    const holds = given >= this.#fence;
    if (holds) this.#holding += 1;
    if (given === this.#fence) return;
    const { name, token, ttl, access = 'exclusive', notAfter, label } = this.request;
    this.#raising += 1;
    const node = this.nodes[index] as QuorumNode;
    node.begin();
    void node.backend
      .tryAcquireAll({
        wanted: [{ name, token }],
        ...{ ttl, access, notAfter, label, fencingToken: this.#fence },
      })
      .then((outcome) => {
        this.#raising -= 1;
        if (outcome.kind === 'granted' && !holds) this.#holding += 1;
        this.#checkFence();
        node.end();
      });
  }

  #checkFence(): void {
    if (this.#state !== 'fencing') return;
    if (this.#holding >= this.#majority) {
      this.#state = 'granted';
      this.#resolve({
        kind: 'granted',
        fencingToken: this.#fence,
        sentAt: this.#sentAt,
        othersWait: this.#othersWait,
      });
    } else if (this.#raising === 0 && this.#missing === 0) {
      this.#state = 'failed';
      // Who asked cancels the token everywhere.
      this.#resolve(noQuorum(this.nodes, this.#answers, true));
    }
  }

  async #fail(): Promise<void> {
    this.#state = 'failed';
    const { place, notAfter } = this.request;
    const kinds = this.#answers.map((answer) => answer?.kind);
    const count = (kind: string) => kinds.filter((one) => one === kind).length;
    const answered = count('granted') + count('busy') + count('conflict');
    const late = count('late');
    if (answered + late < this.#majority) {
      const isUnknown = (answer: AcquireOutcome | undefined) =>
        answer === undefined ||
        answer.kind === 'granted' ||
        (place !== undefined && mayStandInLine(answer)) ||
        (answer.kind === 'unavailable' && answer.mayHaveRun);
      // Who asked cancels the token everywhere, where anything may be left.
      let failure = noQuorum(this.nodes, this.#answers, this.#answers.some(isUnknown));
      if (place !== undefined && failure.facts?.retryAfter !== undefined) {
        // It waits until their guards let in again, and keeps its places in the queues.
        const undone = await this.#undoAll(place, notAfter);
        failure = { ...failure, mayHaveRun: !undone, sequence: this.#sequence };
      }
      const { name, endsAt } = this.request;
      this.#resolve(await withHolders(failure, this.nodes, name, this.clock, endsAt));
      return;
    }
    const spent = !(await this.#undoAll(place, notAfter)) && { spent: true as const };
    if (answered < this.#majority) {
      this.#resolve({ kind: 'late', ...spent });
      return;
    }
    this.#resolve({
      kind: 'busy',
      // The busy ones are too few to be another's majority.
      remaining:
        count('busy') < this.#majority || (spent && place !== undefined)
          ? SHORTEST_PAUSE + this.random() * SPLIT_PAUSE
          : this.#remaining,
      sequence: this.#sequence,
      ...spent,
    });
  }

  /** Its place: what the nodes say, where it has one already. */
  get #sequence(): number | undefined {
    const told = this.#answers.flatMap((answer) =>
      answer !== undefined && mayStandInLine(answer) && answer.sequence !== undefined
        ? [answer.sequence]
        : [],
    );
    return told.length > 0 ? Math.min(...told) : this.request.place?.sequence;
  }

  /** When, in ms, so many nodes could be free that a majority is possible; `undefined`: nobody knows. */
  get #remaining(): number | undefined {
    const times = this.#answers.map((answer) => {
      if (answer?.kind === 'granted') return 0;
      return (answer?.kind === 'busy' ? answer.remaining : undefined) ?? Number.POSITIVE_INFINITY;
    });
    const time = times.toSorted((a, b) => a - b)[this.#majority - 1] as number;
    return time === Number.POSITIVE_INFINITY ? undefined : time;
  }

  /**
   * Undoes what was granted. Whether all of it is undone, so that the token may be used again, and nothing but its places
   * in the queues is left.
   */
  async #undoAll(place: NodePlace | undefined, refusedAfter: number): Promise<boolean> {
    if (place === undefined) {
      // Nobody waits for it.
      let done = this.#missing === 0;
      this.#answers.forEach((answer, index) => {
        if (answer !== undefined && this.#undo(index, answer)) done = false;
      });
      return done;
    }
    const { name, token, access = 'exclusive', ttl, endsAt } = this.request;
    const undone = await Promise.all(
      this.#answers.map(async (answer, index) => {
        if (answer?.kind === 'unavailable') return !answer.mayHaveRun;
        if (answer?.kind !== 'granted') return true;
        // It stands in the queue again before it's handed on: who comes first by its place gets it at all nodes.
        const node = this.nodes[index] as QuorumNode;
        const stood = await node.backend.standBack({
          name,
          token,
          access,
          place,
          notAfter: endsAt,
        });
        return stood.kind === 'cancelled';
      }),
    );
    if (undone.every(Boolean)) return true;
    for (const [index, node] of this.nodes.entries()) {
      node.undo({ name, token, ttl }, undone[index] === true ? undefined : refusedAfter);
    }
    return false;
  }

  /** Undoes what one node did for a try that failed, or may yet do. Whether there's anything. */
  #undo(index: number, answer: AcquireOutcome): boolean {
    const { name, token, ttl, notAfter, place } = this.request;
    const inDoubt = answer.kind === 'unavailable' && answer.mayHaveRun;
    const left = answer.kind === 'granted' || (place !== undefined && mayStandInLine(answer));
    if (!left && !inDoubt) return false;
    (this.nodes[index] as QuorumNode).undo({ name, token, ttl }, inDoubt ? notAfter : undefined);
    return true;
  }

  /** It's held elsewhere: nobody waits for it here any more. */
  #undoPlace(index: number): void {
    const { name, token, ttl, place } = this.request;
    if (place !== undefined) (this.nodes[index] as QuorumNode).undo({ name, token, ttl });
  }
}

export interface NodePlace extends Place {
  readonly sequence: number;
}

export type NodeRequest = Omit<AcquireRequest, 'place'> &
  FencedRequest & {
    readonly place: NodePlace | undefined;
    /** Monotonic time by which the caller is answered, also where something has to be undone first. */
    readonly endsAt: number;
  };

/** Whether who was told so stands in the node's queue, where he has given his place. */
function mayStandInLine(
  answer: AcquireOutcome,
): answer is Extract<AcquireOutcome, { kind: 'busy' | 'unavailable' }> {
  return answer.kind === 'busy' || (answer.kind === 'unavailable' && answer.sequence !== undefined);
}
