-- In front of a script that grants: whether the server's guard lets it, see server-guard.ts. Of KEYS, the guard's record is
-- the last; of ARGV, the last is the record as the caller knows it, open, and the one before says whether to ask the server who
-- it is ('1') or not ('0': the record was seen over this very connection). They're taken off, so that the script behind finds
-- its own. `first`: the index of the token for the first key. `waiter`: gives who waits for the one key, as `give_place` takes it,
-- and up to when (`not_after`); nil: nobody waits.
--
-- Gives what to answer instead, or nil. Who holds all of the keys already may go on. Who waits is queued for as long as the
-- guard lets nobody in: else whoever comes later would have the same chance when it does again.
--- @include _server-id.lua
local function guard(first, waiter)
  local guard_key, expected, asks = table.remove(KEYS), table.remove(ARGV), table.remove(ARGV)
  local guards = redis.call('GET', guard_key)
  if guards == expected
    and (asks == '0' or server_id() == string.match(expected, '^%w+')) then
    return nil
  end

  --- @include _constants.lua
  --- @include _server-time.lua
  --- @include _record.lua
  --- @include _sharers.lua
  --- @include _tell.lua
  --- @include _place.lua
  local function stand_in_line(who, owner_key, queue_key, waiters_key)
    -- Where only the caller's knowledge is old, it asks again at once, and is queued then if it must wait.
    local not_before = tonumber(string.match(guards or '', ' (%d+) %S+$') or 0)
    if not who.alive_for or now > who.not_after or now >= not_before then return 0 end
    local record = redis.call('GET', owner_key)
    local state, fence, _, of = read(record or '')
    local was_sharer = sharer(queue_key, waiters_key, who.token)
    local sequence = give_place(owner_key, queue_key, waiters_key, who, record)
    -- What is free: nobody would look at the queue. What is reserved for it alone: it isn't any more. So that ends now.
    if state == 'f' or state == 'r' and of == who.token
      or state == 's' and was_sharer and count_sharers(queue_key, waiters_key) == 0 then
      write(owner_key, 'r', fence, 0, '-', '')
    end
    return sequence
  end

  look_at_clock()
  for i = 1, #KEYS / 3 do
    local owner_key, queue_key, waiters_key, token = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], ARGV[first + i - 1]
    local state, _, ends, of = read(redis.call('GET', owner_key) or '')
    local holds = state == 'h' and of == token and ends > now
      or state == 's' and string.sub(sharer(queue_key, waiters_key, token) or '', 1, 2) == 'h '
    if not holds then
      return {now_us, 'guard', waiter and stand_in_line(waiter(), owner_key, queue_key, waiters_key) or 0}
    end
  end
  return nil
end
