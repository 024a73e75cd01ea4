-- Server time: `now_us` in microseconds (exact in a double until 2255), `now` in whole milliseconds.
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
