--[[
Notes at a key that its holder waits for another, so that a circle of such holders can be seen.

KEYS[1] owner
KEYS[2] blocked: '<token> <mark> <since us> <owner key that is waited for>'
ARGV[1] token
ARGV[2] mark of this wait
ARGV[3] since when it's marked, in us; empty: from now
ARGV[4] owner key that is waited for
ARGV[5] how long the note lasts, in ms
Returns since when it's marked, in us | 0: not this token's
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
look_at_clock()
local state, _, ends, token = read(redis.call('GET', KEYS[1]) or '')
if state ~= 'h' or token ~= ARGV[1] or ends <= now then return 0 end
local since = ARGV[3] ~= '' and ARGV[3] or now_us
redis.call('SET', KEYS[2], table.concat({token, ARGV[2], since, ARGV[4]}, ' '), 'PX', ARGV[5])
return since
