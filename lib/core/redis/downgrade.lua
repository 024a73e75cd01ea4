--[[
Turns a key that one holds alone into one that it shares, and lets in whoever may enter now. Idempotent.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] token
ARGV[2] its fencing token
ARGV[3] 1: PUBLISH counts every receiver
Returns 1 | 0: done, or not this token's
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _free.lua
look_at_clock()
local state, last, ends, token, holder = read(redis.call('GET', KEYS[1]) or '')
if state == 's' and sharer(KEYS[2], KEYS[3], ARGV[1]) then return 1 end
if state ~= 'h' or token ~= ARGV[1] or ends <= now then return 0 end
begin_to_write(KEYS[1])
set_sharer(KEYS[2], KEYS[3], token, ends, 'h ' .. ARGV[2] .. ' ' .. holder)
local fence = math.max(last, tonumber(ARGV[2]))
free(KEYS[1], KEYS[2], KEYS[3], fence, ARGV[3], {access = 'shared', count = 1})
return 1
