import { randomBytes } from 'node:crypto';

import { Backoff } from '../backoff.js';
import type { Clock } from '../clock.js';
import type { KeyPattern } from '../key-pattern.js';
import type { LockName } from '../lock-name.js';
import { type Answers, inquire, inquireNames, majorityOf, noQuorum } from './inquiry.js';
import type { QuorumNode } from './quorum-node.js';
import type { AcceptOutcome, Ballot, PromiseOutcome } from './run-acceptor.js';
import {
  buried,
  claimed,
  finished,
  forgotten,
  type HistoryStep,
  type RunHistory,
} from './run-history.js';
import type {
  AbandonOutcome,
  ClaimOutcome,
  ClaimRequest,
  FinishOutcome,
  FinishRequest,
  JobsOutcome,
  ListOutcome,
  RunStore,
} from './run-store.js';
import type { Unavailable } from './unavailable.js';

/** Who is outvoted tries again after a pause, in ms: at random, and each time later, so that one of several gets through. */
const FIRST_PAUSE = 5;
const LONGEST_PAUSE = 200;
/** For how long a node remembers a step of which nobody says how long it counts, in ms. */
const SHORTEST_MEMORY = 60_000;
const PROPOSER_BYTES = 9;

/**
 * Runs of jobs on several independent nodes. The history of a job is one value, which each step changes as a whole, and
 * every step is voted on: this is CASPaxos.
 *
 *     promising ──a majority promised──▶ the step is applied to the newest history that these know
 *        ▲  │                                   │
 *        │  │                                accepting ──a majority accepted──▶ done: it's the history
 *        │  └──a newer proposal is there─┐      │
 *        └──────── a random pause ◀──────┴──────┘
 *
 * A node promises a proposal to accept none with a lower number, tells what it accepted last, and accepts a proposal only
 * while it's the last that it promised (`promise-runs.lua`, `accept-runs.lua`).
 *
 * One history. Be H accepted by a majority under the number n; then every proposal with a higher number builds on H. Of
 * those, be m the lowest that doesn't, whose promises came from a majority. The two majorities have a node in common. It
 * accepted H before it promised m: after that, it would have refused n. So it told m of H, or of what it accepted
 * since, under a number between n and m, which builds on H as m is the lowest that doesn't. And whatever m heard of under a
 * higher number than that builds on H too. So m does, against what was assumed. Two proposals under one number: each node
 * promises one of them, so only one gets a majority.
 *
 * So a tick is claimed once: of two claims, the later one builds on a history with the earlier one in it, and is told so. A
 * node that was away when a tick was claimed can't give it again, since it's no majority. Of a claim that only some nodes
 * accepted, because its process crashed in between or a newer one overtook it, it's undecided whether it counts, until
 * the next step is voted on: either that hears of it, builds on it, and from then on it counts; or it doesn't, and then
 * nobody ever will. Its own process doesn't begin the work before it counts, and where it can't find that out, it asks for the
 * claim to be forgotten (`abandon`): a step like any other, behind which no late command can bring it back.
 *
 * A node that has lost its data has forgotten what it promised, and accepts nothing that it hasn't promised since. But what it
 * says that it had accepted may be nothing, or older than what it was, so that it doesn't speak for the majority that
 * accepted the last step. Hence all are waited for, though a majority would do: the history is known as long as one of those that
 * answer had a part in the last step and still knows of it, and the next step brings it to the others. Where all of these have lost
 * it, or can't be reached, a tick may be run again.
 *
 * Steps are told how old a history may get; a node keeps it for as long as any of those that promised do, so that
 * none that is obsolete outlives its successor.
 *
 * What only asks, and a claim that was outvoted, need no vote where a majority has accepted the same last. Within a process, the steps of a job take turns.
 *
 * @see https://arxiv.org/abs/1802.07000 (CASPaxos: Replicated State Machines without logs)
 */
export class QuorumRunStore implements RunStore {
  readonly #majority: number;
  /** The last step of each job in this process. */
  readonly #turns = new Map<string, Promise<unknown>>();

  constructor(
    private readonly nodes: readonly QuorumNode[],
    private readonly commandTimeout: number,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {
    this.#majority = majorityOf(nodes.length);
  }

  claim(name: LockName, request: ClaimRequest): Promise<ClaimOutcome> {
    const step = (runs: RunHistory, now: number) => claimed(runs, request, now);
    // Who has a lock for it has just looked.
    return this.#ask(name, step, request.retain, request.run.lock === undefined ? 0 : 1);
  }

  abandon(name: LockName, token: string): Promise<AbandonOutcome> {
    // Voted on also where nobody is heard of it: somebody may have accepted it.
    return this.#change(name, (runs) => ({
      reply: { kind: 'abandoned' },
      runs: forgotten(runs, [token]),
    }));
  }

  finish(name: LockName, request: FinishRequest): Promise<FinishOutcome> {
    return this.#change(name, (runs, now) => finished(runs, request, now), request.retain);
  }

  list(name: LockName, dead: readonly string[]): Promise<ListOutcome> {
    return this.#ask(name, (before) => {
      const runs = buried(before, dead);
      return { reply: { kind: 'listed', runs }, runs };
    });
  }

  names(prefix: string, pattern: KeyPattern): Promise<JobsOutcome> {
    const ask = ({ backend }: QuorumNode) => backend.acceptor.names(prefix, pattern);
    return inquireNames(this.nodes, ask, this.#majority);
  }

  /** A step that often changes nothing. `looksFrom`: at which try to look for the first time whether it does. */
  #ask<R>(
    name: LockName,
    step: Step<R>,
    keepFor?: number,
    looksFrom = 0,
  ): Promise<R | Unavailable> {
    return this.#inTurn(name, (giveUpAt) =>
      this.#propose(name, step, keepFor, giveUpAt, looksFrom),
    );
  }

  /** A step that's voted on whatever a majority knows. */
  #change<R>(name: LockName, step: Step<R>, keepFor?: number): Promise<R | Unavailable> {
    return this.#ask(name, step, keepFor, Number.POSITIVE_INFINITY);
  }

  /** Proposals of one process would only outvote each other. */
  #inTurn<R>(
    { owner }: LockName,
    take: (giveUpAt: number) => Promise<R | Unavailable>,
  ): Promise<R | Unavailable> {
    const giveUpAt = this.clock.now() + this.commandTimeout;
    const before = this.#turns.get(owner) ?? Promise.resolve();
    const turn = before.then(() =>
      this.clock.now() < giveUpAt
        ? take(giveUpAt)
        : noQuorum(
            this.nodes,
            this.nodes.map(() => undefined),
            false,
          ),
    );
    this.#turns.set(owner, turn);
    void turn.then(() => {
      if (this.#turns.get(owner) === turn) this.#turns.delete(owner);
    });
    return turn;
  }

  #look(name: LockName): Promise<Seen | Unavailable> {
    return inquire(
      this.nodes,
      ({ backend }) => backend.acceptor.look(name),
      (answers, missing): Seen | Unavailable | undefined => {
        const told = answers.filter(isTold);
        const accepted = Math.max(...told.map((one) => one.accepted));
        const newest = told.filter((one) => one.accepted === accepted);
        const [first] = newest;
        if (missing > 0 && (accepted === 0 || newest.length < this.#majority)) return undefined;
        if (first === undefined || told.length < this.#majority) {
          // Who is only asked promises nothing: that's not to be outvoted.
          const asked = answers.map((answer) => (isTold(answer) ? DONE : answer));
          return noQuorum(this.nodes, asked, false);
        }
        return {
          kind: newest.length >= this.#majority ? 'agreed' : 'open',
          accepted,
          promised: Math.max(...told.map((one) => one.promised)),
          runs: first.runs,
          now: middleOf(told.map(({ now }) => now)),
        };
      },
    );
  }

  async #propose<R>(
    name: LockName,
    step: Step<R>,
    keepFor = SHORTEST_MEMORY,
    giveUpAt: number,
    looksFrom: number,
  ): Promise<R | Unavailable> {
    const backoff = new Backoff(FIRST_PAUSE, LONGEST_PAUSE, this.random);
    let above = this.#latestClock();
    // The last that some may have accepted, though it was outvoted.
    let proposed = 0;
    const failed = (why: Unavailable): Unavailable => ({ ...why, mayHaveRun: proposed > 0 });
    for (let tries = 0; ; tries += 1) {
      if (tries >= looksFrom) {
        const seen = await this.#look(name);
        if (seen.kind === 'unavailable') return failed(seen);
        // Of those who come at once, all but one find it decided, and outvote nobody any more. What was proposed before that is a
        // part of it, or will never be.
        if (seen.kind === 'agreed' && seen.accepted >= proposed) {
          const { reply, runs } = step(seen.runs, seen.now);
          if (runs === seen.runs) return reply;
        }
        above = Math.max(above, seen.promised);
      }
      const by = randomBytes(PROPOSER_BYTES).toString('base64url');
      const ballot: Ballot = { number: above + 1, by };
      const base = await this.#promise(name, ballot, keepFor);
      if (base.kind === 'unavailable') return failed(base);
      let outvoted: Outvoted;
      if (base.kind === 'promised') {
        const { reply, runs, retain = 0 } = step(base.runs, base.now);
        const outcome = await this.#accept(name, ballot, Math.max(retain, base.kept), runs);
        if (outcome.kind === 'accepted') return reply;
        if (outcome.kind === 'unavailable') return outcome;
        if (runs !== base.runs) proposed = ballot.number;
        outvoted = outcome;
      } else {
        outvoted = base;
      }
      const pause = backoff.next();
      if (this.clock.now() + pause >= giveUpAt) return failed(outvoted.told);
      // One that has lost its data may name a lower number.
      above = Math.max(ballot.number, outvoted.promised);
      await new Promise<void>((resolve) => this.clock.after(pause, resolve));
    }
  }

  #promise(
    name: LockName,
    ballot: Ballot,
    keepFor: number,
  ): Promise<Base | Outvoted | Unavailable> {
    return inquire(
      this.nodes,
      ({ backend }) => backend.acceptor.promise(name, ballot, keepFor),
      (answers, missing): Base | Outvoted | Unavailable | undefined => {
        const told = answers.filter(isTold);
        const given = told.filter(({ kind }) => kind === 'promised');
        const isOutvoted = given.length < told.length;
        if (missing === 0 && given.length >= this.#majority && !isOutvoted) {
          const newest = given.toSorted((a, b) => b.accepted - a.accepted)[0] as Told;
          return {
            kind: 'promised',
            runs: newest.runs,
            kept: Math.max(...given.map(({ kept }) => kept)),
            now: middleOf(given.map(({ now }) => now)),
          };
        }
        const unavailable = () => noQuorum(this.nodes, answers.map(toldAs), false);
        // Whoever has promised another one may know what these don't.
        if (told.length >= this.#majority && isOutvoted) return outvotedBy(told, unavailable());
        return missing === 0 ? unavailable() : undefined;
      },
    );
  }

  #accept(
    name: LockName,
    ballot: Ballot,
    keepFor: number,
    runs: RunHistory,
  ): Promise<{ readonly kind: 'accepted' } | Outvoted | Unavailable> {
    return inquire(
      this.nodes,
      ({ backend }) => backend.acceptor.accept(name, ballot, keepFor, runs),
      (answers, missing): { kind: 'accepted' } | Outvoted | Unavailable | undefined => {
        const accepted = answers.filter((answer) => answer?.kind === 'accepted').length;
        if (accepted >= this.#majority) return { kind: 'accepted' };
        const refused = answers.filter((answer) => answer?.kind === 'outvoted');
        const unavailable = () => noQuorum(this.nodes, answers.map(toldAs), true);
        // It can't get a majority any more.
        const isHopeless = refused.length > this.nodes.length - this.#majority;
        const hasAnswers = accepted + refused.length >= this.#majority;
        if (isHopeless || (missing === 0 && hasAnswers)) return outvotedBy(refused, unavailable());
        return missing === 0 ? unavailable() : undefined;
      },
    );
  }

  /** The number of a proposal is higher than most that were made before, if it's near the nodes' time in µs. */
  #latestClock(): number {
    const now = this.clock.now();
    const clocks = this.nodes.map(({ backend }) => backend.serverTimeAt(now) ?? 0);
    return Math.floor(Math.max(...clocks) * 1_000);
  }
}

type Step<R> = (runs: RunHistory, now: number) => HistoryStep<R>;

type Told = Exclude<PromiseOutcome, Unavailable>;

/** What a majority knows. `agreed`: all of it has accepted the same last. */
interface Seen {
  readonly kind: 'agreed' | 'open';
  readonly accepted: number;
  readonly promised: number;
  readonly runs: RunHistory;
  readonly now: number;
}

/** What a proposal builds on. */
interface Base {
  readonly kind: 'promised';
  readonly runs: RunHistory;
  readonly kept: number;
  readonly now: number;
}

interface Outvoted {
  readonly kind: 'outvoted';
  /** The highest number that was promised to another. */
  readonly promised: number;
  /** For who has no time to try again. */
  readonly told: Unavailable;
}

function outvotedBy(
  answers: readonly { readonly promised: number }[],
  told: Unavailable,
): Outvoted {
  return { kind: 'outvoted', promised: Math.max(...answers.map(({ promised }) => promised)), told };
}

function isTold(answer: PromiseOutcome | undefined): answer is Told {
  return answer !== undefined && answer.kind !== 'unavailable';
}

/** As an error tells it. */
function toldAs(answer: PromiseOutcome | AcceptOutcome | undefined): Answers<ToldAs>[number] {
  if (answer === undefined || answer.kind === 'unavailable') return answer;
  return answer.kind === 'outvoted' ? OUTVOTED : DONE;
}

type ToldAs = Unavailable | typeof OUTVOTED | typeof DONE;
const OUTVOTED = { kind: 'busy', remaining: undefined, sequence: undefined } as const;
const DONE = { kind: 'connected' } as const;

/** One clock of three that is wrong can't move it; of two, the later. */
function middleOf(clocks: readonly number[]): number {
  return clocks.toSorted((a, b) => a - b)[clocks.length >> 1] as number;
}
