--[[
acquire.lua behind the server's guard.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
KEYS[n] the last: the guard's record, see check-guard.lua
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] holder
ARGV[5] 1: PUBLISH counts every receiver
ARGV[6] the fencing token is to be this at least; empty, or left out with those up to 9: none
ARGV[7] how long the waiter counts as alive, in ms; left out with those up to 9
ARGV[8] the channel that wakes the waiter
ARGV[9] the sequence it had
ARGV[n] the last two: whether to ask the server who it is; the guard's record as the caller knows it
Returns {now us, 'guard', sequence or 0}: the record is another, or the server is | what acquire.lua returns
]]
--- @include _guard.lua
local refusal = guard(1, function()
  return {
    token = ARGV[1], access = 'exclusive', alive_for = tonumber(ARGV[7]), channel = ARGV[8], place = tonumber(ARGV[9]),
    not_after = tonumber(ARGV[3])
  }
end)
if refusal then return refusal end
--- @include acquire.lua
