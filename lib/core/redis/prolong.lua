--[[
Prolongs leases of one ttl that share their keys, each only where its token is among the sharers.

KEYS[3i-2] owner of lease i
KEYS[3i-1] its queue
KEYS[3i] its waiters
ARGV[1] ttl in ms
ARGV[i+1] token of lease i
Returns {now us, a text with a digit for each lease: 1 prolonged, 0 not its token's}
]]
--- @include _constants.lua
--- @include _server-time.lua
--- @include _record.lua
--- @include _sharers.lua
look_at_clock()
local ttl = tonumber(ARGV[1])
local results = {}
for i = 1, #KEYS / 3 do
  local owner_key, queue_key, waiters_key = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local token = ARGV[i + 1]
  -- Protected: a key that another application made into something else must not stop the renewal of all the others.
  local record = redis.pcall('GET', owner_key)
  local state, last, ends, of, holder = read(type(record) == 'string' and record or '')
  local info = state == 's' and sharer(queue_key, waiters_key, token)
  if info and string.sub(info, 1, 2) == 'h ' then
    begin_to_write(owner_key)
    set_sharer(queue_key, waiters_key, token, now + ttl, info)
    keep_sharers(owner_key, queue_key, waiters_key, last, of)
    results[i] = '1'
  elseif state == 'h' and of == token and ends > now then
    -- Held alone, where the answer to a downgrade was lost.
    write(owner_key, 'h', last, ttl, token, holder)
    results[i] = '1'
  else
    results[i] = '0'
  end
end
return {now_us, table.concat(results)}
