--[[
Who holds a key, and who waits for it.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] none; present so that every script is called alike
Returns {now us, owner record or '', {when it ends in ms, what is known of it, ... of each sharer}, {sequence, access, ... of each live waiter}, {token of each sharer}}
]]
--- @include _constants.lua
--- @include _server-time.lua
look_at_clock()
local sharers, waiters, tokens = {}, {}, {}
local queue = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #queue, 2 do
  local score, info = tonumber(queue[i + 1]), redis.call('HGET', KEYS[3], queue[i]) or ''
  if score < PLACES then
    if score > now then
      sharers[#sharers + 1] = queue[i + 1]
      sharers[#sharers + 1] = info
      tokens[#tokens + 1] = queue[i]
    end
  else
    local alive_until, access = string.match(info, '^(%d+) (%S+) ')
    if alive_until and tonumber(alive_until) >= now then
      waiters[#waiters + 1] = queue[i + 1]
      waiters[#waiters + 1] = access
    end
  end
end
return {now_us, redis.call('GET', KEYS[1]) or '', sharers, waiters, tokens}
