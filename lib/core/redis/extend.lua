--[[
Prolongs leases, each only where its token still holds its key.

KEYS[2i-1] owner of lease i
KEYS[2i] fence of lease i
ARGV[1] fence retention in ms
ARGV[2i] token of lease i
ARGV[2i+1] ttl of lease i in ms
Returns {now us, 1 | 0 for each lease: prolonged, or not its token's}
]]
--- @include _server-time.lua
--- @include _fence.lua
local replies = {now_us}
for i = 1, #KEYS / 2 do
  local owner_key, token, ttl = KEYS[2 * i - 1], ARGV[2 * i], ARGV[2 * i + 1]
  local owner = redis.call('GET', owner_key)
  if owner and string.sub(owner, 1, #token + 1) == token .. ' ' then
    redis.call('PEXPIRE', owner_key, ttl)
    -- Only where the token is ahead of the clock does its counter matter before the release writes it.
    local fence = tonumber(string.match(owner, '^%S+ (%d+)'))
    if fence > now_us then remember_fence(KEYS[2 * i], fence, math.max(tonumber(ttl), tonumber(ARGV[1]))) end
    replies[i + 1] = 1
  else
    replies[i + 1] = 0
  end
end
return replies
