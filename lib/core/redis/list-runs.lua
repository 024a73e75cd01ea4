--[[
The runs of a job, newest first.

KEYS[1] runs: see _runs.lua
ARGV[1] tokens of those whose lock was found to be held no more, as a JSON array
Returns each run as JSON
]]
--- @include _runs.lua
local runs = load_runs(KEYS[1])
bury(KEYS[1], runs, cjson.decode(ARGV[1]))
local reply = {}
for i, run in ipairs(runs) do reply[i] = cjson.encode(run) end
return reply
