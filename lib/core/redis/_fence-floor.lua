-- The least fencing token of a grant, 16 digits: server time, or what the caller asks for, where that is later. A caller asks
-- so that several servers, whose clocks differ, give one token; one that is wrong about the time, by more than this, isn't followed.
local FURTHEST_AHEAD = 1000000
local function fence_floor(asked)
  local time = tonumber(now_us)
  return string.format('%016.0f', math.max(time, math.min(tonumber(asked), time + FURTHEST_AHEAD)))
end
