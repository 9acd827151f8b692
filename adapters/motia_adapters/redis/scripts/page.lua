-- A page of a group's items in the order of their ids, or one item, with the head they belong to.
--
-- KEYS: meta, log, groups, deadlines (only the first is used).
-- ARGV: prefix of the groups' keys, group, "" or the one id, id to start after ("": the first),
--   items at most, bytes at most (the last chunk may go over).
-- Reply: epoch, sequence number, timestamp (µs; all false if there is no stream), "" at the
--   end of the group or the id to go on after, and id, stored item, id, stored item...

local prefix, group, id, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local call = redis.call
local meta = call('HMGET', KEYS[1], 'e', 's', 't')
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local items = {}

local function take(name, raw)
  local deadline = tonumber(string.sub(raw, 30, 43), 16)
  if deadline == 0 or deadline > now then
    items[#items + 1] = name
    items[#items + 1] = raw
    most = most - 1
    bytes = bytes - #raw
  end
end

local hash = prefix .. 'h:' .. group
if id ~= '' then
  local raw = call('HGET', hash, id)
  if raw then
    take(id, raw)
  end
  return { meta[1], meta[2], meta[3], '', items }
end
local start = after == '' and '-' or '(' .. after
while true do
  local chunk = math.min(most, 100)
  if chunk <= 0 or bytes <= 0 then
    return { meta[1], meta[2], meta[3], after, items }
  end
  local names = call('ZRANGEBYLEX', prefix .. 'z:' .. group, start, '+', 'LIMIT', 0, chunk)
  if #names == 0 then
    return { meta[1], meta[2], meta[3], '', items }
  end
  local raws = call('HMGET', hash, unpack(names))
  for i, name in ipairs(names) do
    if raws[i] then
      take(name, raws[i])
    end
  end
  if #names < chunk then
    return { meta[1], meta[2], meta[3], '', items }
  end
  after = names[#names]
  start = '(' .. after
end
