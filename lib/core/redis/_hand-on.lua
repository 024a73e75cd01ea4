-- Reserves a free key for the first waiter in the queue that is alive, and wakes it. A reservation is the owner string
-- '~' .. token; the waiter claims it by acquiring with that token within the claim window.
--
-- Alive is: it has refreshed its place in time, and, where it's woken by a channel and `count_receivers` is '1' (a single
-- server, which knows all of its subscribers), somebody received the message. The dead are dropped on the way. One that
-- is frozen can't be told from one that is slow, so those behind it are told when to look: at the end of the window.
--
-- Returns the token it's reserved for, or false where nobody waits. With `claimant` at the head, returns it without
-- reserving: it's asking right now.
--
-- It asks for the time itself: a release that meets nobody waiting needn't know it.
--- @include _look-within.lua
local function hand_on(owner_key, queue_key, waiters_key, claim_window, count_receivers, claimant)
  -- Cheaper than to look for the first, and most of the time there's none.
  if redis.call('EXISTS', queue_key) == 0 then return false end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  while true do
    local head = redis.call('ZRANGE', queue_key, 0, 0)[1]
    if not head then return false end
    local alive_until, channel = string.match(redis.call('HGET', waiters_key, head) or '', '^(%d+) (.*)$')
    local woken = false
    if head ~= claimant and alive_until and tonumber(alive_until) >= now then
      -- Protected: a user who may not publish must still be able to release. The waiters then look for themselves.
      local receivers = channel == '' and 1 or redis.pcall('PUBLISH', channel, head)
      if type(receivers) ~= 'number' then return claimant ~= '' and head end
      woken = receivers > 0 or count_receivers ~= '1'
    end
    redis.call('ZREM', queue_key, head)
    redis.call('HDEL', waiters_key, head)
    if woken then
      redis.call('SET', owner_key, '~' .. head, 'PX', claim_window)
      look_within(queue_key, waiters_key, claim_window)
    end
    if woken or head == claimant then return head end
  end
end
