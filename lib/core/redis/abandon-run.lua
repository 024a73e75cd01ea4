--[[
Removes runs that were claimed, and whose work was never begun.

KEYS[1] runs: see _runs.lua
ARGV[1] their tokens, as a JSON array
Returns 1
]]
--- @include _runs.lua
forget(KEYS[1], cjson.decode(ARGV[1]))
return 1
