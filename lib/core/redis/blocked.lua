--[[
Who holds a key alone, and what this holder is known to wait for.

KEYS[1] owner
KEYS[2] blocked, see mark-blocked.lua
ARGV[1] none; present so that every script is called alike
Returns {} where nobody holds it alone | {token} | {token, mark, since us, owner key that is waited for}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
look_at_clock()
local state, _, ends, token = read(redis.call('GET', KEYS[1]) or '')
if state ~= 'h' or ends <= now then return {} end
local by, mark, since, other = string.match(redis.call('GET', KEYS[2]) or '', '^(%S+) (%S+) (%d+) (.+)$')
if by ~= token then return {token} end
return {token, mark, since, other}
