--- @include _sharers.lua
--- @include _tell.lua
--- @include _look-within.lua
-- The one rule for who may enter, beside those who are inside: {access, count}.
local function may_enter(access, inside)
  if inside.count == 0 then return true end
  if access == 'exclusive' or access ~= inside.access then return false end
  local limit = string.match(access, '^limit:(%d+)$')
  return not limit or inside.count < tonumber(limit)
end

-- Whether two limits differ: replicas that would let in a different number are misconfigured, and neither may enter.
local function limits_differ(access, other)
  return access ~= other and string.sub(access, 1, 6) == 'limit:' and string.sub(other, 1, 6) == 'limit:'
end

-- Lets in whoever may enter, first come, first served: reserves the key for the first waiters that are alive, and wakes
-- them; each claims it by acquiring with its token within the claim window. One that may not enter stops those behind it.
-- `inside` becomes what comes of it. `fence`: the last fencing token used. `claimant`: {token, access, place}, asking right
-- now, for whom it's said whether he may enter; without a place of its own, it's behind all others.
--
-- Alive is: it has refreshed its place in time, and, where it's woken by a channel and `count_receivers` is '1' (a single
-- server, which knows all of its subscribers), somebody received the message. The dead are dropped on the way. One that
-- is frozen can't be told from one that is slow, so those behind it are told when to look: at the end of the window.
--
-- Looks at the clock only where it must: a release that meets nobody waiting needn't.
local function hand_on(owner_key, queue_key, waiters_key, fence, count_receivers, inside, claimant)
  local entered, reserved = false, false
  -- Cheaper than to look for the first, and most of the time there's none.
  local waits = redis.call('EXISTS', queue_key) == 1
  if waits and not now then look_at_clock() end
  while true do
    local head, sequence
    if waits then
      local first = redis.call('ZRANGEBYSCORE', queue_key, PLACES, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      head, sequence = first[1], tonumber(first[2])
    end
    if claimant and not entered
      and (not head or head == claimant.token or claimant.place and claimant.place < sequence) then
      if not may_enter(claimant.access, inside) then break end
      if waits then
        redis.call('ZREM', queue_key, claimant.token)
        redis.call('HDEL', waiters_key, claimant.token)
      end
      inside.access, inside.count, entered = claimant.access, inside.count + 1, true
    elseif not head then
      break
    else
      local alive_until, access, channel =
        string.match(redis.call('HGET', waiters_key, head) or '', '^(%d+) (%S+) (.*)$')
      local woken = false
      if alive_until and tonumber(alive_until) >= now then
        if not may_enter(access, inside) then
          -- Those behind it would wait for a dead one, which nothing else ends sooner than its own time.
          local listeners = count_receivers == '1' and channel ~= '' and redis.pcall('PUBSUB', 'NUMSUB', channel)
          if not listeners or listeners.err or tonumber(listeners[2]) ~= 0 then break end
        end
        local receivers = channel == '' and 1 or tell(owner_key, channel, head, true)
        woken = type(receivers) ~= 'number' or receivers > 0 or count_receivers ~= '1'
      end
      redis.call('ZREM', queue_key, head)
      redis.call('HDEL', waiters_key, head)
      if woken then
        if access == 'exclusive' then
          write(owner_key, 'r', fence, CLAIM_WINDOW, head, '')
        else
          set_sharer(queue_key, waiters_key, head, now + CLAIM_WINDOW, 'r')
        end
        inside.access, inside.count, reserved = access, inside.count + 1, true
      end
    end
  end
  if reserved then look_within(owner_key, queue_key, waiters_key, CLAIM_WINDOW) end
  return entered
end
