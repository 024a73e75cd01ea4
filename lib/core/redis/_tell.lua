-- Sends a message to a process, on its channel '<prefix>:wake:<id>'; how many heard it, or an error. Protected: a user who may
-- not publish must still be able to release; who isn't told, polls.
--
-- A channel that ends with '*' is a process's on a Cluster, which sends what is published on an ordinary channel to every node.
-- So it goes to the name's own shard, on '<owner key>:wake:<id>', which the process hears while somebody waits there for the
-- name. Nobody may hear it: the slot is just moving, or has, or the process subscribed at a replica. Where `surely`, it's sent
-- everywhere then; as it is by a server that knows no shard channels (before Redis 7), or doesn't let this user use them.
local function tell(owner_key, channel, message, surely)
  if string.sub(channel, -1) ~= '*' then return redis.pcall('PUBLISH', channel, message) end
  local everywhere = string.sub(channel, 1, -2)
  local receivers = redis.pcall('SPUBLISH', owner_key .. string.match(everywhere, ':wake:[^:]*$'), message)
  if type(receivers) == 'number' and (receivers > 0 or not surely) then return receivers end
  return redis.pcall('PUBLISH', everywhere, message)
end
