/** Lines of the scripts, which decide at the server who may have a key. */
import {
  backend,
  guard,
  locker,
  processes,
  quorum,
  runOnce,
  runOnceAway,
  scripts,
  several,
} from './tests.mjs';

const lua = (name) => `lib/core/redis/${name}.lua`;

export const inScripts = [
  // Whose is it?
  {
    name: 'P6 a release compares the token',
    file: lua('release'),
    find: ` or string.sub(record, 34, 34 + #token) ~= token .. ' '`,
    test: backend("release never frees another's key"),
  },
  {
    name: 'P6 a release compares the whole token',
    file: lua('release'),
    find: `string.sub(record, 34, 34 + #token) ~= token .. ' '`,
    replace: `string.sub(record, 34, 33 + #token) ~= token`,
    test: backend("acquire doesn't take a token for another of which it's the beginning"),
  },
  {
    name: 'P6 a renewal compares the token',
    file: lua('extend'),
    find: `
    and string.sub(record, 34, 33 + length) == string.sub(tokens, (i - 1) * length + 1, i * length)`,
    test: backend("extend leaves another's lease, a reservation, a kept key and a free key alone"),
  },
  {
    name: 'P6 a renewal prolongs nothing that is kept or reserved',
    file: lua('extend'),
    find: ` and string.sub(record, 1, 2) == 'h '`,
    test: backend("extend leaves another's lease, a reservation, a kept key and a free key alone"),
  },
  {
    name: 'P6 a cancel compares the token',
    file: lua('cancel'),
    find: 'if token == ARGV[1] then',
    replace: 'if token then',
    test: backend('cancel is harmless with a token that is unknown, cancelled, or of another key'),
  },
  {
    name: 'P6 a downgrade compares the token',
    file: lua('downgrade'),
    find: ` or token ~= ARGV[1] or ends`,
    replace: ' or ends',
    test: backend(
      "access leaves another's lease alone: downgrade, renewal and release of a token that isn't there",
    ),
  },
  {
    name: 'P6 a sharer gives back only its own place',
    file: lua('leave'),
    find: `if not alone and string.sub(info or '', 1, 2) ~= 'h ' then return 0 end`,
    test: backend(
      "access leaves another's lease alone: downgrade, renewal and release of a token that isn't there",
    ),
  },
  {
    name: 'P6 a sharer prolongs only its own place',
    file: lua('prolong'),
    find: `elseif state == 'h' and of == token and ends > now then`,
    replace: `elseif state == 'h' and ends > now then`,
    test: backend(
      "access leaves another's lease alone: downgrade, renewal and release of a token that isn't there",
    ),
  },
  {
    name: 'P6 a place that is kept is not prolonged',
    file: lua('prolong'),
    find: `if info and string.sub(info, 1, 2) == 'h ' then`,
    replace: 'if info then',
    test: backend('access keeps a place for a while after the holder is done'),
  },
  {
    name: 'P6 a note that a holder waits is its own',
    file: lua('mark-blocked'),
    find: ` or token ~= ARGV[1] or`,
    replace: ` or ARGV[1] == '' or`,
    test: backend('access shows who holds a key alone, and what this holder was noted'),
  },
  {
    name: 'P6 a force release takes what is meant',
    file: lua('force-release'),
    find: 'ends > now and is_meant then',
    replace: 'ends > now then',
    test: backend('access is released by force from the holder that is meant'),
  },
  {
    name: 'P6 a force release of a shared key takes what is meant',
    file: lua('force-release'),
    find: `if kind and (meant == 0 or tonumber(its_fence) == meant) then`,
    replace: 'if kind then',
    test: backend('access is released by force from the holder that is meant'),
  },

  // Ends
  {
    name: 'P2 a lease that has ended is not renewed',
    file: lua('extend'),
    find: ' and tonumber(string.sub(record, 20, 32)) > now',
    test: backend("extend doesn't bring back what has ended"),
  },
  {
    name: 'P2 a sharer whose time is up holds nothing',
    file: lua('_sharers'),
    find: 'if ends <= now or ends >= PLACES',
    replace: 'if ends >= PLACES',
    test: backend('access a holder whose time is up is not prolonged'),
  },
  {
    name: 'P1 the same token is granted again for a full ttl',
    file: lua('acquire'),
    find: `  write(KEYS[1], 'h', last, ttl, token, ARGV[4])
  return {now_us, 'granted', string.format('%.0f', last)`,
    replace: `  return {now_us, 'granted', string.format('%.0f', last)`,
    test: backend('acquire grants again by the same token'),
  },
  {
    name: 'P1 the same token is granted anew once its lease has ended',
    file: lua('acquire'),
    find: ' and of == token and ends > now then',
    replace: ' and of == token then',
    test: backend('acquire does not know a token again whose lease has ended'),
  },
  {
    name: 'P1 the places of sharers last as long as their leases',
    file: lua('_sharers'),
    find: `if kept < lasts or`,
    replace: 'if',
    test: backend('access prolongs each of many, of every kind, in one call'),
  },
  {
    name: "P5 a sharer's place ends with its time",
    file: lua('_sharers'),
    find: `redis.call('ZREMRANGEBYSCORE', queue_key, 0, now)`,
    replace: 'queue_key = queue_key',
    test: backend("access a holder that doesn't renew loses its place to others"),
  },
  {
    name: 'P5 a record ends',
    file: lua('acquire'),
    find: `,
    'PX', ttl + FENCE_RETENTION)`,
    replace: ')',
    test: backend('leaves nothing in the store but fence counters that expire'),
  },
  {
    name: 'P5 a queue ends',
    file: lua('_place'),
    find: `redis.call('PEXPIRE', key, waiter.alive_for)`,
    replace: 'known = known',
    test: processes('waiters a killed one leaves nothing in Redis for longer than its ttl'),
  },

  // Who may enter
  {
    name: 'P1 one at a time',
    file: lua('_hand-on'),
    find: `if access == 'exclusive' or access ~= inside.access then return false end`,
    test: backend('access held as shared, asked for as limit:3: busy'),
  },
  {
    name: 'P1 no more than the limit',
    file: lua('_hand-on'),
    find: 'return not limit or inside.count < tonumber(limit)',
    replace: 'return true',
    test: backend('access a place that is given back goes to the first who waits for one'),
  },
  {
    name: 'P1 two limits that differ are refused',
    file: lua('share'),
    find: `if limits_differ(access, of) then return {now_us, 'conflict', of} end`,
    test: backend('access held as limit:3, asked for as limit:1: conflict'),
  },
  {
    name: 'P1 two limits that differ are refused, with several keys',
    file: lua('acquire-all'),
    find: `if state == 's' and not free and limits_differ(access, of) then return {now_us, 'conflict', i, of} end`,
    test: backend('access asked for with others a key is refused that is held under another limit'),
  },
  {
    name: 'P1 who asks for several keys enters by the same rule',
    file: lua('acquire-all'),
    find: ' or not may_enter(access, inside) then',
    replace: ' then',
    test: several('several keys of which one is held by another: none is taken'),
  },
  {
    name: 'P1 a lost key is not granted for want of one fencing token',
    file: lua('acquire-all'),
    find: `if given > 0 or waits or`,
    replace: 'if waits or',
    test: backend(
      'access asked for with others a key is given the fencing token of all only where it is held',
    ),
  },
  {
    name: 'P1 several keys, of which a downgrade is not taken back',
    file: lua('acquire-all'),
    find: `or access == of and shares == 'h '`,
    replace: `or shares == 'h '`,
    test: backend('access a command that was sent before a downgrade, and comes after it'),
  },
  {
    name: 'P6 what is kept is not taken again by a command that comes twice',
    file: lua('share'),
    find: `if mine then return {now_us, 'late'} end`,
    replace: '',
    test: backend(
      'access a command that comes a second time, after its token has given back, under shared takes nothing, alone',
    ),
  },
  {
    name: 'P6 several keys, of which one that is kept is not taken again by a command that comes twice',
    file: lua('acquire-all'),
    find: `if shares == 'k ' then return {now_us, 'late'} end`,
    replace: '',
    test: backend(
      'access a command that comes a second time, after its token has given back, under shared takes nothing, with others',
    ),
  },
  {
    name: 'P1 a key that was reserved is kept for the one who was woken',
    file: lua('acquire'),
    find: `if state == 'r' and of == token then`,
    replace: `if state == 'r' then`,
    test: backend('queue reserves the key for the first: newcomers and other waiters are refused'),
  },
  {
    name: 'P1 a key that was set by hand is held',
    file: lua('acquire'),
    find: 'if not record or state and ends <= now then',
    replace: 'if not record or ends <= now then',
    test: scripts('scripts treat a key that was set by hand as held by another'),
  },
  {
    name: 'P1 sharers whose record was lost are still inside',
    file: lua('acquire'),
    find: `local inside = {access = '?', count = count_sharers(KEYS[2], KEYS[3])}`,
    replace: `local inside = {access = '?', count = 0}`,
    test: scripts('scripts count on those who share a key also where its record was evicted'),
  },
  {
    name: 'P1 sharers whose record was lost are still inside, for who would share as well',
    file: lua('share'),
    find: `count = count_sharers(KEYS[2], KEYS[3])}
  if not free`,
    replace: `count = free and 0 or count_sharers(KEYS[2], KEYS[3])}
  if not free`,
    test: scripts('scripts count on those who share a key also where its record was evicted'),
  },
  {
    name: 'P1 sharers whose record was lost are still inside, for who asks for several keys',
    file: lua('acquire-all'),
    find: `count = count_sharers(queue_key, waiters_key)}`,
    replace: `count = free and 0 or count_sharers(queue_key, waiters_key)}`,
    test: scripts('scripts count on those who share a key also where its record was evicted'),
  },
  {
    name: 'P1 sharers that were lost, though their record was not, are still inside',
    file: lua('share'),
    find: 'if not free and inside.count == 0 then',
    replace: 'if false then',
    test: scripts('scripts count on those who share a key also where they were evicted'),
  },
  {
    name: 'P1 sharers that were lost are still inside, for who asks for several keys',
    file: lua('acquire-all'),
    find: 'if not free and inside.count == 0 then inside = {access = nil, count = 1} end',
    replace: 'if not free then inside.count = math.max(1, inside.count) end',
    test: scripts('scripts count on those who share a key also where they were evicted'),
  },
  {
    name: 'P1 a sharer that asks again has one place',
    file: lua('share'),
    find: 'if given then return enter(tonumber(given)) end',
    test: backend(
      'access grants again by the same token: the same fencing token, and no second place',
    ),
  },

  // Held up on its way
  {
    name: 'P1 an acquire that was held up takes nothing',
    file: lua('acquire'),
    find: 'if now > tonumber(ARGV[3])',
    replace: 'if tonumber(ARGV[3]) < 0',
    test: scripts('scripts take nothing and queue nobody when they were held up'),
  },
  {
    name: 'P1 an acquire of a shared lock that was held up takes nothing',
    file: lua('share'),
    find: 'if now > tonumber(ARGV[3])',
    replace: 'if tonumber(ARGV[3]) < 0',
    test: scripts('scripts take nothing and queue nobody when they were held up'),
  },
  {
    name: 'P1 an acquire of several keys that was held up takes nothing',
    file: lua('acquire-all'),
    find: 'if now > tonumber(ARGV[2])',
    replace: 'if tonumber(ARGV[2]) < 0',
    test: scripts('scripts take nothing and queue nobody when they were held up'),
  },
  {
    name: 'P3 a fencing token that was held up is not set',
    file: lua('set-fence'),
    find: 'if now > tonumber(ARGV[3])',
    replace: 'if tonumber(ARGV[3]) < 0',
    test: scripts('scripts take nothing and queue nobody when they were held up'),
  },
  {
    name: 'P3 a fencing token is set for who holds the key alone',
    file: lua('set-fence'),
    find: ` or string.sub(record, 34, 34 + #token) ~= token .. ' '`,
    test: backend('fencing tokens can be set while a lease holds its key (exclusive)'),
  },
  {
    name: 'P1 a release by force that was held up takes nothing',
    file: lua('force-release'),
    find: 'if now > tonumber(ARGV[4])',
    replace: 'if tonumber(ARGV[4]) < 0',
    test: scripts('scripts take nothing and queue nobody when they were held up'),
  },
  {
    name: 'P1 a claim of a tick that was held up takes nothing',
    file: lua('claim-run'),
    find: `if now > tonumber(mine.fence) / 1000 + request.within then return answer('expired') end`,
    test: runOnce('the store refuses a claim that comes too late'),
  },

  // The queue
  {
    name: 'P7 nobody passes those who wait',
    file: lua('acquire-all'),
    find: 'if given > 0 or waits or not may_enter',
    replace: 'if given > 0 or not may_enter',
    test: backend('access asked for with others a key passes nobody who waits for it'),
  },
  {
    name: 'P7 a release hands on',
    file: lua('release'),
    find: `if ARGV[3] == '0' and redis.call('EXISTS', KEYS[2]) == 0 then`,
    replace: `if ARGV[3] == '0' then`,
    test: backend('queue wakes only the first, with its token'),
  },
  {
    name: 'P7 what is reserved ends with the claim window',
    file: lua('_constants'),
    find: 'local CLAIM_WINDOW = 1000',
    replace: 'local CLAIM_WINDOW = 60000',
    test: backend('queue lets the next have the key when the claim window has passed'),
  },
  {
    name: 'P7 what is reserved is kept for the one who was woken',
    file: lua('_constants'),
    find: 'local CLAIM_WINDOW = 1000',
    replace: 'local CLAIM_WINDOW = 1',
    test: backend('queue reserves the key for the first: newcomers and other waiters are refused'),
  },
  {
    name: 'P7 who waits behind one that was woken is told when its time is up',
    file: lua('_hand-on'),
    find: 'if reserved then look_within(owner_key, queue_key, waiters_key, CLAIM_WINDOW) end',
    test: locker('order passes over a waiter that is alive but frozen, after the claim window'),
  },
  {
    name: 'P7 a waiter whose process is gone is passed over',
    file: lua('_hand-on'),
    find: `woken = type(receivers) ~= 'number' or receivers > 0 or count_receivers ~= '1'`,
    replace: 'woken = true',
    test: backend('queue passes over a waiter whose process is gone at once'),
  },
  {
    name: 'P7 a waiter counts as alive for so long',
    file: lua('_hand-on'),
    find: 'if alive_until and tonumber(alive_until) >= now then',
    replace: 'if alive_until then',
    test: backend("queue skips a waiter that hasn't asked for longer than it lives"),
  },
  {
    name: 'P7 a waiter counts as alive from when it asked last',
    file: lua('_place'),
    find: `redis.call('HSET', waiters_key, waiter.token,`,
    replace: `redis.call(known < PLACES and 'HSET' or 'HSETNX', waiters_key, waiter.token,`,
    test: backend('queue counts the life of a waiter from when it asked last'),
  },
  {
    name: 'P7 a dead writer stops no reader',
    file: lua('_hand-on'),
    find: `if not listeners or listeners.err or tonumber(listeners[2]) ~= 0 then break end`,
    replace: 'break',
    test: backend('access a waiting writer whose process is gone stops readers no longer'),
  },
  {
    name: 'P7 a lost place comes back by its sequence',
    file: lua('_place'),
    find: 'sequence = waiter.place or math.max(tonumber(now_us), last + 1)',
    replace: 'sequence = math.max(tonumber(now_us), last + 1)',
    test: backend('queue gives a lost place back to who tells its sequence'),
  },
  {
    name: 'P7 a place comes after the last, though the clock was set back',
    file: lua('_place'),
    find: 'math.max(tonumber(now_us), last + 1)',
    replace: 'tonumber(now_us)',
    test: scripts(
      'scripts put a waiter behind those who are there also where the clock was set back',
    ),
  },
  {
    name: 'P7 the holder is told that others wait',
    file: lua('_place'),
    find: `if channel then tell(owner_key, channel, '+' .. owner_key, false) end`,
    test: backend('the holder is told of the first who begins to wait'),
  },
  {
    name: 'P7 who waits for an end that has come nearer is told',
    file: lua('_free'),
    find: `if ended and ends < ended - CLAIM_WINDOW then look_within(owner_key, queue_key, waiters_key, ends - now) end`,
    test: several(
      "mode: 'shared' what waits is told when the end of the last reader has come nearer",
    ),
  },
  {
    name: 'P7 who waits for a kept key is told when it is free',
    file: lua('release'),
    find: 'look_within(KEYS[1], KEYS[2], KEYS[3], ARGV[3])',
    replace: 'token = token',
    test: backend('release tells who waits when a kept key will be free'),
  },
  {
    name: 'P5 a cancel takes a waiter out of the queue',
    file: lua('cancel'),
    find: `  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])`,
    test: backend('cancel takes a waiter out of the queue'),
  },
  {
    name: 'P5 a sharer that leaves frees its place',
    file: lua('leave'),
    find: `redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])`,
    test: backend('access a place that is given back goes to the first who waits for one'),
  },
  {
    name: 'P5 a sharer that is cancelled leaves those behind it free to enter',
    file: lua('cancel'),
    find: 'if inside.count > 0 or was_sharer then free(',
    replace: 'if false then free(',
    test: backend('access a writer that gives up while it waits, lets in the readers behind it'),
  },
  {
    name: 'P5 what is given back is given back without memory, too',
    file: lua('_record'),
    find: `redis.call('PEXPIRE', owner_key, keep or redis.call('PTTL', owner_key))`,
    test: scripts('scripts still give locks back when the server is out of memory'),
  },
  {
    name: 'P5 what is shared is given back without memory, too',
    file: lua('_sharers'),
    find: `redis.call('PEXPIRE', owner_key, math.max(1, redis.call('PTTL', owner_key)))`,
    test: scripts(
      'scripts renew, downgrade and give back what is shared when the server is out of memory',
    ),
  },
  {
    name: 'P7 a shard channel that nobody hears is not the last word',
    file: lua('_tell'),
    find: '(receivers > 0 or not surely) then',
    replace: 'true then',
    test: {
      spec: 'test/integration/cluster-wake-up.spec.ts',
      name: 'is woken where its slot is moving, has moved, and has moved back',
    },
  },

  // Fencing tokens
  {
    name: 'P3 a fencing token is larger than the last',
    file: lua('acquire'),
    find: 'local fence = math.max(tonumber(floor), last + 1)',
    replace: 'local fence = tonumber(floor)',
    test: backend(
      'fencing tokens go on from the last that was used under a lease that is cancelled',
    ),
  },
  {
    name: 'P3 a fencing token is larger than the last, of a free key as well',
    file: lua('acquire'),
    find: ` and string.sub(record, 3, 18) < floor`,
    test: backend(
      'fencing tokens go on from the last that was used under a lease that is cancelled',
    ),
  },
  {
    name: 'P3 a fencing token has the clock for a floor',
    file: lua('acquire'),
    find: 'local fence = math.max(tonumber(floor), last + 1)',
    replace: 'local fence = last + 1',
    test: scripts(
      'scripts give larger fencing tokens also where a record was evicted while others wait',
    ),
  },
  {
    name: 'P3 a fencing token of a shared lock is larger than the last',
    file: lua('share'),
    find: 'tonumber(fence_floor(ARGV[8])), last + 1)',
    replace: 'tonumber(fence_floor(ARGV[8])), 0)',
    test: backend('access who shares a key has a fencing token beyond the whole range'),
  },
  {
    name: 'P3 a fencing token of several keys is larger than the last of each',
    file: lua('acquire-all'),
    find: 'fence = math.max(fence, last + 1)',
    replace: 'fence = math.max(fence, 1)',
    test: backend(
      'access asked for with others a key has a fencing token that is larger than the last',
    ),
  },
  {
    name: 'P3 a holder that was cut off may have used its whole range',
    file: lua('acquire'),
    find: `if state == 'h' and ends <= now then last = last + FENCE_RANGE - 1 end`,
    test: backend('fencing tokens increase from a counter that is ahead of the clock, over expiry'),
  },
  {
    name: 'P3 a holder whose downgrade never came may have used its whole range',
    file: lua('leave'),
    find: 'if alone then last = last + FENCE_RANGE - 1 end',
    test: backend('access after a downgrade that never came'),
  },
  {
    name: 'P3 a holder that was cut off may have used its whole range, before who shares',
    file: lua('share'),
    find: `if state == 'h' then last = last + FENCE_RANGE - 1 end`,
    test: backend('access who shares a key has a fencing token beyond the whole range'),
  },
  {
    name: 'P3 a holder that was cut off may have used its whole range, of several keys',
    file: lua('acquire-all'),
    find: `if state == 'h' and ends <= now then last = last + FENCE_RANGE - 1 end`,
    test: backend('access asked for with others a key has a fencing token beyond the whole range'),
  },
  {
    name: 'P3 a holder whose lock is taken by force may have used its whole range',
    file: lua('force-release'),
    find: `fence = fence + FENCE_RANGE - 1`,
    replace: 'fence = fence',
    test: backend('forceRelease skips the fencing tokens that the holder may have used'),
  },
  {
    name: 'P3 a release tells the last fencing token that was used',
    file: lua('release'),
    find: `free(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[4], {count = 0})`,
    replace: `free(KEYS[1], KEYS[2], KEYS[3], tonumber(string.sub(record, 3, 18)), ARGV[4], {count = 0})`,
    test: backend(
      'fencing tokens go on from the last that was used of a range, where the key is waited for',
    ),
  },
  {
    name: 'P3 a cancel tells the last fencing token that was used',
    file: lua('cancel'),
    find: 'math.max(fence, tonumber(ARGV[2]))',
    replace: 'math.max(fence, 0 * tonumber(ARGV[2]))',
    test: backend(
      'fencing tokens go on from the last that was used under a lease that is cancelled',
    ),
  },
  {
    name: 'P3 a downgrade tells the last fencing token that was used',
    file: lua('downgrade'),
    find: 'local fence = math.max(last, tonumber(ARGV[2]))',
    replace: 'local fence = last',
    test: backend('access after a downgrade under a later fencing token of the range'),
  },
  {
    name: 'P3 the last fencing token is remembered for longer than the lease',
    file: lua('_record'),
    find: 'return lasts + FENCE_RETENTION +',
    replace: 'return lasts +',
    test: backend('the last fencing token is remembered for longer than the lease lasts'),
  },
  {
    name: 'P3 the last fencing token is remembered until the clock has passed it',
    file: lua('_record'),
    find: '(ahead > 0 and math.ceil(ahead / 1000) or 0)',
    replace: '0',
    test: backend('the last fencing token is remembered at least until the clock has passed it'),
  },
  {
    name: 'P3 a floor that is far ahead of the clock is not followed',
    file: lua('_fence-floor'),
    find: 'if asked - now_us <= FURTHEST_AHEAD then return asked end',
    replace: 'if true then return asked end',
    test: scripts('scripts give the fencing token that is asked for (exclusive)'),
  },

  // The guard
  {
    name: 'guard: a grant looks at its record',
    file: lua('_guard'),
    find: `if redis.call('GET', guard_key) == expected
    and`,
    replace: `if redis.call('GET', guard_key) ~= 'none'
    and`,
    test: guard('after FLUSHALL with a guard, nobody enters alone'),
  },
  {
    name: 'guard: the script asks who the server is where the connection does not say',
    file: lua('_guard'),
    find: `(asks == '0' or server_id() == string.match(expected, '^%w+'))`,
    replace: 'true',
    test: guard('without a loss behind a proxy for its protocol, the server is asked each time'),
  },
  {
    name: 'P7 guard: who waits in a moratorium stands in line',
    file: lua('_guard'),
    find: 'local sequence = give_place(owner_key, queue_key, waiters_key, who, record)',
    replace: 'local sequence = 0',
    test: guard('in a moratorium, of a key that nobody has held'),
  },
  {
    name: 'P7 guard: also where the key is free',
    file: lua('_guard'),
    find: `state == 'f' or state == 'r' and of == who.token`,
    replace: `state == 'r' and of == who.token`,
    test: guard('in a moratorium, of a key that was given back'),
  },
  {
    name: 'guard: what was reserved for one who stands in line again is not any more',
    file: lua('_guard'),
    find: `or state == 's' and was_sharer and count_sharers(queue_key, waiters_key) == 0`,
    test: guard('in a moratorium, of sharers of a key'),
  },
  {
    name: 'guard: data that was lost',
    file: lua('check-guard'),
    find: `if news then`,
    replace: `if news and news ~= 'no-record' then`,
    test: guard('after FLUSHALL with a guard, nobody enters alone'),
  },
  {
    name: 'guard: a server that restarted or was promoted',
    file: lua('check-guard'),
    find: `of ~= id and 'other-server' or `,
    test: guard('a promoted replica gives nothing with a guard until the first knows'),
  },
  {
    name: 'guard: a master that was a replica in between',
    file: lua('_server-id'),
    find: `string.find(promoted_from, '[^0]')`,
    replace: `false`,
    test: guard('gives nothing either where it was the master before'),
  },
  {
    name: 'guard: an old master that is back',
    file: lua('check-guard'),
    find: ` or epoch < seen and 'older-data'`,
    test: guard('a moratorium begins where an old master is back'),
  },
  {
    name: 'guard: as long as the longest lease',
    file: lua('check-guard'),
    find: 'math.ceil(longest * (1 + DRIFT)) + lag',
    replace: 'lag',
    test: guard('a moratorium is as long as the longest lease of all'),
  },
  {
    name: 'guard: as long as the longest lease of all who use the server',
    file: lua('check-guard'),
    find: 'longest, lag = math.max(longest, own_longest), math.max(lag, own_lag)',
    replace: 'longest, lag = own_longest, math.max(lag, own_lag)',
    test: guard('a moratorium is as long as the longest lease of all'),
  },
  {
    name: 'guard: and as an old master may still grant',
    file: lua('check-guard'),
    find: 'math.ceil(longest * (1 + DRIFT)) + lag',
    replace: 'math.ceil(longest * (1 + DRIFT))',
    test: guard('a moratorium is as long as the longest lease of all'),
  },
  {
    name: 'guard: for longer where one comes who takes longer leases',
    file: lua('check-guard'),
    find: 'not_before + length() - reckoned',
    replace: 'not_before',
    test: guard('a moratorium goes on for longer where one comes'),
  },
  {
    name: 'guard: never for longer than a whole one',
    file: lua('check-guard'),
    find: 'math.min(not_before + length() - reckoned, now + length())',
    replace: 'not_before + length() - reckoned',
    test: guard('a moratorium lasts no longer than a whole one'),
  },
  {
    name: 'guard: to initialise it ends no moratorium',
    file: lua('init-guard'),
    find: `, 'NX') and 1 or 0`,
    replace: ') and 1 or 0',
    test: guard('initializeGuard never ends a moratorium'),
  },
  {
    name: 'guard: without memory its record is written as well',
    file: lua('check-guard'),
    find: `redis.call('PERSIST', KEYS[1])`,
    test: guard('works where the server is out of memory'),
  },

  // A quorum
  {
    name: 'quorum: who got too few nodes gives its grant up',
    file: lua('stand-back'),
    find: `if token == ARGV[1] then
  free(`,
    replace: `if false then
  free(`,
    test: quorum('when each caller has got one node, all of them are served in the end'),
  },

  // Runs of jobs
  {
    name: 'run: a claim that is made again says the same',
    file: lua('claim-run'),
    find: `if same.state == 'running' then return answer(same.token == mine.token and 'begun' or 'running', same) end`,
    test: runOnce('the store claims once for a token, however often it is asked'),
  },
  {
    name: 'run: a tick that was run is not run again',
    file: lua('claim-run'),
    find: `if same.state ~= 'crashed' or same.attempt`,
    replace: 'if same.attempt',
    test: runOnce("retryCrashed, where nothing crashes, doesn't run a tick again that failed"),
  },
  {
    name: 'run: a tick is known by its instant',
    file: lua('claim-run'),
    find: 'if distance * 2 < request.per and',
    replace: 'if distance == 0 and',
    test: runOnce('which tick it is'),
  },
  {
    name: 'run: a tick that has crashed is taken up so often',
    file: lua('claim-run'),
    find: ` or same.attempt >= request.attempts then`,
    replace: ' then',
    test: runOnce(
      'a runner that crashes has its tick taken up also by one that comes when it was found out',
    ),
  },
  {
    name: 'run: a crashed tick is not taken up once a later one has begun',
    file: lua('claim-run'),
    find: `if last.instant > same.instant then return answer('decided', same) end`,
    test: runOnce("a runner that crashes isn't waited for where a later tick has begun"),
  },
  {
    name: 'run: no tick once a later one has begun',
    file: lua('claim-run'),
    find: 'elseif last and last.instant > request.instant then',
    replace: 'elseif false then',
    test: runOnce('which tick it is is refused where a later one has begun'),
  },
  {
    name: 'run: no tick of which nobody knows any more',
    file: lua('claim-run'),
    find: 'elseif oldest and oldest > request.instant then',
    replace: 'elseif false then',
    test: runOnce('the records are no reason to run a tick again that is no longer among them'),
  },
  {
    name: 'run: none beside one that runs, unless it is asked for',
    file: lua('claim-run'),
    find: `if request.overlap == 'skip' and #running > 0 then`,
    replace: 'if false then',
    test: runOnce('a tick that comes while an earlier one runs is skipped, once for all replicas'),
  },
  {
    name: 'run: whether one that runs lives is asked first',
    file: lua('claim-run'),
    find: `if not alive[run.token] then return answer('unsure') end`,
    test: runOnce('the store asks whether those that run live'),
  },
  {
    name: 'run: the record of one that runs is not dropped',
    file: lua('claim-run'),
    find: ` and run.state ~= 'running' and`,
    replace: ' and',
    test: runOnce('the records never lose one that runs'),
  },
  {
    name: 'run: an end that was recorded stays, whoever finds its lock gone',
    file: lua('_runs'),
    find: `if run.state == 'running' and dead[run.token] then`,
    replace: 'if dead[run.token] then',
    test: runOnce('the store calls no run crashed that has ended'),
  },
  {
    name: 'run: an end that was recorded stays, whoever takes its claim back',
    file: lua('_runs'),
    find: `if state == 'running' or state == 'crashed' then redis.call`,
    replace: 'if state then redis.call',
    test: runOnce('the store forgets no run that has ended'),
  },
  {
    name: 'run: a claim that came to nothing is forgotten before the next looks',
    file: lua('claim-run'),
    find: 'forget(KEYS[1], request.abandoned)',
    test: runOnce('the store forgets those that a claim names as such'),
  },
  {
    name: 'run: an end is recorded without memory, too',
    file: lua('finish-run'),
    find: `redis.call('PEXPIRE', KEYS[1], request.retain)`,
    test: runOnceAway(
      'Redis is away, records the end of a run also where the server has no memory left',
    ),
  },
];
