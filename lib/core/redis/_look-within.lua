-- Tells the first few waiters to look at the key within so many ms: its end isn't what they were told, and an end tells
-- nobody. The message is '<token> <ms>'; they only shorten their sleep, and ask when it ends. A few, in case that some
-- of them are frozen.
local function look_within(owner_key, queue_key, waiters_key, milliseconds)
  for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', queue_key, PLACES, '+inf', 'LIMIT', 0, 3)) do
    local channel = string.match(redis.call('HGET', waiters_key, waiter) or '', '^%d+ %S+ (.+)$')
    if channel then tell(owner_key, channel, waiter .. ' ' .. milliseconds, true) end
  end
end
