--[[
Gives back a place among those who share a key, and lets in whoever may enter now.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] keep the place taken for so many ms more, held by nobody; 0: free it now
ARGV[3] 1: PUBLISH counts every receiver
Returns 1 | 0: released, or not this token's
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
look_at_clock()
local state, last, ends, of, holder = read(redis.call('GET', KEYS[1]) or '')
-- Held alone, where the answer to a downgrade was lost.
local alone = state == 'h' and of == ARGV[1] and ends > now
local info = state == 's' and sharer(KEYS[2], KEYS[3], ARGV[1])
if not alone and string.sub(info or '', 1, 2) ~= 'h ' then return 0 end
-- The downgrade would have told the last that was used.
if alone then last = last + FENCE_RANGE - 1 end

if ARGV[2] ~= '0' then
  begin_to_write(KEYS[1])
  if alone then
    write(KEYS[1], 'k', last, tonumber(ARGV[2]), '-', holder)
  else
    set_sharer(KEYS[2], KEYS[3], ARGV[1], now + tonumber(ARGV[2]), 'k' .. string.sub(info, 2))
    keep_sharers(KEYS[1], KEYS[2], KEYS[3], last, of)
  end
  look_within(KEYS[1], KEYS[2], KEYS[3], ARGV[2])
  return 1
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
local inside = alone and {count = 0} or {access = of, count = count_sharers(KEYS[2], KEYS[3])}
free(KEYS[1], KEYS[2], KEYS[3], last, ARGV[3], inside, ends)
return 1
