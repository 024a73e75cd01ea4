--[[
Accepts a proposal about a job's runs, if what was promised last is this very one; see quorum-run-store.ts. Idempotent.

KEYS[1] proposals, see promise-runs.lua
ARGV[1] the proposal's number
ARGV[2] whose it is
ARGV[3] how long to remember it at least, in ms
ARGV[4] the runs
Returns {1 | 0: accepted or not, number promised}
]]
local promised, by = unpack(redis.call('HMGET', KEYS[1], 'promised', 'by'))
-- Not without a promise of its own either: a server that has lost its data doesn't know what it promised to others.
if promised ~= ARGV[1] or by ~= ARGV[2] then return {0, promised or '0'} end
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])))
redis.call('HSET', KEYS[1], 'accepted', ARGV[1], 'runs', ARGV[4])
return {1, promised}
