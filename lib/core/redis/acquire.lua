--[[
Takes a key, or says who is ahead. Idempotent by token.

KEYS[1] owner: '<token> <fence> <since ms> <holder>', '~<token>' while reserved, '= <fence> <since ms> <holder>' while kept
KEYS[2] queue: sorted set of waiting tokens by sequence
KEYS[3] waiters: hash of token to '<alive until ms> <channel>'
KEYS[4] fence: the last fencing token
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] how long the waiter counts as alive, in ms; 0 doesn't queue it
ARGV[5] the channel that wakes the waiter; empty: it polls
ARGV[6] the sequence it had, to get its place back; empty: none
ARGV[7] claim window in ms
ARGV[8] 1: PUBLISH counts every receiver
ARGV[9] fence retention in ms
ARGV[10] holder: who asks, as JSON
Returns {now us, 'granted', fencing token} | {now us, 'busy', remaining ms, sequence or 0} | {now us, 'late'}
]]
--- @include _server-time.lua
--- @include _fence.lua
--- @include _hand-on.lua
local token, ttl = ARGV[1], ARGV[2]

-- A command that was held up on its way must not take the key for a caller that has given up.
if now > tonumber(ARGV[3]) then return {now_us, 'late'} end

local owner = redis.call('GET', KEYS[1])
if owner and string.sub(owner, 1, #token + 1) == token .. ' ' then
  -- The reply to an earlier try was lost. The caller counts its validity from this try, so the server must as well.
  redis.call('PEXPIRE', KEYS[1], ttl)
  return {now_us, 'granted', tonumber(string.match(owner, '^%S+ (%d+)'))}
end

if not owner then
  local head = hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[7], ARGV[8], token)
  if head and head ~= token then owner = '~' .. head end
end

if not owner or owner == '~' .. token then
  local last = tonumber(redis.call('GET', KEYS[4]) or 0)
  local fence = now_us
  if last >= now_us then
    fence = last + 1
    remember_fence(KEYS[4], fence, math.max(tonumber(ttl), tonumber(ARGV[9])))
  end
  redis.call('SET', KEYS[1], token .. ' ' .. string.format('%.0f', fence) .. ' ' .. string.format('%.0f', now) .. ' ' .. ARGV[10], 'PX', ttl)
  return {now_us, 'granted', fence}
end

local sequence = 0
local alive_for = tonumber(ARGV[4])
if alive_for > 0 then
  local known = redis.call('ZSCORE', KEYS[2], token)
  if known then
    sequence = tonumber(known)
  else
    if ARGV[6] ~= '' then
      sequence = tonumber(ARGV[6])
    else
      -- After the last, even if the clock was set back since it came.
      local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
      sequence = math.max(now_us, tonumber(last or 0) + 1)
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', sequence), token)
  end
  redis.call('HSET', KEYS[3], token, string.format('%.0f', now + alive_for) .. ' ' .. ARGV[5])
  if redis.call('PTTL', KEYS[2]) < alive_for then
    redis.call('PEXPIRE', KEYS[2], alive_for)
    redis.call('PEXPIRE', KEYS[3], alive_for)
  end
end
return {now_us, 'busy', redis.call('PTTL', KEYS[1]), sequence}
