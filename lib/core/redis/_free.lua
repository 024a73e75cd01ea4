-- The key's holder is done with it.
--- @include _hand-on.lua
local function free(owner_key, queue_key, waiters_key, fence, count_receivers)
  if not hand_on(owner_key, queue_key, waiters_key, fence, count_receivers, '') then
    put(owner_key, string.format('f %016.0f 0000000000000 - ', fence))
  end
end
