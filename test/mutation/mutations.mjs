/**
 * The lines on which the promises stand (README, "What it promises"), each with the tests that fail without it: run by
 * `npm run mutate`. `mutations.spec.ts` sees to it that each is still found where it's said to be.
 *
 * `find` occurs once in the file and is replaced; by nothing where `replace` is left out.
 */
const BACKEND = ['test/conformance/lock-backend.spec.ts'];
const LOCKERS = ['test/conformance/locker.spec.ts'];
const SCRIPTS = ['test/conformance/redis-scripts.spec.ts'];
const LEASE = ['test/unit/lease.spec.ts'];
const LOCKER = ['test/unit/locker.spec.ts', 'test/unit/wait-queue.spec.ts'];
const GUARD = ['test/integration/guard.spec.ts'];
const REPLICAS = ['test/integration/replicas.spec.ts'];
const QUORUM = ['test/integration/quorum.spec.ts', 'test/conformance/lock-backend.spec.ts'];
const VOTE = ['test/unit/acquire-vote.spec.ts'];
const NETWORK = ['test/integration/faults-network.spec.ts'];

export const mutations = [
  {
    name: 'P6 a release compares the token',
    file: 'lib/core/redis/release.lua',
    find: ` or string.sub(record, 34, 34 + #token) ~= token .. ' '`,
    tests: BACKEND,
  },
  {
    name: 'P6 a renewal compares the token',
    file: 'lib/core/redis/extend.lua',
    find: `
    and string.sub(record, 34, 33 + length) == string.sub(tokens, (i - 1) * length + 1, i * length)`,
    tests: BACKEND,
  },
  {
    name: 'P6 a cancel compares the token',
    file: 'lib/core/redis/cancel.lua',
    find: 'if token == ARGV[1] then',
    replace: 'if token then',
    tests: BACKEND,
  },
  {
    name: 'P6 a sharer gives back only its own place',
    file: 'lib/core/redis/leave.lua',
    find: `if not alone and string.sub(info or '', 1, 2) ~= 'h ' then return 0 end`,
    tests: BACKEND,
  },
  {
    name: 'P2 a lease that has ended is not renewed',
    file: 'lib/core/redis/extend.lua',
    find: ' and tonumber(string.sub(record, 20, 32)) > now',
    tests: BACKEND,
  },
  {
    name: 'P1 one at a time',
    file: 'lib/core/redis/_hand-on.lua',
    find: `if access == 'exclusive' or access ~= inside.access then return false end`,
    tests: BACKEND,
  },
  {
    name: 'P1 no more than the limit',
    file: 'lib/core/redis/_hand-on.lua',
    find: 'return not limit or inside.count < tonumber(limit)',
    replace: 'return true',
    tests: BACKEND,
  },
  {
    name: 'P1 an acquire that was held up takes nothing',
    file: 'lib/core/redis/acquire.lua',
    find: 'if now > tonumber(ARGV[3])',
    replace: 'if tonumber(ARGV[3]) < 0',
    tests: SCRIPTS,
  },
  {
    name: 'P1 an acquire of a shared lock that was held up takes nothing',
    file: 'lib/core/redis/share.lua',
    find: 'if now > tonumber(ARGV[3])',
    replace: 'if tonumber(ARGV[3]) < 0',
    tests: SCRIPTS,
  },
  {
    name: 'P1 an acquire of several keys that was held up takes nothing',
    file: 'lib/core/redis/acquire-all.lua',
    find: 'if now > tonumber(ARGV[2])',
    replace: 'if tonumber(ARGV[2]) < 0',
    tests: SCRIPTS,
  },
  {
    name: 'P1 a release by force that was held up takes nothing',
    file: 'lib/core/redis/force-release.lua',
    find: 'if now > tonumber(ARGV[4])',
    replace: 'if tonumber(ARGV[4]) < 0',
    tests: SCRIPTS,
  },
  {
    name: 'P1 the deadline is told to the server no later than it is',
    file: 'lib/core/redis/server-clock.ts',
    find: 'return localTime + this.#low - sinceObserved * DRIFT;',
    replace: 'return localTime + this.#high + sinceObserved * DRIFT;',
    tests: ['test/unit/server-clock.spec.ts'],
  },
  {
    name: 'P1 all or none of several keys',
    file: 'lib/core/redis/acquire-all.lua',
    find: `if given > 0 or waits or not may_enter(access, inside) then`,
    replace: 'if given > 0 then',
    tests: LOCKERS,
  },
  {
    name: 'P7 nobody passes those who wait',
    file: 'lib/core/redis/acquire-all.lua',
    find: 'if given > 0 or waits or not may_enter',
    replace: 'if given > 0 or not may_enter',
    tests: LOCKERS,
  },
  {
    name: 'P7 what is reserved ends with the claim window',
    file: 'lib/core/redis/_constants.lua',
    find: 'local CLAIM_WINDOW = 1000',
    replace: 'local CLAIM_WINDOW = 60000',
    tests: BACKEND,
  },
  {
    name: 'P7 what is reserved is kept for the one who was woken',
    file: 'lib/core/redis/_constants.lua',
    find: 'local CLAIM_WINDOW = 1000',
    replace: 'local CLAIM_WINDOW = 1',
    tests: BACKEND,
  },
  {
    name: 'P7 a waiter whose process is gone is passed over',
    file: 'lib/core/redis/_hand-on.lua',
    find: `woken = type(receivers) ~= 'number' or receivers > 0 or count_receivers ~= '1'`,
    replace: 'woken = true',
    tests: BACKEND,
  },
  {
    name: 'P3 a fencing token is larger than the last',
    file: 'lib/core/redis/acquire.lua',
    find: 'local fence = math.max(tonumber(floor), last + 1)',
    replace: 'local fence = tonumber(floor)',
    tests: BACKEND,
  },
  {
    name: 'P3 a fencing token has the clock for a floor',
    file: 'lib/core/redis/acquire.lua',
    find: 'local fence = math.max(tonumber(floor), last + 1)',
    replace: 'local fence = last + 1',
    tests: SCRIPTS,
  },
  {
    name: 'P3 a holder that was cut off may have used its whole range',
    file: 'lib/core/redis/acquire.lua',
    find: `if state == 'h' and ends <= now then last = last + FENCE_RANGE - 1 end`,
    tests: BACKEND,
  },
  {
    name: 'P3 a release tells the last fencing token that was used',
    file: 'lib/core/redis/release.lua',
    find: `free(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[4], {count = 0})`,
    replace: `free(KEYS[1], KEYS[2], KEYS[3], tonumber(string.sub(record, 3, 18)), ARGV[4], {count = 0})`,
    tests: BACKEND,
  },
  {
    name: 'P2 a lease ends at its deadline',
    file: 'lib/core/lease.ts',
    find: `if (now >= this.deadline) this.lose('expired');
      else if`,
    replace: 'if',
    tests: LEASE,
  },
  {
    name: 'P2 the deadline allows for drift',
    file: 'lib/core/lease.ts',
    find: 'return sentAt + ttl * (1 - DRIFT) - DEADLINE_MARGIN;',
    replace: 'return sentAt + ttl - DEADLINE_MARGIN;',
    tests: LEASE,
  },
  {
    name: 'P2 a renewal counts from when it was sent',
    file: 'lib/core/lease.ts',
    find: 'this.deadline = Math.max(this.deadline, validUntil(sentAt, this.ttl));',
    replace: 'this.deadline = Math.max(this.deadline, validUntil(now, this.ttl));',
    tests: LEASE,
  },
  {
    name: 'P2 a late renewal brings nothing back',
    file: 'lib/core/lease.ts',
    find: `if (!this.isHeldAt(now)) return;
    this.sentAt = sentAt;`,
    replace: 'this.sentAt = sentAt;',
    tests: LEASE,
  },
  {
    name: 'P2 the signal aborts on a loss',
    file: 'lib/core/lease.ts',
    find: `this.#controller?.abort(this.lostError());
    this.#onLost(this, reason);`,
    replace: 'this.#onLost(this, reason);',
    tests: LEASE,
  },
  {
    name: 'P2 a renewal that meets another holder is a loss',
    file: 'lib/core/renewal.ts',
    find: `lease.lose('taken');
          return;`,
    replace: 'return;',
    tests: ['test/unit/renewal.spec.ts'],
  },
  {
    name: 'P2 a timer looks at each deadline',
    file: 'lib/core/renewal.ts',
    find: 'const end = Math.min(lease.deadline, lease.holdUntil);',
    replace: 'const end = Number.POSITIVE_INFINITY;',
    tests: ['test/unit/renewal.spec.ts'],
  },
  {
    name: 'P5 what is in doubt is undone (a waiter)',
    file: 'lib/core/wait-queue.ts',
    find: 'this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl }, notAfter);',
    tests: [...LOCKER, ...NETWORK],
  },
  {
    name: 'P5 a grant that comes too late is none (a waiter)',
    file: 'lib/core/wait-queue.ts',
    find: ` &&
      this.context.clock.now() < validUntil(grant.sentAt, ttl);`,
    replace: ';',
    tests: [...LOCKER, ...NETWORK],
  },
  {
    name: 'P5 a waiter that leaves gives up its place',
    file: 'lib/core/wait-queue.ts',
    find: 'if (left > 0) this.context.cleanUp.cancel({ name: this.name, token, ttl: left });',
    tests: LOCKER,
  },
  {
    name: 'P5 what is undone is undone again when the command in doubt would be late',
    file: 'lib/core/clean-up.ts',
    find: 'if (done && sentAt >= settledAt) return;',
    replace: 'if (done) return;',
    tests: ['test/unit/clean-up.spec.ts'],
  },
  {
    name: 'P1 no command is sent twice by the client',
    file: 'lib/core/redis/connection.ts',
    find: `autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,`,
    replace: `autoResendUnfulfilledCommands: true,
    maxRetriesPerRequest: 20,`,
    tests: [...SCRIPTS, ...NETWORK],
  },
  {
    name: 'guard: a grant looks at its record',
    file: 'lib/core/redis/_guard.lua',
    find: `if redis.call('GET', guard_key) == expected
    and`,
    replace: `if redis.call('GET', guard_key) ~= 'none'
    and`,
    tests: GUARD,
  },
  {
    name: 'guard: data that was lost',
    file: 'lib/core/redis/check-guard.lua',
    find: `if news then`,
    replace: `if news and news ~= 'no-record' then`,
    tests: GUARD,
  },
  {
    name: 'guard: a server that restarted or was promoted',
    file: 'lib/core/redis/check-guard.lua',
    find: `of ~= id and 'other-server' or `,
    tests: GUARD,
  },
  {
    name: 'guard: a master that was a replica in between',
    file: 'lib/core/redis/_server-id.lua',
    find: `string.find(promoted_from, '[^0]')`,
    replace: `false`,
    tests: GUARD,
  },
  {
    name: 'guard: an old master that is back',
    file: 'lib/core/redis/check-guard.lua',
    find: ` or epoch < seen and 'older-data'`,
    tests: GUARD,
  },
  {
    name: 'guard: as long as the longest lease',
    file: 'lib/core/redis/check-guard.lua',
    find: 'math.ceil(longest * (1 + DRIFT)) + lag',
    replace: 'lag',
    tests: GUARD,
  },
  {
    name: 'guard: and as an old master may still grant',
    file: 'lib/core/redis/check-guard.lua',
    find: 'math.ceil(longest * (1 + DRIFT)) + lag',
    replace: 'math.ceil(longest * (1 + DRIFT))',
    tests: GUARD,
  },
  {
    name: 'replicas: too few is no confirmation',
    file: 'lib/core/redis/confirmed-connection.ts',
    find: 'if (confirmed >= wanted && onOwnDisk >= 1) return undefined;',
    replace: 'return undefined;',
    tests: REPLICAS,
  },
  {
    name: 'replicas: a renewal is confirmed as well',
    file: 'lib/core/backend/redis-backend.ts',
    find: `await ifConfirmed<ExtendOutcome>({ kind: 'extended', sentAt }, confirmed)`,
    replace: `await ifConfirmed<ExtendOutcome>({ kind: 'extended', sentAt }, undefined)`,
    tests: REPLICAS,
  },
  {
    name: 'quorum: a majority is more than half',
    file: 'lib/core/backend/inquiry.ts',
    find: 'return Math.floor(count / 2) + 1;',
    replace: 'return Math.ceil(count / 2);',
    tests: VOTE,
  },
  {
    name: 'quorum: a try that failed is undone where it was granted',
    file: 'lib/core/backend/acquire-vote.ts',
    find: 'if (!left && !inDoubt) return false;',
    replace: 'if (!inDoubt) return false;',
    tests: VOTE,
  },
  {
    name: 'quorum: a try that failed is undone where it is in doubt',
    file: 'lib/core/backend/acquire-vote.ts',
    find: 'if (!left && !inDoubt) return false;',
    replace: 'if (!left) return false;',
    tests: VOTE,
  },
  {
    name: 'quorum: a fencing token counts once a majority holds it',
    file: 'lib/core/backend/acquire-vote.ts',
    find: 'const holds = given >= this.#fence;',
    replace: 'const holds = given > 0;',
    tests: VOTE,
  },
  {
    name: 'quorum: the largest of the tokens that were given',
    file: 'lib/core/backend/acquire-vote.ts',
    find: 'this.#fence = Math.max(this.#fence, fencingToken);',
    replace: 'this.#fence = fencingToken;',
    tests: VOTE,
  },
  {
    name: 'quorum: the lease counts from the first command',
    file: 'lib/core/backend/acquire-vote.ts',
    find: 'this.#sentAt = Math.min(this.#sentAt, sentAt);',
    replace: 'this.#sentAt = performance.now();',
    tests: VOTE,
  },
  {
    name: 'quorum: a majority must renew',
    file: 'lib/core/backend/quorum-backend.ts',
    find: `if (extended >= this.#majority) outcomes`,
    replace: `if (extended > 0) outcomes`,
    tests: QUORUM,
  },
  {
    name: 'quorum: a release goes on at the nodes that did not answer',
    file: 'lib/core/backend/quorum-backend.ts',
    find: `if (decision.kind !== 'released' || answer.kind === 'released') return;`,
    replace: `if (decision !== undefined) return;`,
    tests: QUORUM,
  },
];

/** The file's text with the mutation in place. */
export function mutated({ name, file, find, replace = '' }, text) {
  const parts = text.split(find);
  if (parts.length !== 2) {
    throw new Error(
      `'${name}': found ${parts.length - 1} times in ${file}, instead of once: ${find}`,
    );
  }
  return parts.join(replace);
}
