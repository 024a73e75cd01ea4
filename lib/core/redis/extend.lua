--[[
Prolongs leases, each only where its token still holds its key.

KEYS[2i-1] owner of lease i
KEYS[2i] fence of lease i
ARGV[3i-2] token of lease i
ARGV[3i-1] ttl of lease i in ms
ARGV[3i] how long its fencing token is remembered, in ms
Returns {now us, 1 | 0 for each lease: prolonged, or not its token's}
]]
--- @include _server-time.lua
--- @include _fence.lua
local replies = {now_us}
for i = 1, #KEYS / 2 do
  local owner_key, token, ttl = KEYS[2 * i - 1], ARGV[3 * i - 2], ARGV[3 * i - 1]
  -- Protected: a key that another application made into something else must not stop the renewal of all the others.
  local owner = redis.pcall('GET', owner_key)
  if type(owner) == 'string' and string.sub(owner, 1, #token + 1) == token .. ' ' then
    redis.call('PEXPIRE', owner_key, ttl)
    remember_fence(KEYS[2 * i], tonumber(string.match(owner, '^%S+ (%d+)')), tonumber(ARGV[3 * i]))
    replies[i + 1] = 1
  else
    replies[i + 1] = 0
  end
end
return replies
