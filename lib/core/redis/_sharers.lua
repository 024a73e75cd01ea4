-- Those who share a key: readers, or holders under one limit. Each stands in the queue's sorted set too, by the server time
-- in ms at which its lease ends; waiters stand there by their sequence, which is µs and so above PLACES. What is known of a
-- sharer is in the waiters' hash:
--
--   'h <fence> <holder>'   it holds the key, as JSON says
--   'k <fence> <holder>'   its work is done and its place is kept for a while (holdAtLeast)
--   'r'                    reserved for it: it was waiting, and is to claim it by its token
--
-- The owner record is in state 's' meanwhile, with their access for a token, and ends with the last of them.

-- How many there are; those whose time is up are dropped.
local function count_sharers(queue_key, waiters_key)
  local ended = redis.call('ZRANGEBYSCORE', queue_key, 0, now)
  for _, token in ipairs(ended) do redis.call('HDEL', waiters_key, token) end
  if #ended > 0 then redis.call('ZREMRANGEBYSCORE', queue_key, 0, now) end
  return redis.call('ZCOUNT', queue_key, 0, PLACES)
end

-- A server that is out of memory refuses to add anything, but not after a script's first write; and there too it must be
-- possible to renew and to give back. This one changes nothing.
local function begin_to_write(owner_key)
  redis.call('PEXPIRE', owner_key, math.max(1, redis.call('PTTL', owner_key)))
end

local function set_sharer(queue_key, waiters_key, token, ends, info)
  redis.call('ZADD', queue_key, string.format('%.0f', ends), token)
  redis.call('HSET', waiters_key, token, info)
end

-- What is known of one whose time isn't up, and when that is; nil where there's none of this token.
local function sharer(queue_key, waiters_key, token)
  local ends = tonumber(redis.call('ZSCORE', queue_key, token) or 0)
  if ends <= now or ends >= PLACES then return nil end
  return redis.call('HGET', waiters_key, token) or nil, ends
end

-- Writes the owner record for them, and sees to it that they're remembered for as long, and where nobody waits no longer: one
-- that crashed would stay there for the ttl of one that has long left. When the last of them ends.
local function keep_sharers(owner_key, queue_key, waiters_key, fence, access)
  local last = redis.call('ZREVRANGEBYSCORE', queue_key, PLACES, 0, 'WITHSCORES', 'LIMIT', 0, 1)
  local ends = tonumber(last[2])
  local lasts = ends - now
  write(owner_key, 's', fence, lasts, access, '')
  for _, key in ipairs({queue_key, waiters_key}) do
    local kept = redis.call('PTTL', key)
    if kept < lasts or kept > lasts + CLAIM_WINDOW and redis.call('ZCOUNT', queue_key, PLACES, '+inf') == 0 then
      redis.call('PEXPIRE', key, lasts)
    end
  end
  return ends
end
