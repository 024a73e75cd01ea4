--[[
Takes a key for one alone, or says who is ahead. Idempotent by token.

KEYS[1] owner: the record, see _record.lua
KEYS[2] queue: sorted set of waiting tokens by sequence
KEYS[3] waiters: hash of token to '<alive until ms> <channel>'
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] holder: who asks, as JSON, with the channel on which it listens
ARGV[5] 1: PUBLISH counts every receiver
ARGV[6] the fencing token is to be this at least, as far as it's less than a second ahead of the clock; empty, or left out: none
ARGV[7] how long the waiter counts as alive, in ms; left out with what follows: don't queue it
ARGV[8] the channel that wakes the waiter; empty: it polls
ARGV[9] the sequence it had, to get its place back; empty: none
Returns '<fencing token>', which is the server's time as well, or '<now us> <fencing token>': granted, and nobody else waits
  | {now us, 'granted', fencing token, 1 | 0: others wait, or not} | {now us, 'busy', remaining ms, sequence or 0} | {now us, 'late'}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _fence-floor.lua
local token, ttl = ARGV[1], ARGV[2]
look_at_clock()
-- A command that was held up on its way must not take the key for a caller that has given up.
if now > tonumber(ARGV[3]) then return {now_us, 'late'} end

-- Not by MGET, which shows a key of another type as free.
local record = redis.call('GET', KEYS[1])
local floor = fence_floor(ARGV[6])

-- Most keys are free, and nobody waits for them: what isn't needed for those comes below.
if record and #record == 35 and string.sub(record, 1, 2) == 'f ' and string.sub(record, 3, 18) < floor
  or not record and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[1], 'h ' .. floor .. ' ' .. (now + ttl) .. ' ' .. token .. ' ' .. ARGV[4],
    'PX', ttl + FENCE_RETENTION)
  return floor == now_us and now_us or now_us .. ' ' .. floor
end

--- @include _record.lua
--- @include _hand-on.lua
--- @include _place.lua
local state, last, ends, of = nil, 0, 0, nil
if record then state, last, ends, of = read(record) end

if state == 'h' and of == token and ends > now then
  -- The reply to an earlier try was lost. The caller counts its validity from this try, so the server must as well.
  write(KEYS[1], 'h', last, ttl, token, ARGV[4])
  return {now_us, 'granted', string.format('%.0f', last), redis.call('EXISTS', KEYS[2])}
end

-- A holder that was cut off may have used its whole range.
if state == 'h' and ends <= now then last = last + FENCE_RANGE - 1 end
local place = tonumber(ARGV[9])
if not record or state and ends <= now then
  -- Sharers whose record was lost are still inside; nobody knows how many may be.
  local inside = {access = '?', count = count_sharers(KEYS[2], KEYS[3])}
  if hand_on(KEYS[1], KEYS[2], KEYS[3], last, ARGV[5], inside, {token = token, access = 'exclusive', place = place}) then
    state, of = 'r', token
  elseif inside.access == 'exclusive' then
    state, of, ends = 'r', '-', now + CLAIM_WINDOW
  else
    state, of, ends = 's', inside.access, keep_sharers(KEYS[1], KEYS[2], KEYS[3], last, inside.access)
  end
end

if state == 'r' and of == token then
  -- Larger than the last, and than every one that was given before the record was lost.
  local fence = math.max(tonumber(floor), last + 1)
  write(KEYS[1], 'h', fence, ttl, token, ARGV[4])
  return {now_us, 'granted', string.format('%.0f', fence), redis.call('EXISTS', KEYS[2])}
end

local sequence = 0
local alive_for = tonumber(ARGV[7])
if alive_for then
  local waiter = {token = token, access = 'exclusive', alive_for = alive_for, channel = ARGV[8], place = place}
  sequence = give_place(KEYS[1], KEYS[2], KEYS[3], waiter, record)
end
-- What isn't ours, somebody has set by hand.
local remaining = state and ends - now or redis.call('PTTL', KEYS[1])
return {now_us, 'busy', remaining, sequence}
