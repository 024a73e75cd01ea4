-- Which run of which server this is: another one after each start. Nil where the server doesn't say.
local function server_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end
