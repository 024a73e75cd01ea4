import type { Clock, Timer } from '../clock.js';
import type { LockName } from '../lock-name.js';
import type { QuorumNode } from './quorum-node.js';
import type { Unavailable } from './unavailable.js';

/**
 * What the nodes answered, where they came to no decision, with who holds the key at each that is busy. It's asked only now,
 * for the error: a try that is decided doesn't pay for it. Who doesn't say so by `endsAt` (monotonic) is shown as busy alone.
 */
export async function withHolders(
  failure: Unavailable,
  nodes: readonly QuorumNode[],
  name: LockName,
  clock: Clock,
  endsAt: number,
): Promise<Unavailable> {
  const { nodes: answers = [] } = failure.facts ?? {};
  if (!answers.some(({ answer }) => answer === 'busy')) return failure;
  let timer: Timer | undefined;
  const timeUp = new Promise<undefined>((resolve) => {
    timer = clock.after(endsAt - clock.now(), () => resolve(undefined));
  });
  const told = await Promise.all(
    answers.map(async (its, index) => {
      if (its.answer !== 'busy') return its;
      const holder = await Promise.race([nodes[index]?.holderOf(name), timeUp]);
      return holder === undefined ? its : { ...its, holder };
    }),
  );
  timer?.cancel();
  return { ...failure, facts: { ...failure.facts, nodes: told } };
}
