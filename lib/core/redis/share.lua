--[[
Takes a key beside others of the same access, or says who is ahead. Idempotent by token.

KEYS[1] owner: the record, see _record.lua
KEYS[2] queue: sorted set of sharers and waiting tokens, see _sharers.lua
KEYS[3] waiters: hash of token to what is known of it
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] holder: who asks, as JSON, with the channel on which it listens
ARGV[5] 1: PUBLISH counts every receiver
ARGV[6] access: 'shared', or 'limit:<n>'
ARGV[7] the sequence it had, to get its place back, or when it began to wait, in us; empty: now
ARGV[8] the fencing token is to be this at least, as far as it's less than a second ahead of the clock; empty, or left out: none
ARGV[9] how long the waiter counts as alive, in ms; left out with what follows: don't queue it
ARGV[10] the channel that wakes the waiter; empty: it polls
Returns {now us, 'granted', fencing token, 1 | 0: others wait, or not} | {now us, 'busy', remaining ms, sequence or 0} | {now us, 'late'}
  | {now us, 'conflict', access of those inside}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _fence-floor.lua
--- @include _record.lua
--- @include _hand-on.lua
--- @include _place.lua
local token, ttl, access, place = ARGV[1], tonumber(ARGV[2]), ARGV[6], tonumber(ARGV[7])
look_at_clock()
-- A command that was held up on its way must not take the key for a caller that has given up.
if now > tonumber(ARGV[3]) then return {now_us, 'late'} end

local record = redis.call('GET', KEYS[1])
local state, last, ends, of = nil, 0, 0, nil
if record then state, last, ends, of = read(record) end
-- What isn't ours, somebody has set by hand.
if record and not state then ends = now + redis.call('PTTL', KEYS[1]) end

local function enter(fence)
  last = math.max(last, fence)
  set_sharer(KEYS[2], KEYS[3], token, now + ttl, string.format('h %.0f %s', fence, ARGV[4]))
  keep_sharers(KEYS[1], KEYS[2], KEYS[3], last, access)
  local waits = redis.call('ZCOUNT', KEYS[2], PLACES, '+inf') > 0 and 1 or 0
  return {now_us, 'granted', string.format('%.0f', fence), waits}
end

local free = not record or state and ends <= now
if free or state == 's' then
  -- A holder that was cut off may have used its whole range.
  if state == 'h' then last = last + FENCE_RANGE - 1 end
  -- Larger than the last, and than every one that was given before the record was lost.
  local fence = math.max(tonumber(fence_floor(ARGV[8])), last + 1)
  local inside = {access = free and '?' or of, count = count_sharers(KEYS[2], KEYS[3])}
  if not free then
    local mine = sharer(KEYS[2], KEYS[3], token)
    -- The reply to an earlier try was lost. The caller counts its validity from this try, so the server must as well.
    local given = mine and string.match(mine, '^h (%d+)')
    if given then return enter(tonumber(given)) end
    if mine == 'r' then return enter(fence) end
    -- Its work is done, and its place is kept: this command has come a second time.
    if mine then return {now_us, 'late'} end
    if limits_differ(access, of) then return {now_us, 'conflict', of} end
  end
  -- Sharers that were lost, though their record wasn't: nobody knows how many there are.
  if not free and inside.count == 0 then
    inside.access = nil
  elseif hand_on(KEYS[1], KEYS[2], KEYS[3], last, ARGV[5], inside, {token = token, access = access, place = place}) then
    return enter(fence)
  end
  if inside.access == 'exclusive' then
    ends = now + CLAIM_WINDOW
  elseif inside.access then
    ends = keep_sharers(KEYS[1], KEYS[2], KEYS[3], last, inside.access)
    -- It needs one place of theirs, not all.
    if inside.access == access then ends = tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]) end
  end
end

local sequence = 0
local alive_for = tonumber(ARGV[9])
if alive_for then
  local waiter = {token = token, access = access, alive_for = alive_for, channel = ARGV[10], place = place}
  sequence = give_place(KEYS[1], KEYS[2], KEYS[3], waiter, record)
end
return {now_us, 'busy', ends - now, sequence}
