-- Gives a waiter its place in the queue, or refreshes it. `waiter`: {token, access, alive_for, channel, place}; the last is
-- the one it had before, if any. Returns its sequence.
local function give_place(owner_key, queue_key, waiters_key, waiter, record)
  local known = tonumber(redis.call('ZSCORE', queue_key, waiter.token) or 0)
  local sequence = known
  if known < PLACES then
    -- After the last, even if the clock was set back since it came.
    local last = tonumber(redis.call('ZRANGE', queue_key, -1, -1, 'WITHSCORES')[2] or 0)
    sequence = waiter.place or math.max(tonumber(now_us), last + 1)
    redis.call('ZADD', queue_key, string.format('%.0f', sequence), waiter.token)
    if last < PLACES and record and string.sub(record, 1, 2) == 'h ' then
      -- The holder's process may pass its lease on among its own callers, as long as it knows of nobody else.
      local channel = string.match(record, '"channel":"([^"]+)"')
      -- Not everywhere: who isn't told, passes it on for a moment longer only.
      if channel then tell(owner_key, channel, '+' .. owner_key, false) end
    end
  end
  redis.call('HSET', waiters_key, waiter.token,
    string.format('%.0f', now + waiter.alive_for) .. ' ' .. waiter.access .. ' ' .. waiter.channel)
  for _, key in ipairs({queue_key, waiters_key}) do
    if redis.call('PTTL', key) < waiter.alive_for then redis.call('PEXPIRE', key, waiter.alive_for) end
  end
  return sequence
end
