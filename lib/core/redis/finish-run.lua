--[[
Records how a run ended.

KEYS[1] runs: see _runs.lua
ARGV[1] the request as JSON: `FinishRequest` in run-store.ts
Returns 1 | 0: recorded, or there's no record of it any more
]]
--- @include _server-time.lua
--- @include _runs.lua
look_at_clock()
local request = cjson.decode(ARGV[1])
local record = redis.call('HGET', KEYS[1], request.token)
if not record then return 0 end
local run = decode_run(KEYS[1], request.token, record)
run.state, run.result, run.omitted, run.error = request.state, request.result, request.omitted, request.error
run.duration = math.max(0, now - run.start)
-- First: a server that is out of memory refuses to set, but not after a script's first write.
redis.call('PEXPIRE', KEYS[1], request.retain)
redis.call('HSET', KEYS[1], request.token, cjson.encode(run))
return 1
