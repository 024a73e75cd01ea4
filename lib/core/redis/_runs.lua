-- The runs of a job: a hash from token to what is known of the run, as JSON (`StoredRun` in run-store.ts).

local STATES = {running = true, done = true, failed = true, crashed = true, skipped = true}

local function is_run(run, token)
  if type(run) ~= 'table' or run.token ~= token or not STATES[run.state] then return false end
  for _, field in ipairs({'tick', 'instant', 'attempt', 'start'}) do
    if type(run[field]) ~= 'number' then return false end
  end
  return (run.state ~= 'running' and run.state ~= 'crashed') or type(run.lock) == 'string'
end

-- What else stands there, somebody else wrote. It may hide a run that is under way: nothing is decided before it's removed.
local function decode_run(runs_key, token, record)
  local is_json, run = pcall(cjson.decode, record)
  if is_json and is_run(run, token) then return run end
  error('What "' .. runs_key .. '" has in its field "' .. token .. '" is no record of a run, so that nobody knows which '
    .. 'ticks were run. Remove that field (HDEL) once you know that no such run is under way.', 0)
end

-- All of them, newest first: by tick, and of one tick the last attempt first.
local function load_runs(runs_key)
  local runs = {}
  local entries = redis.call('HGETALL', runs_key)
  for i = 2, #entries, 2 do runs[#runs + 1] = decode_run(runs_key, entries[i - 1], entries[i]) end
  table.sort(runs, function(a, b)
    if a.instant ~= b.instant then return a.instant > b.instant end
    return a.attempt > b.attempt
  end)
  return runs
end

local function save(runs_key, run)
  redis.call('HSET', runs_key, run.token, cjson.encode(run))
end

local function set_of(tokens)
  local set = {}
  for _, token in ipairs(tokens) do set[token] = true end
  return set
end

-- Their locks were found to be held no more. What has been recorded meanwhile, stays.
local function bury(runs_key, runs, dead_tokens)
  local dead = set_of(dead_tokens)
  for _, run in ipairs(runs) do
    if run.state == 'running' and dead[run.token] then
      run.state = 'crashed'
      save(runs_key, run)
    end
  end
end

-- Their work was never begun: their ticks are as if nobody had claimed them. What has been recorded of an end, stays.
local function forget(runs_key, tokens)
  for _, token in ipairs(tokens) do
    local record = redis.call('HGET', runs_key, token)
    local state = record and decode_run(runs_key, token, record).state
    if state == 'running' or state == 'crashed' then redis.call('HDEL', runs_key, token) end
  end
end
