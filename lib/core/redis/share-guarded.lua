--[[
share.lua behind the server's guard.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
KEYS[n] the last: the guard's record, see check-guard.lua
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] holder
ARGV[5] 1: PUBLISH counts every receiver
ARGV[6] access
ARGV[7] the sequence it had, or when it began to wait
ARGV[8] the fencing token is to be this at least; empty, or left out with those up to 10: none
ARGV[9] how long the waiter counts as alive, in ms; left out with those up to 10
ARGV[10] the channel that wakes the waiter
ARGV[n] the last two: whether to ask the server who it is; the guard's record as the caller knows it
Returns {now us, 'guard', sequence or 0}: the record is another, or the server is | what share.lua returns
]]
--- @include _guard.lua
local refusal = guard(1, function()
  return {
    token = ARGV[1], access = ARGV[6], alive_for = tonumber(ARGV[9]), channel = ARGV[10], place = tonumber(ARGV[7]),
    not_after = tonumber(ARGV[3])
  }
end)
if refusal then return refusal end
--- @include share.lua
