--[[
Prolongs leases of one ttl, each only where its token still holds its key.

KEYS[i] owner of lease i
ARGV[1] ttl in ms
ARGV[2] the tokens, all of one length, each with a space behind it: hundreds of arguments cost more than one long one
Returns {now us, a text with a digit for each lease: 1 prolonged, 0 not its token's}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
look_at_clock()
local ttl = tonumber(ARGV[1])
local ends = string.format('%013.0f', now + ttl)
local tokens, length = ARGV[2], #ARGV[2] / #KEYS
local results = {}
for i = 1, #KEYS do
  -- Protected: a key that another application made into something else must not stop the renewal of all the others.
  local record = redis.pcall('GET', KEYS[i])
  -- By position, which is cheaper than by pattern, and there may be hundreds; see _record.lua.
  if type(record) == 'string' and string.sub(record, 1, 2) == 'h '
    and string.sub(record, 34, 33 + length) == string.sub(tokens, (i - 1) * length + 1, i * length) and tonumber(string.sub(record, 20, 32)) > now then
    put(KEYS[i], string.sub(record, 1, 19) .. ends .. string.sub(record, 33), retention(string.sub(record, 3, 18), ttl))
    results[i] = '1'
  else
    results[i] = '0'
  end
end
return {now_us, table.concat(results)}
