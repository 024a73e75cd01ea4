--[[
Takes a key, or says who is ahead. Idempotent by token.

KEYS[1] owner: '<token> <fence> <holder>', '~<token>' while reserved, '= <fence> <holder>' while kept
KEYS[2] queue: sorted set of waiting tokens by sequence
KEYS[3] waiters: hash of token to '<alive until ms> <channel>'
KEYS[4] fence: the last fencing token
ARGV[1] token
ARGV[2] ttl in ms
ARGV[3] the caller's deadline in server time, ms
ARGV[4] how long the fencing token is remembered, in ms: beyond the ttl
ARGV[5] holder: who asks, as JSON
ARGV[6] claim window in ms
ARGV[7] 1: PUBLISH counts every receiver
ARGV[8] how long the waiter counts as alive, in ms; left out with what follows: don't queue it
ARGV[9] the channel that wakes the waiter; empty: it polls
ARGV[10] the sequence it had, to get its place back; empty: none
Returns {now us, 'granted', fencing token} | {now us, 'busy', remaining ms, sequence or 0} | {now us, 'late'}
]]
--- @include _server-time.lua
--- @include _fence.lua
--- @include _hand-on.lua
local token, ttl = ARGV[1], ARGV[2]

-- A command that was held up on its way must not take the key for a caller that has given up.
if now > tonumber(ARGV[3]) then return {now_us, 'late'} end

-- Not by MGET, which shows a key of another type as free.
local owner = redis.call('GET', KEYS[1])
if owner and string.sub(owner, 1, #token + 1) == token .. ' ' then
  -- The reply to an earlier try was lost. The caller counts its validity from this try, so the server must as well.
  redis.call('PEXPIRE', KEYS[1], ttl)
  return {now_us, 'granted', tonumber(string.match(owner, '^%S+ (%d+)'))}
end

if not owner then
  local head = hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[6], ARGV[7], token)
  if head and head ~= token then owner = '~' .. head end
end

if not owner or owner == '~' .. token then
  -- Larger than the last, and than every one that was given before the counter was lost.
  local fence = math.max(now_us, tonumber(redis.call('GET', KEYS[4]) or 0) + 1)
  remember_fence(KEYS[4], fence, tonumber(ARGV[4]))
  redis.call('SET', KEYS[1], token .. ' ' .. string.format('%.0f', fence) .. ' ' .. ARGV[5], 'PX', ttl)
  return {now_us, 'granted', fence}
end

local sequence = 0
local alive_for = tonumber(ARGV[8])
if alive_for then
  local known = redis.call('ZSCORE', KEYS[2], token)
  if known then
    sequence = tonumber(known)
  else
    if ARGV[10] ~= '' then
      sequence = tonumber(ARGV[10])
    else
      -- After the last, even if the clock was set back since it came.
      local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
      sequence = math.max(now_us, tonumber(last or 0) + 1)
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', sequence), token)
  end
  redis.call('HSET', KEYS[3], token, string.format('%.0f', now + alive_for) .. ' ' .. ARGV[9])
  if redis.call('PTTL', KEYS[2]) < alive_for then redis.call('PEXPIRE', KEYS[2], alive_for) end
  if redis.call('PTTL', KEYS[3]) < alive_for then redis.call('PEXPIRE', KEYS[3], alive_for) end
end
return {now_us, 'busy', redis.call('PTTL', KEYS[1]), sequence}
