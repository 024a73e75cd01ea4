import type { NodeAnswer } from '../errors.js';
import type { NamesOutcome, ReleaseOutcome, Unavailable } from './lock-backend.js';
import type { Answer, QuorumNode } from './quorum-node.js';

/** More than half of all: any two majorities have a node in common, also of an even number. */
export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1;
}

/**
 * Asks all nodes the same at once, and answers as soon as what has come suffices: who is slow isn't waited for.
 *
 * `decide` is asked after each answer, and must know when none is missing. `settle` is told of each node's answer once
 * it's decided: of those that came before, and of those that come later.
 */
export function inquire<T, R>(
  nodes: readonly QuorumNode[],
  send: (node: QuorumNode) => Promise<T>,
  decide: (answers: Answers<T>, missing: number) => R | undefined,
  settle?: (node: QuorumNode, answer: T, decision: R) => void,
): Promise<R> {
  const answers: (T | undefined)[] = nodes.map(() => undefined);
  let missing = nodes.length;
  let decision: R | undefined;
  return new Promise((resolve) => {
    const onAnswer = (index: number, answer: T): void => {
      answers[index] = answer;
      missing -= 1;
      if (decision !== undefined) {
        settle?.(nodes[index] as QuorumNode, answer, decision);
        return;
      }
      decision = decide(answers, missing);
      if (decision === undefined) return;
      resolve(decision);
      if (settle === undefined) return;
      for (const [earlier, one] of answers.entries()) {
        if (one !== undefined) settle(nodes[earlier] as QuorumNode, one, decision);
      }
    };
    // All are written before any is waited for.
    nodes.forEach((node, index) => {
      node.begin();
      void send(node).then((answer) => {
        onAnswer(index, answer);
        node.end();
      });
    });
  });
}

/** One a node, in their order; none from those that haven't answered yet. */
export type Answers<T> = readonly (T | undefined)[];

/** What any node tells, where so many can be asked. */
export function inquireNames(
  nodes: readonly QuorumNode[],
  ask: (node: QuorumNode) => Promise<NamesOutcome>,
  atLeast: number,
): Promise<NamesOutcome> {
  return inquire(nodes, ask, (answers, missing): NamesOutcome | undefined => {
    if (missing > 0) return undefined;
    const told = answers.filter((answer) => answer?.kind === 'names');
    if (told.length < atLeast) return noQuorum(nodes, answers, false);
    const all = told.flatMap(({ names }) => names);
    return { kind: 'names', names: [...new Map(all.map((one) => [one.owner, one])).values()] };
  });
}

/** Decides what each node did, or found not to be the token's. */
export function decideRelease(
  nodes: readonly QuorumNode[],
): (answers: Answers<ReleaseOutcome>, missing: number) => ReleaseOutcome | undefined {
  const majority = majorityOf(nodes.length);
  return (answers, missing) => {
    const count = (kind: string) => answers.filter((answer) => answer?.kind === kind).length;
    if (count('released') >= majority) return { kind: 'released' };
    // No majority is left that could have it.
    if (count('taken') > nodes.length - majority) return { kind: 'taken' };
    return missing === 0 ? noQuorum(nodes, answers, true) : undefined;
  };
}

/** Too few answered, or they didn't agree. */
export function noQuorum(
  nodes: readonly QuorumNode[],
  answers: Answers<Answer>,
  mayHaveRun: boolean,
): Unavailable {
  const each = nodes.map((node, index) => node.answer(answers[index]));
  const { cause } = each.find((one) => one.cause !== undefined) ?? {};
  const facts = { nodes: each, ...guardedFor(each) };
  return { kind: 'unavailable', reason: 'quorum', cause, mayHaveRun, facts };
}

/** When a majority can be asked again, where only guards stand in the way. */
function guardedFor(answers: readonly NodeAnswer[]): { retryAfter: number } | undefined {
  const waits = answers.map(({ answer, retryAfter = Number.POSITIVE_INFINITY }) => {
    if (answer === 'guard') return retryAfter;
    return DECIDED.has(answer) ? 0 : Number.POSITIVE_INFINITY;
  });
  const retryAfter = waits.toSorted((a, b) => a - b)[majorityOf(answers.length) - 1] as number;
  return retryAfter > 0 && Number.isFinite(retryAfter) ? { retryAfter } : undefined;
}

/** Answers of nodes that can be asked. */
const DECIDED: ReadonlySet<NodeAnswer['answer']> = new Set(['granted', 'busy', 'done', 'taken']);
