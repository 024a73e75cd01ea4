--[[
Takes back the note that a key's holder waits for another.

KEYS[1] blocked, see mark-blocked.lua
ARGV[1] mark of the wait
Returns 1
]]
if string.match(redis.call('GET', KEYS[1]) or '', '^%S+ (%S+) ') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
