--[[
Undoes whatever an acquire with this token has done or left: its place in the queue, its reservation, its grant.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
KEYS[4] fence
ARGV[1] token
ARGV[2] fence retention in ms
ARGV[3] claim window in ms
ARGV[4] 1: PUBLISH counts every receiver
Returns {now us}
]]
--- @include _server-time.lua
--- @include _fence.lua
--- @include _hand-on.lua
local token = ARGV[1]
redis.call('ZREM', KEYS[2], token)
redis.call('HDEL', KEYS[3], token)
local owner = redis.call('GET', KEYS[1])
local granted = owner and string.sub(owner, 1, #token + 1) == token .. ' '
if granted or owner == '~' .. token then
  redis.call('DEL', KEYS[1])
  if granted then remember_fence(KEYS[4], tonumber(string.match(owner, '^%S+ (%d+)')), tonumber(ARGV[2])) end
  hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[3], ARGV[4], '')
end
return {now_us}
