--[[
Who holds a key, and who waits for it.

KEYS[1] owner
KEYS[2] queue
KEYS[3] waiters
ARGV[1] none; present so that every script is called alike
Returns {now us, owner record or '', then for each live waiter: its sequence}
]]
--- @include _server-time.lua
look_at_clock()
local reply = {now_us, redis.call('GET', KEYS[1]) or ''}
local queue = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #queue, 2 do
  local alive_until = string.match(redis.call('HGET', KEYS[3], queue[i]) or '', '^(%d+)')
  if alive_until and tonumber(alive_until) >= now then reply[#reply + 1] = queue[i + 1] end
end
return reply
