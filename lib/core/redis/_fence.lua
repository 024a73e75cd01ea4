-- Remembers the last fencing token. Its expiry is never before the moment in time that the token stands for: once the
-- counter is gone, the server's clock, the floor of the next token, has passed it. And it stays for at least
-- `retention`, so that a clock that is set back, or another master whose clock is behind, doesn't repeat a token.
local function remember_fence(fence_key, fence, retention)
  local ahead = math.max(0, math.ceil(fence / 1000) - now)
  redis.call('SET', fence_key, string.format('%.0f', fence), 'PX', string.format('%.0f', ahead + retention))
end
