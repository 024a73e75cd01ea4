-- Which run of which server this is, and since when it's master: another one after each start, and after each promotion, since
-- a master that was a replica in between has lost what it had granted before. Nil where the server doesn't say.
local function server_id()
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  -- The replication that it took part in before it was promoted; zeros where it never was.
  local promoted_from = string.match(redis.call('INFO', 'replication'), 'master_replid2:(%x+)')
  if run_id and promoted_from and string.find(promoted_from, '[^0]') then return run_id .. string.sub(promoted_from, 1, 16) end
  return run_id
end
