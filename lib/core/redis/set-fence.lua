--[[
Gives the fencing token to a lease that holds its key alone, and holds it for a full ttl from now.

KEYS[1] owner: the record, see _record.lua
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] the fencing token, 16 digits
Returns now us: done | {now us, 'late'} | {now us, 'busy'}: the key is not this token's
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
local token, ttl, fence = ARGV[1], ARGV[2], ARGV[4]
look_at_clock()
-- One that was held up must not take back what was given since.
if now > tonumber(ARGV[3]) then return {now_us, 'late'} end

local record = redis.call('GET', KEYS[1])
-- By position, which is cheaper than by pattern; see _record.lua.
if not record or string.sub(record, 1, 2) ~= 'h ' or string.sub(record, 34, 34 + #token) ~= token .. ' '
  or tonumber(string.sub(record, 20, 32)) <= now then
  return {now_us, 'busy'}
end
put(KEYS[1], 'h ' .. fence .. ' ' .. (now + ttl) .. string.sub(record, 33), retention(fence, tonumber(ttl)))
return now_us
