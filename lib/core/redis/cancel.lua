--[[
Undoes whatever an acquire with this token has done or left: its place in the queue, its reservation, its grant.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] claim window in ms
ARGV[3] 1: PUBLISH counts every receiver
Returns 1
]]
--- @include _hand-on.lua
local token = ARGV[1]
redis.call('ZREM', KEYS[2], token)
redis.call('HDEL', KEYS[3], token)
local owner = redis.call('GET', KEYS[1])
if owner and (owner == '~' .. token or string.sub(owner, 1, #token + 1) == token .. ' ') then
  redis.call('DEL', KEYS[1])
  hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[3], '')
end
return 1
