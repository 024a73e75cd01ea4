--[[
Promises a proposal about a job's runs that no older one is accepted here any more, and tells what was accepted last; see
quorum-run-store.ts. Idempotent.

KEYS[1] proposals: a hash of `promised` (a number), `by` (whose), `accepted` (a number) and `runs` (what was accepted)
ARGV[1] the proposal's number; 0: only look
ARGV[2] whose it is
ARGV[3] how long to remember it at least, in ms
Returns {now ms, 1 | 0: promised or not, number promised, number accepted, remaining ms, runs}
]]
--- @include _server-time.lua
look_at_clock()
local promised, by, accepted, runs = unpack(redis.call('HMGET', KEYS[1], 'promised', 'by', 'accepted', 'runs'))
promised = tonumber(promised or 0)
local number = tonumber(ARGV[1])
local kept = math.max(0, redis.call('PTTL', KEYS[1]))
local is_given = number > promised or number == promised and by == ARGV[2]
if is_given then
  local lasts = math.max(kept, tonumber(ARGV[3]))
  -- A server that is out of memory refuses to set, but not after a script's first write; and what is under way must be
  -- possible to end.
  if kept > 0 then redis.call('PEXPIRE', KEYS[1], lasts) end
  redis.call('HSET', KEYS[1], 'promised', ARGV[1], 'by', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], lasts)
end
return {now, is_given and 1 or 0, string.format('%.0f', promised), accepted or '0', kept, runs or ''}
