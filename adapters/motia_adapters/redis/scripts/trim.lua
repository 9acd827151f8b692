-- Drop what retention no longer covers, a portion at a time.
--
-- KEYS: meta, log, groups, deadlines (the first two are used).
-- ARGV: entries to keep ("": all), age to keep in µs ("": any), entries to drop at most.
-- Reply: 1 if there is more to drop.
--
-- How far it went needs no mark: the first entry that is left tells (history.py).

local meta, log = KEYS[1], KEYS[2]
local call = redis.call

local function parts(entry)
  local epoch, seq = string.match(entry[1], '^(%d+)-(%d+)$')
  return epoch, tonumber(seq)
end

local function first_from(epoch, seq)
  return call('XRANGE', log, epoch .. '-' .. string.format('%.0f', seq), '+', 'COUNT', 1)[1]
end

local function stamp(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 's' then
      return tonumber(entry[2][i + 1])
    end
  end
end

local first = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if not first then
  return 0
end
local head = tonumber(call('HGET', meta, 's') or 0)
local epoch, low = parts(first)
local limit = low + tonumber(ARGV[3]) -- the first number that this call may not drop

-- All numbers below `drop` go.
local drop = low
if ARGV[1] ~= '' then
  drop = math.max(drop, head - tonumber(ARGV[1]) + 1)
end
if ARGV[2] ~= '' then
  local time = call('TIME')
  local oldest = time[1] * 1000000 + time[2] - tonumber(ARGV[2])
  if stamp(first) < oldest then
    -- Numbers are dense and stamps rise: halve until `old` is the last that is too old.
    local old, new, of = low, math.min(head + 1, limit), epoch
    while new - old > 1 do
      local middle = math.floor((old + new) / 2)
      local entry = first_from(of, middle)
      if entry and stamp(entry) < oldest then
        of, old = parts(entry)
      else
        new = entry and math.min(middle, select(2, parts(entry))) or middle
      end
    end
    drop = math.max(drop, old + 1)
  end
end
local more = drop >= limit and limit <= head and 1 or 0
drop = math.min(drop, limit)
if drop > low then
  if drop > head then
    call('XTRIM', log, 'MAXLEN', 0)
  else
    call('XTRIM', log, 'MAXLEN', '=', head - drop + 1)
  end
end
return more
