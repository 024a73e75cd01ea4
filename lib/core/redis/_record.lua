-- The owner record, all that is known of a key's lock: '<state> <fence> <until> <token> <holder>'.
--
--   state   h held, r reserved for a waiter (ended, and '-' for a token: free, and somebody may wait), k kept by nobody
--           (holdAtLeast), f free and nobody waits,
--           s shared by several; see _sharers.lua
--   fence   the last fencing token given, 16 digits; while held, the first of the lease's range
--   until   server time at which it ends, in ms, 13 digits: then the key is free, though somebody may wait
--   token   the holder's, or that of the waiter it's reserved for; '-' where there's none; of sharers, their access
--   holder  who holds it, as JSON; empty where nobody does
--
-- It outlives what it says, so that the next fencing token is larger than the last one also where the server's clock
-- was set back, or is another's after a failover.
local function read(record)
  local state, fence, ends, token, holder = string.match(record, '^([hrkfs]) (%d+) (%d+) (%S+) (.*)$')
  return state, tonumber(fence), tonumber(ends), token, holder
end

-- Without `keep` (ms), it expires when the one before would have.
local function put(owner_key, record, keep)
  local reply = keep and redis.pcall('SET', owner_key, record, 'PX', keep)
    or redis.pcall('SET', owner_key, record, 'KEEPTTL')
  if type(reply) == 'table' and reply.err then
    -- A server that is out of memory refuses it, but not after a script's first write; and there too it must be
    -- possible to renew and to release.
    redis.call('PEXPIRE', owner_key, keep or redis.call('PTTL', owner_key))
    redis.call('SET', owner_key, record, 'KEEPTTL')
  end
end

-- For how long to remember, in ms, what ends in so many ms: never less than up to the moment in time that the fencing
-- token stands for. Once the record is gone, the server's clock, the floor of the next token, has passed it.
local function retention(fence, lasts)
  local ahead = fence - now_us
  return lasts + FENCE_RETENTION + (ahead > 0 and math.ceil(ahead / 1000) or 0)
end

-- It lasts for so many ms from now.
local function write(owner_key, state, fence, lasts, token, holder)
  local record = string.format('%s %016.0f %013.0f %s %s', state, fence, now + lasts, token, holder)
  put(owner_key, record, retention(fence, lasts))
end
