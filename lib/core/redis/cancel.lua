--[[
Undoes whatever an acquire with this token has done or left: its place in the queue, its reservation, its grant.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] 1: PUBLISH counts every receiver
Returns 1
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
local state, fence, _, token = read(redis.call('GET', KEYS[1]) or '')
if token == ARGV[1] then
  -- The lease's process may have used the whole range.
  if state == 'h' then fence = fence + FENCE_RANGE - 1 end
  free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[2])
end
return 1
