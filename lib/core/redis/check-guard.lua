--[[
Asks the server's guard whether the server may grant, and begins a moratorium where leases may be forgotten that still run.

KEYS[1] the guard's record: '<server id> <epoch> <longest ms> <lag ms> <not before, ms of server time; 0: open> <why; -: open>'. Never expires.
ARGV[1] the longest lease that the caller takes or knows of, in ms
ARGV[2] for how long an old master may still grant or prolong, in ms
ARGV[3] the highest epoch that the caller has seen
Returns {now us, record, remaining ms, why}
]]
--- @include _server-time.lua
--- @include _server-id.lua
-- Clocks may run this much apart while a lease lasts.
local DRIFT = 0.01
look_at_clock()
local id = server_id()
if not id then return redis.error_reply('GUARD INFO has no run_id, so that nobody knows which server this is.') end
local own_longest, own_lag, seen = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local record = redis.call('GET', KEYS[1])
local of, epoch, longest, lag, not_before, why = string.match(record or '', '^(%w+) (%d+) (%d+) (%d+) (%d+) (%S+)$')
epoch, not_before = tonumber(epoch or 0), tonumber(not_before or 0)
longest, lag = tonumber(longest or 0), tonumber(lag or 0)
-- How long a moratorium is by what the record says, and for all who have asked, this caller among them.
local function length() return math.ceil(longest * (1 + DRIFT)) + lag end
local reckoned = length()
longest, lag = math.max(longest, own_longest), math.max(lag, own_lag)
-- 'no-record': its first use, or its data was lost. 'other-server': it restarted, or is a replica that was promoted.
-- 'older-data': it's an old master, back with what it had.
local news = not of and 'no-record' or of ~= id and 'other-server' or epoch < seen and 'older-data'
if news then
  why, epoch = news, math.max(epoch, seen) + 1
  not_before = now + length()
elseif not_before > now then
  -- Whoever takes longer leases has some that it didn't reckon with. And where the clock was set back meanwhile, it begins
  -- anew: else it would last for as long as the clock was set back.
  not_before = math.min(not_before + length() - reckoned, now + length())
else
  not_before, why = 0, '-'
end

local current = string.format('%s %.0f %.0f %.0f %.0f %s', id, epoch, longest, lag, not_before, why)
if current ~= record then
  -- A server that is out of memory refuses to set, but not after a script's first write.
  redis.call('PERSIST', KEYS[1])
  redis.call('SET', KEYS[1], current)
end
return {now_us, current, math.max(0, not_before - now), why}
