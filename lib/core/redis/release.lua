--[[
Gives a key back if the token holds it, and hands it on to the first live waiter.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
KEYS[4] fence
ARGV[1] token
ARGV[2] keep the key taken for so many ms more, held by nobody; 0: free it now
ARGV[3] fence retention in ms
ARGV[4] claim window in ms
ARGV[5] 1: PUBLISH counts every receiver
Returns {now us, 1 | 0: released, or not this token's}
]]
--- @include _server-time.lua
--- @include _fence.lua
--- @include _hand-on.lua
local token = ARGV[1]
local owner = redis.call('GET', KEYS[1])
if not owner or string.sub(owner, 1, #token + 1) ~= token .. ' ' then return {now_us, 0} end

-- The first write frees the key: a server out of memory refuses the SET of the counter only if nothing was written before.
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('SET', KEYS[1], '=' .. string.sub(owner, #token + 1), 'KEEPTTL')
end
remember_fence(KEYS[4], tonumber(string.match(owner, '^%S+ (%d+)')), tonumber(ARGV[3]))
if ARGV[2] == '0' then hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[4], ARGV[5], '') end
return {now_us, 1}
