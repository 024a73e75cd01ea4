-- Remembers the last fencing token for `keep` ms, and never expires before the moment in time that the token stands for:
-- once the counter is gone, the server's clock, the floor of the next token, has passed it.
local function remember_fence(fence_key, fence, keep)
  if fence > now_us then keep = keep + math.ceil((fence - now_us) / 1000) end
  redis.call('SET', fence_key, string.format('%.0f', fence), 'PX', keep)
end
