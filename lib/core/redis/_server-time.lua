-- Server time: `now_us` in microseconds, as 16 digits (until 2286), which compare as texts; `now` in whole milliseconds.
local now_us, now
local function look_at_clock()
  local time = redis.call('TIME')
  now_us = time[1] .. string.sub('00000' .. time[2], -6)
  now = tonumber(string.sub(now_us, 1, 13))
end
