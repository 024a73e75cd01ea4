--[[
Says that no lease can be running on this server, so that its guard needs no moratorium.

KEYS[1] the guard's record, see check-guard.lua
ARGV[1] the longest lease that the caller takes, in ms
ARGV[2] for how long an old master may still grant or prolong, in ms
Returns 1 | 0: done, or there's a record already
]]
--- @include _server-id.lua
local id = server_id()
if not id then return redis.error_reply('GUARD INFO has no run_id, so that nobody knows which server this is.') end
return redis.call('SET', KEYS[1], id .. ' 1 ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' 0 -', 'NX') and 1 or 0
