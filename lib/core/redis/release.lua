--[[
Gives a key back if the token holds it, and hands it on to the first live waiter.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] keep the key taken for so many ms more, held by nobody; 0: free it now
ARGV[3] claim window in ms
ARGV[4] 1: PUBLISH counts every receiver
Returns 1 | 0: released, or not this token's
]]
--- @include _hand-on.lua
local token = ARGV[1]
local owner = redis.call('GET', KEYS[1])
if not owner or string.sub(owner, 1, #token + 1) ~= token .. ' ' then return 0 end

if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[3], ARGV[4], '')
else
  -- The expiry first: a server that is out of memory refuses the SET only as a script's first write.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('SET', KEYS[1], '=' .. string.sub(owner, #token + 1), 'KEEPTTL')
  look_within(KEYS[2], KEYS[3], ARGV[2])
end
return 1
