--[[
Claims a tick of a job, or says what speaks against it. Idempotent by token.

KEYS[1] runs: see _runs.lua
ARGV[1] the request as JSON: `ClaimRequest` in run-store.ts
Returns {kind, the run it's about as JSON or '', then each other that is recorded as running, as JSON}
]]
--- @include _server-time.lua
--- @include _runs.lua
look_at_clock()
local request = cjson.decode(ARGV[1])
local mine = request.run
forget(KEYS[1], request.abandoned)
local runs = load_runs(KEYS[1])
bury(KEYS[1], runs, request.dead)

-- `same`: the last attempt at this tick. `last`: the last that was begun of all. `oldest`: the tick that is kept as the
-- last of so many; what was known of one before it, may be forgotten.
local same, nearest, last, oldest
local running = {}
local ticks, before = 0, nil
for _, run in ipairs(runs) do
  local distance = math.abs(run.instant - request.instant)
  if distance * 2 < request.per and (not same or distance < nearest) then same, nearest = run, distance end
  if run.state ~= 'skipped' then last = last or run end
  if run.instant ~= before then ticks, before = ticks + 1, run.instant end
  if ticks == request.keep then oldest = run.instant end
  if run.state == 'running' then running[#running + 1] = run end
end

local function answer(kind, run)
  local reply = {kind, run and cjson.encode(run) or ''}
  for _, other in ipairs(running) do reply[#reply + 1] = cjson.encode(other) end
  return reply
end

local function record(state, instant)
  mine.state, mine.instant, mine.start = state, instant, now
  save(KEYS[1], mine)
  -- One that runs is never forgotten: the next tick has to know.
  ticks, before = 0, nil
  for _, run in ipairs(load_runs(KEYS[1])) do
    if run.instant ~= before then ticks, before = ticks + 1, run.instant end
    if run.token ~= mine.token and run.state ~= 'running' and (ticks > request.keep or run.start + request.retain < now) then
      redis.call('HDEL', KEYS[1], run.token)
    end
  end
  redis.call('PEXPIRE', KEYS[1], request.retain)
end

if same then
  if same.state == 'running' then return answer(same.token == mine.token and 'begun' or 'running', same) end
  if same.state ~= 'crashed' or same.attempt >= request.attempts then return answer('decided', same) end
  if last.instant > same.instant then return answer('decided', same) end
elseif last and last.instant > request.instant then
  return answer('late', last)
elseif oldest and oldest > request.instant then
  return answer('late', runs[1])
end

if request.overlap == 'skip' and #running > 0 then
  local alive = set_of(request.alive)
  for _, run in ipairs(running) do
    if not alive[run.token] then return answer('unsure') end
  end
  if same then return answer('decided', same) end
  mine.lock, mine.fence = nil, nil
  mine.attempt, mine.behind = 1, running[1].tick
  record('skipped', request.instant)
  return answer('decided', mine)
end

if not mine.lock then return answer('open', same) end
-- A command that was held up on its way must not claim for a caller that has given up. A fencing token is the server's
-- time of the grant in us, unless that clock was set back.
if now > tonumber(mine.fence) / 1000 + request.within then return answer('expired') end

mine.attempt = same and same.attempt + 1 or 1
mine.tick = same and same.tick or mine.tick
record('running', same and same.instant or request.instant)
return answer('begun', mine)
