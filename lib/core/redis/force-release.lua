--[[
Takes a key from whoever holds it, tells their processes, and lets in whoever may enter now.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] of which key, who does it and why, as JSON: told to the holders
ARGV[2] 1: PUBLISH counts every receiver
ARGV[3] a fencing token of the holder that's meant; 0: whoever holds it
ARGV[4] the caller's deadline in server time, ms
Returns {now us, 'late', {}, {}} | {now us, owner record or '' where nobody held it, {when it ended in ms, what is known of it, ... of each sharer that did}, {token of each of these}}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
look_at_clock()
-- Held up on its way, it would hit a holder that came since.
if now > tonumber(ARGV[4]) then return {now_us, 'late', {}, {}} end
local meant = tonumber(ARGV[3])

-- The message names the lease by its token: whoever holds the key when it arrives late, isn't meant. Before the key is
-- handed on, so that nobody is woken sooner than the holder is told.
local function tell_forced(token, holder)
  -- Not by JSON: half of a surrogate pair in a label makes it unreadable here.
  local channel = string.match(holder, '"channel":"([^"]+)"')
  -- On a Cluster everywhere, since no holder hears the channel of a shard only because it holds.
  if channel then redis.pcall('PUBLISH', (string.gsub(channel, '%*$', '')), '!' .. token .. ' ' .. ARGV[1]) end
end

local record = redis.call('GET', KEYS[1]) or ''
local state, fence, ends, token, holder = read(record)
local inside, taken, tokens = nil, {}, {}
local range = state == 'h' and FENCE_RANGE or 1
local is_meant = meant == 0 or fence and meant >= fence and meant < fence + range
if (state == 'h' or state == 'k') and ends > now and is_meant then
  if state == 'h' then
    tell_forced(token, holder)
    -- It may have passed the lease on in its process, and used its whole range.
    fence = fence + FENCE_RANGE - 1
  end
  inside = {count = 0}
elseif state == 's' then
  count_sharers(KEYS[2], KEYS[3])
  local sharers = redis.call('ZRANGEBYSCORE', KEYS[2], 0, PLACES, 'WITHSCORES')
  for i = 1, #sharers, 2 do
    local info = redis.call('HGET', KEYS[3], sharers[i]) or ''
    local kind, its_fence, held_by = string.match(info, '^([hk]) (%d+) (.*)$')
    -- A place that is only reserved, for one who waited, stays so.
    if kind and (meant == 0 or tonumber(its_fence) == meant) then
      if kind == 'h' then tell_forced(sharers[i], held_by) end
      redis.call('ZREM', KEYS[2], sharers[i])
      redis.call('HDEL', KEYS[3], sharers[i])
      taken[#taken + 1] = sharers[i + 1]
      taken[#taken + 1] = info
      tokens[#tokens + 1] = sharers[i]
    end
  end
  if #taken > 0 then inside = {access = token, count = count_sharers(KEYS[2], KEYS[3])} end
end
-- Free, reserved, ended, or not ours: nobody holds it.
if not inside then return {now_us, '', {}, {}} end
free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[2], inside, state == 's' and ends or nil)
return {now_us, record, taken, tokens}
