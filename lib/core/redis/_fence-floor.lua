-- The least fencing token of a grant, 16 digits: server time, or what the caller asks for (16 digits as well, or none), where
-- that is later. A caller asks so that several servers, whose clocks differ, give one token; one that is wrong about the time,
-- by more than this, isn't followed.
local FURTHEST_AHEAD = 1000000
local function fence_floor(asked)
  if not asked or asked <= now_us then return now_us end
  if asked - now_us <= FURTHEST_AHEAD then return asked end
  return string.format('%016.0f', now_us + FURTHEST_AHEAD)
end
