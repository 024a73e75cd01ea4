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
look_at_clock()
local state, fence, ends, token = read(redis.call('GET', KEYS[1]) or '')
-- What is kept for `holdAtLeast` was held and given back: there's nothing to undo.
local was_sharer = sharer(KEYS[2], KEYS[3], ARGV[1])
if not was_sharer or string.sub(was_sharer, 1, 2) ~= 'k ' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
end
if token == ARGV[1] then
  free(KEYS[1], KEYS[2], KEYS[3], math.max(fence, tonumber(ARGV[2])), ARGV[3], {count = 0})
elseif state == 's' then
  -- Those behind it may have waited for nobody else.
  local inside = {access = token, count = count_sharers(KEYS[2], KEYS[3])}
  -- None are there also where they were lost, though their record wasn't.
  if inside.count > 0 or was_sharer then free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[3], inside, ends) end
end
return 1
