--[[
Takes a key from whoever holds it, tells the holder's process, and hands the key on to the first live waiter.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] who does it and why, as JSON: told to the holder
ARGV[2] 1: PUBLISH counts every receiver
Returns {now us, then for each holder that lost it: its record, see _record.lua}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
look_at_clock()
local record = redis.call('GET', KEYS[1])
local state, fence, ends, token, holder = read(record or '')
-- Free, reserved, ended, or not ours: nobody holds it.
if state ~= 'h' and state ~= 'k' or ends <= now then return {now_us} end

if state == 'h' then
  -- The message names the lease by its token: whoever holds the key when it arrives late, isn't meant. Before the key is
  -- handed on, so that nobody is woken sooner than the holder is told.
  local known, facts = pcall(cjson.decode, holder)
  if known and type(facts) == 'table' and type(facts.channel) == 'string' then
    redis.pcall('PUBLISH', facts.channel, '!' .. token .. ' ' .. ARGV[1])
  end
  -- It may have passed the lease on in its process, and used its whole range.
  fence = fence + FENCE_RANGE - 1
end
free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[2])
return {now_us, record}
