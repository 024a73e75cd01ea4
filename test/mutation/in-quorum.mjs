/** Lines by which several independent servers hold one lock. */
import {
  cleanUp,
  queue,
  quorum,
  quorumLeases,
  quorumRuns,
  quorumSafety,
  quorumUnit,
  vote,
} from './tests.mjs';

const of = (name) => `lib/core/backend/${name}.ts`;

export const inQuorum = [
  {
    name: 'quorum: a majority is more than half',
    file: of('inquiry'),
    find: 'return Math.floor(count / 2) + 1;',
    replace: 'return Math.ceil(count / 2);',
    test: vote('at 4 nodes is won by 3'),
  },
  {
    name: 'quorum: a try that failed is undone where it was granted',
    file: of('acquire-vote'),
    find: 'if (!left && !inDoubt) return false;',
    replace: 'if (!inDoubt) return false;',
    test: vote('that fails is undone where it was granted and where it is in doubt'),
  },
  {
    name: 'quorum: a try that failed is undone where it is in doubt',
    file: of('acquire-vote'),
    find: 'if (!left && !inDoubt) return false;',
    replace: 'if (!left) return false;',
    test: vote('that fails is undone where it was granted and where it is in doubt'),
  },
  {
    name: 'quorum: a fencing token counts once a majority holds it',
    file: of('acquire-vote'),
    find: 'const holds = given >= this.#fence;',
    replace: 'const holds = given > 0;',
    test: vote('is granted the larger, once a majority holds it'),
  },
  {
    name: 'quorum: the largest of the tokens that were given',
    file: of('acquire-vote'),
    find: 'this.#fence = Math.max(this.#fence, fencingToken);',
    replace: 'this.#fence = fencingToken;',
    test: vote('is granted the larger, once a majority holds it'),
  },
  {
    name: 'quorum: the lease counts from the first command',
    file: of('acquire-vote'),
    find: 'this.#sentAt = Math.min(this.#sentAt, sentAt);',
    replace: 'this.#sentAt = performance.now();',
    test: vote('counts from when the first of its majority was asked'),
  },
  {
    name: 'quorum: who has won waits in no queue',
    file: of('acquire-vote'),
    find: '(this.nodes[index] as QuorumNode).undo({ name, token, ttl });\n',
    replace: 'return;\n',
    test: vote('of one who waits that is won leaves no place in the queues of the others'),
  },
  {
    name: 'quorum: a majority must renew',
    file: of('quorum-backend'),
    find: `if (extended >= this.#majority) outcomes`,
    replace: `if (extended > 0) outcomes`,
    test: quorum('a quorum of 3 renews by a majority, and by no fewer'),
  },
  {
    name: 'quorum: a release goes on at the nodes that did not answer',
    file: of('quorum-backend'),
    find: `if (decision.kind === 'unavailable' || answer.kind === 'released') return;`,
    replace: `if (decision !== undefined) return;`,
    test: quorum('what a majority decided without it is undone there: it comes in time for it'),
  },
  {
    name: 'quorum: a node that is heard again makes holders look',
    file: of('quorum-wake-up'),
    find: '(again && hearing > this.majority)',
    replace: 'false',
    test: quorum('that is not renewed is kept where it is still held (messages of all nodes)'),
  },
  {
    name: 'quorum: a release by force of which few nodes tell makes holders look',
    file: of('quorum-wake-up'),
    find: `if (round.nodes.size === 1) this.#lookUnlessTold(round);`,
    test: quorumLeases('a lease that is released by force where only one node had it'),
  },
  {
    name: 'quorum: what too few nodes show, while others are silent, is not sure',
    file: of('agreed-state'),
    find: 'majority: majorityOf(count),',
    test: quorumUnit('a node is silent that would make a majority'),
  },
  {
    name: 'quorum: a grant on its way is undone where a release was made up for',
    file: of('quorum-node'),
    find: 'this.undo(request(), refusedAfter)',
    replace: 'this.undo(request())',
    test: quorumUnit('undoes a grant that comes to a node after the release was done there'),
  },
  {
    name: 'quorum: who was late at most nodes leaves no place at the others',
    file: 'lib/core/wait-queue.ts',
    find: `        if (queues) stand.left = lifeOf(ttl);\n`,
    test: queue('a first try that came too late for most servers'),
  },
  {
    name: 'quorum: no node is opened before all were asked for locks',
    file: of('quorum-backend'),
    find: `if (traces.names.length > 0) return { kind: 'in-use', names: traces.names };`,
    test: quorumSafety('opens none of those that came back empty'),
  },

  // Runs of jobs
  {
    name: 'runs by votes: all nodes are waited for',
    file: of('quorum-run-store'),
    find: 'if (missing === 0 && given.length >= this.#majority && !isOutvoted) {',
    replace: 'if (given.length >= this.#majority && !isOutvoted) {',
    test: quorumRuns('gives no tick again, though another one was away when it was run'),
  },
  {
    name: 'runs by votes: a step builds on the newest',
    file: of('quorum-run-store'),
    find: 'b.accepted - a.accepted',
    replace: 'a.accepted - b.accepted',
    test: quorumRuns('has claimed the tick, where the next step hears of it'),
  },
  {
    name: 'runs by votes: a step counts once a majority accepted it',
    file: of('quorum-run-store'),
    find: `if (accepted >= this.#majority) return { kind: 'accepted' };`,
    replace: `if (accepted > 0) return { kind: 'accepted' };`,
    test: quorumRuns('by 2 of three nodes is taken back'),
  },
  {
    name: 'runs by votes: nothing is accepted that was not promised last',
    file: 'lib/core/redis/accept-runs.lua',
    find: 'if promised ~= ARGV[1] or by ~= ARGV[2] then',
    replace: 'if promised and (promised ~= ARGV[1] or by ~= ARGV[2]) then',
    test: quorumRuns('is overtaken by who comes later'),
  },
  {
    name: 'quorum: what a few nodes have left of a release is undone',
    file: 'lib/core/clean-up.ts',
    find: "if (outcome.kind !== 'taken' || !this.backend.losesInPart) return outcome;",
    replace: 'return outcome;',
    test: cleanUp('undoes what a few nodes may have left of a release that most know nothing of'),
  },
];
