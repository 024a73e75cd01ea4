--[[
Undoes a grant, of which the caller can make no use because too few other servers granted with this one, and queues it again.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] access: what it asked for
ARGV[3] 1: PUBLISH counts every receiver
ARGV[4] how long the waiter counts as alive, in ms
ARGV[5] the channel that wakes the waiter; empty: it polls
ARGV[6] its sequence
ARGV[7] the caller's deadline in server time, ms
Returns 1
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
--- @include _place.lua
look_at_clock()
local state, fence, ends, token = read(redis.call('GET', KEYS[1]) or '')
local was_sharer = sharer(KEYS[2], KEYS[3], ARGV[1])
-- A command that was held up on its way must not queue it for a caller that has given up.
if now <= tonumber(ARGV[7]) then
  -- First, so that it's among those to whom the key is handed on. A sharer's place becomes a waiter's.
  local waiter = {token = ARGV[1], access = ARGV[2], alive_for = tonumber(ARGV[4]), channel = ARGV[5], place = tonumber(ARGV[6])}
  give_place(KEYS[1], KEYS[2], KEYS[3], waiter, nil)
elseif was_sharer then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
end
if token == ARGV[1] then
  free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[3], {count = 0})
elseif state == 's' and was_sharer then
  free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[3], {access = token, count = count_sharers(KEYS[2], KEYS[3])}, ends)
end
return 1
