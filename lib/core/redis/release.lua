--[[
Gives a key back if the token holds it, and hands it on to the first live waiter.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] the last fencing token used under the lease
ARGV[3] keep the key taken for so many ms more, held by nobody; 0: free it now
ARGV[4] 1: PUBLISH counts every receiver
Returns 1 | 0: released, or not this token's
]]
local token = ARGV[1]
local record = redis.call('GET', KEYS[1])
-- By position, which is cheaper than by pattern; see _record.lua.
if not record or string.sub(record, 1, 2) ~= 'h ' or string.sub(record, 34, 34 + #token) ~= token .. ' ' then
  return 0
end

-- Most of the time nobody waits: what isn't needed then comes below. (A server that is out of memory refuses this.)
if ARGV[3] == '0' and redis.call('EXISTS', KEYS[2]) == 0 then
  local reply = redis.pcall('SET', KEYS[1], 'f ' .. ARGV[2] .. ' 0000000000000 - ', 'KEEPTTL')
  if reply.ok then return 1 end
end

--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
if ARGV[3] == '0' then
  free(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[4], {count = 0})
else
  look_at_clock()
  write(KEYS[1], 'k', tonumber(ARGV[2]), tonumber(ARGV[3]), '-', string.sub(record, 35 + #token))
  look_within(KEYS[1], KEYS[2], KEYS[3], ARGV[3])
end
return 1
