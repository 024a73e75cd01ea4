-- A holder of the key is done with it; `inside` are those who go on. `ended`: when the last of all would have ended, where it's
-- known: who waits was told that, and is told again where it has come nearer by more than a little.
--- @include _hand-on.lua
local function free(owner_key, queue_key, waiters_key, fence, count_receivers, inside, ended)
  hand_on(owner_key, queue_key, waiters_key, fence, count_receivers, inside)
  if inside.count == 0 then
    put(owner_key, string.format('f %016.0f 0000000000000 - ', fence))
  elseif inside.access ~= 'exclusive' then
    local ends = keep_sharers(owner_key, queue_key, waiters_key, fence, inside.access)
    if ended and ends < ended - CLAIM_WINDOW then look_within(owner_key, queue_key, waiters_key, ends - now) end
  end
end
