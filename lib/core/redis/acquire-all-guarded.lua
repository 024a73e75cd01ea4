--[[
acquire-all.lua behind the server's guard.

KEYS[3i-2] owner of key i
KEYS[3i-1] its queue
KEYS[3i] its waiters
KEYS[n] the last: the guard's record, see check-guard.lua
ARGV[1] ttl in ms
ARGV[2] the caller's deadline in server time, ms
ARGV[3] holder
ARGV[4] access
ARGV[5] the fencing token that all are to have, all of which are held; 0: take them
ARGV[i+5] token for key i
ARGV[last+1] the fencing token is to be this at least; left out: none
ARGV[n] the last two: whether to ask the server who it is; the guard's record as the caller knows it
Returns {now us, 'guard', 0}: the record is another, or the server is | what acquire-all.lua returns
]]
--- @include _guard.lua
local refusal = guard(6)
if refusal then return refusal end
--- @include acquire-all.lua
