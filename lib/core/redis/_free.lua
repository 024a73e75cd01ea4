-- A holder of the key is done with it; `inside` are those who go on.
--- @include _hand-on.lua
local function free(owner_key, queue_key, waiters_key, fence, count_receivers, inside)
  hand_on(owner_key, queue_key, waiters_key, fence, count_receivers, inside)
  if inside.count == 0 then
    put(owner_key, string.format('f %016.0f 0000000000000 - ', fence))
  elseif inside.access ~= 'exclusive' then
    keep_sharers(owner_key, queue_key, waiters_key, fence, inside.access)
  end
end
