--[[
Takes several keys, all or none of them, without waiting; or gives those that are held already one fencing token. Idempotent
by token.

KEYS[3i-2] owner of key i: the record, see _record.lua
KEYS[3i-1] its queue
KEYS[3i] its waiters
ARGV[1] ttl in ms
ARGV[2] the caller's deadline in server time, ms
ARGV[3] holder: who asks, as JSON, with the channel on which it listens
ARGV[4] access: 'exclusive', 'shared', or 'limit:<n>'
ARGV[5] the fencing token that all are to have, all of which are held; 0: take them
ARGV[i+5] token for key i
ARGV[last+1] the fencing token is to be this at least, as far as it's less than a second ahead of the clock; left out: none
Returns {now us, 'granted', fencing token} | {now us, 'busy', i, remaining ms} | {now us, 'late'} | {now us, 'conflict', i, access of those inside}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _fence-floor.lua
--- @include _record.lua
--- @include _hand-on.lua
-- The dead at the front don't count, and are dropped.
local function somebody_waits(queue_key, waiters_key)
  while true do
    local head = redis.call('ZRANGEBYSCORE', queue_key, PLACES, '+inf', 'LIMIT', 0, 1)[1]
    if not head then return false end
    local alive_until = string.match(redis.call('HGET', waiters_key, head) or '', '^(%d+) ')
    if alive_until and tonumber(alive_until) >= now then return true end
    redis.call('ZREM', queue_key, head)
    redis.call('HDEL', waiters_key, head)
  end
end

local ttl, access, given = tonumber(ARGV[1]), ARGV[4], tonumber(ARGV[5])
look_at_clock()
-- A command that was held up on its way must not take the keys for a caller that has given up.
if now > tonumber(ARGV[2]) then return {now_us, 'late'} end

local fence = given > 0 and given or tonumber(fence_floor(ARGV[6 + #KEYS / 3]))
local lasts = {}
for i = 1, #KEYS / 3 do
  local queue_key, waiters_key, token = KEYS[3 * i - 1], KEYS[3 * i], ARGV[i + 5]
  local record = redis.call('GET', KEYS[3 * i - 2])
  local state, last, ends, of = nil, 0, 0, nil
  if record then state, last, ends, of = read(record) end
  -- What isn't ours, somebody has set by hand.
  if record and not state then return {now_us, 'busy', i, redis.call('PTTL', KEYS[3 * i - 2])} end
  -- In the way that's asked for: one that was held up must not take a downgrade back.
  local shares = string.sub(state == 's' and sharer(queue_key, waiters_key, token) or '', 1, 2)
  -- Its work is done, and its place is kept: this command has come a second time.
  if shares == 'k ' then return {now_us, 'late'} end
  local mine = state == 'h' and access == 'exclusive' and of == token and ends > now or access == of and shares == 'h '
  if not mine then
    -- A holder that was cut off may have used its whole range.
    if state == 'h' and ends <= now then last = last + FENCE_RANGE - 1 end
    local free = ends <= now
    if state == 's' and not free and limits_differ(access, of) then return {now_us, 'conflict', i, of} end
    local inside = {access = free and '?' or state == 's' and of or 'exclusive', count = count_sharers(queue_key, waiters_key)}
    -- Held alone, or by sharers that were lost, though their record wasn't: nobody knows how many there are.
    if not free and inside.count == 0 then inside = {access = nil, count = 1} end
    local waits = somebody_waits(queue_key, waiters_key)
    if given > 0 or waits or not may_enter(access, inside) then
      return {now_us, 'busy', i, math.max(0, ends - now)}
    end
  end
  lasts[i] = last
  -- Larger than the last, and than every one that was given before the record was lost.
  if given == 0 then fence = math.max(fence, last + 1) end
end

for i = 1, #KEYS / 3 do
  local owner_key, queue_key, waiters_key, token = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], ARGV[i + 5]
  if access == 'exclusive' then
    write(owner_key, 'h', fence, ttl, token, ARGV[3])
  else
    set_sharer(queue_key, waiters_key, token, now + ttl, string.format('h %.0f %s', fence, ARGV[3]))
    keep_sharers(owner_key, queue_key, waiters_key, math.max(fence, lasts[i]), access)
  end
end
return {now_us, 'granted', string.format('%.0f', fence)}
