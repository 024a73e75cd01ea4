--[[
Prolongs leases, each only where its token still holds its key.

KEYS[i] owner of lease i
ARGV[2i-1] token of lease i
ARGV[2i] ttl of lease i in ms
Returns {now us, 1 | 0 for each lease: prolonged, or not its token's}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
look_at_clock()
local replies = {now_us}
for i = 1, #KEYS do
  -- Protected: a key that another application made into something else must not stop the renewal of all the others.
  local record = redis.pcall('GET', KEYS[i])
  local state, fence, ends, token, holder = read(type(record) == 'string' and record or '')
  if state == 'h' and token == ARGV[2 * i - 1] and ends > now then
    write(KEYS[i], 'h', fence, ARGV[2 * i], token, holder)
    replies[i + 1] = 1
  else
    replies[i + 1] = 0
  end
end
return replies
