-- Frees a key, or reserves it for the first waiter in the queue that is alive, and wakes it; the waiter claims it by
-- acquiring with its token within the claim window. `fence`: the last fencing token used. `claimant`: asking right now;
-- where it's the head, it needn't be woken.
--
-- Alive is: it has refreshed its place in time, and, where it's woken by a channel and `count_receivers` is '1' (a single
-- server, which knows all of its subscribers), somebody received the message. The dead are dropped on the way. One that
-- is frozen can't be told from one that is slow, so those behind it are told when to look: at the end of the window.
--
-- Returns the token it's reserved for, or the claimant; false where nobody waits. Looks at the clock only where it must:
-- a release that meets nobody waiting needn't.
--- @include _look-within.lua
local function hand_on(owner_key, queue_key, waiters_key, fence, count_receivers, claimant)
  -- Cheaper than to look for the first, and most of the time there's none.
  if redis.call('EXISTS', queue_key) == 0 then return false end
  if not now then look_at_clock() end
  while true do
    local head = redis.call('ZRANGE', queue_key, 0, 0)[1]
    if not head then return false end
    local alive_until, channel = string.match(redis.call('HGET', waiters_key, head) or '', '^(%d+) (.*)$')
    local woken = false
    if head ~= claimant and alive_until and tonumber(alive_until) >= now then
      -- Protected: a user who may not publish must still be able to release. The waiters poll then.
      local receivers = channel == '' and 1 or redis.pcall('PUBLISH', channel, head)
      woken = type(receivers) ~= 'number' or receivers > 0 or count_receivers ~= '1'
    end
    redis.call('ZREM', queue_key, head)
    redis.call('HDEL', waiters_key, head)
    if woken then
      write(owner_key, 'r', fence, CLAIM_WINDOW, head, '')
      look_within(queue_key, waiters_key, CLAIM_WINDOW)
    end
    if woken or head == claimant then return head end
  end
end
