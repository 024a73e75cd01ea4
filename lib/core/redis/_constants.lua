-- A reserved key waits so long, in ms, for the waiter that was woken: a dead one delays the next by this much.
local CLAIM_WINDOW = 1000
-- The last fencing token of a key is remembered for so long after its lease, in ms: as far as the clocks of successive
-- masters may differ, or one clock be set back, without a token being given twice.
local FENCE_RETENTION = 10000
-- So many fencing tokens belong to one lease, which may pass from caller to caller of its process.
local FENCE_RANGE = 10000
-- In the queue, sharers have scores below this, and waiters above; see _sharers.lua.
local PLACES = 1e14
