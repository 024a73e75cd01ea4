--[[
Undoes whatever an acquire with this token has done or left: its place in the queue, its reservation, its grant.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] the last fencing token used under the lease; 0: none was
ARGV[3] 1: PUBLISH counts every receiver
Returns 1
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
local _, fence, _, token = read(redis.call('GET', KEYS[1]) or '')
if token == ARGV[1] then
  free(KEYS[1], KEYS[2], KEYS[3], math.max(fence, tonumber(ARGV[2])), ARGV[3])
end
return 1
