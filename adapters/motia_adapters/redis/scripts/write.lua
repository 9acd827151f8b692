-- Units of writes: each unit happens whole or not at all, with its entries in the log.
--
-- KEYS: meta, log, groups, deadlines.
-- ARGV: prefix of the groups' keys, run id of the server, channel, keep a log ("1"),
--   entries to keep (""), expired items to sweep at most, begin an epoch ("1"), and then the units:
--   each a number of writes, and for each write seven values:
--   kind (s set, u update, d delete, e event with an id, n event without, c only check),
--   group, id, expected version, JSON, time to live (µs), event type.
-- Expected: "" anything, "-" no item, "#N" what write N of this call left, else a version.
--
-- Reply: position of the head, swept, and for each unit either {"!", number of the write,
-- stored item or false} for a conflict, or an error (of a key, or of memory), or for each write false (a delete of nothing) or
-- {kind, position, timestamp (µs), stored item or false}.
--
-- JSON is bytes here, never a value: Lua would change it. The type of every key that a unit
-- changes is known before it changes anything (HMGET, HGET and ZRANGEBYSCORE fail by
-- themselves, of the others it is asked; a set begins with XADD), and what can fail for want of
-- memory comes first.

local meta, log, groups, deadlines = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, run, channel, logging, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5]
local call, format, sub = redis.call, string.format, string.sub
local NEWS_BYTES = 4096 -- an announcement carries no more
local MANY = 120 -- arguments of a call that is announced without its entries
local LATEST = 2 ^ 55 -- a deadline (µs) past it is as good as it: 14 hex digits have to hold it
local NEVER = '00000000000000'
local BLOCKED = 10 * 1000000 -- µs until an expired item in the place of a foreign key is looked at again

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local server = call('INFO', 'replication')
local _, ends = string.find(server, 'master_replid:', 1, true)
server = run .. '/' .. (ends and sub(server, ends + 1, ends + 40) or '')
local known = call('HMGET', meta, 'e', 's', 't', 'i')
local epoch, seq, stamp = tonumber(known[1]), tonumber(known[2]) or 0, tonumber(known[3]) or 0
local begun, fresh, changed, previous = epoch and known[4] == server, false, false, ''

local function add(how, entry, kind, group, id, stamped, deadline, json, event, previous)
  if keep == '' then
    return how('XADD', log, entry, 'k', kind, 'g', group, 'i', id, 's', stamped,
      'd', deadline, 'e', event, 'p', previous, 'j', json)
  end
  return how('XADD', log, 'MAXLEN', '~', keep, entry, 'k', kind, 'g', group, 'i', id, 's', stamped,
    'd', deadline, 'e', event, 'p', previous, 'j', json)
end

local function announcement(entry, kind, group, id, stamped, deadline, json, event, previous)
  return struct.pack('>BHHBBHBI4', #entry, #group, #id, #stamped, #deadline, #event, #previous, #json)
    .. entry .. kind .. group .. id .. stamped .. deadline .. event .. previous .. json
end

-- The call that is made most, in a straight line: one plain set of an item that is there, and does not
-- expire. Whatever is otherwise takes the long way, before anything is done.
if begun and logging and ARGV[6] == '0' and ARGV[7] == '0' and ARGV[8] == '1' and ARGV[9] == 's'
  and ARGV[12] == '' and ARGV[14] == '' and not ARGV[16] then
  local group, id, json = ARGV[10], ARGV[11], ARGV[13]
  local items = prefix .. 'h:' .. group
  local raw, kind = redis.pcall('HGET', items, id), call('TYPE', deadlines).ok
  if type(raw) == 'string' and sub(raw, 30, 43) == NEVER and (kind == 'none' or kind == 'zset') then
    seq, stamp = seq + 1, math.max(now, stamp + 1)
    local entry, written = format('%.0f-%.0f', epoch, seq), format('%014x-%014x', epoch, seq)
    local stamped = format('%.0f', stamp)
    if type(add(redis.pcall, entry, 'u', group, id, stamped, '0', json, '', '')) == 'string' then
      call('HSET', items, id, written .. NEVER .. json)
      call('HSET', meta, 's', format('%.0f', seq), 't', stamped)
      local news = #json <= NEWS_BYTES and announcement(entry, 'u', group, id, stamped, '0', json, '', '') or ''
      redis.pcall('PUBLISH', channel, news)
      return { written, 0, { { { 'u', written, stamp, raw } } } }
    end
    seq, stamp = tonumber(known[2]), tonumber(known[3])
  end
end

local checked = {}
local function check(key, kind)
  if checked[key] == nil then
    local reply = redis.pcall('TYPE', key) -- while a Cluster moves the slot, a key that is not here is an error
    local found = reply.ok
    if not found then
      checked[key] = reply
    elseif found ~= kind and found ~= 'none' then
      checked[key] = redis.error_reply('WRONGTYPE key ' .. key .. ' is a ' .. found .. ', not a ' .. kind)
    else
      checked[key] = false
    end
  end
  return checked[key]
end

-- What is wrong with the keys that change when an item of a group comes or goes.
local function check_order(group)
  return check(groups, 'zset') or check(prefix .. 'z:' .. group, 'zset')
end
local function check_removal(group)
  return check_order(group) or (logging and check(log, 'stream'))
end

local function begin()
  if epoch then
    previous = format('%.0f', epoch)
  else
    -- There is no stream, or its meta key is gone: then what is left of its log cannot be continued.
    local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    epoch = last and tonumber(string.match(last[1], '^%d+')) or 0
    call('UNLINK', log)
  end
  epoch, stamp = math.max(now, epoch + 1), math.max(now, stamp)
  begun, fresh = true, true
end

local written, stamped -- position and timestamp of the last change, as text
local news = {} -- the entries, for the announcement: the lengths of their parts (items.py knows them), then the parts
local news_bytes = #ARGV > MANY and NEWS_BYTES + 1 or 0

-- Returns the error if there is no memory, which is so only of the first change of a call: then nothing was done.
local function append(kind, group, id, deadline, json, event)
  if not begun then
    begin()
  end
  local before, place, text = stamp, written, stamped
  seq, stamp = seq + 1, math.max(now, stamp + 1)
  written, stamped = format('%014x-%014x', epoch, seq), format('%.0f', stamp)
  if logging then
    local entry = format('%.0f-%.0f', epoch, seq)
    local reply = add(changed and call or redis.pcall, entry, kind, group, id, stamped, deadline, json, event, previous)
    if type(reply) == 'table' then
      if not string.find(reply.err, 'OOM ', 1, true) then
        add(call, entry, kind, group, id, stamped, deadline, json, event, previous) -- it fails again, and the call with it
      end
      seq, stamp, written, stamped = seq - 1, before, place, text
      return reply
    end
    if news_bytes <= NEWS_BYTES then
      local text = announcement(entry, kind, group, id, stamped, deadline, json, event, previous)
      news[#news + 1] = text
      news_bytes = news_bytes + #text
    end
    previous = ''
  end
  changed = true
end

-- The stored item (version, deadline, JSON) and its deadline; false if there is none, or an error.
local function read(group, id)
  local raw = redis.pcall('HGET', prefix .. 'h:' .. group, id)
  if type(raw) == 'string' then
    local deadline = sub(raw, 30, 43)
    return raw, deadline == NEVER and 0 or tonumber(deadline, 16)
  end
  return raw, 0
end

local function remove(group, id, raw, deadline)
  local order = prefix .. 'z:' .. group
  call('HDEL', prefix .. 'h:' .. group, id) -- first: it needs no memory
  call('ZREM', order, id)
  if call('EXISTS', order) == 0 then
    call('ZREM', groups, group)
  end
  if deadline > 0 then
    call('ZREM', deadlines, group .. '\0' .. id)
  end
  changed = true
  append('d', group, id, '0', sub(raw, 44), '')
end

-- Returns what it did, or false and why it did nothing.
local function store(kind, group, id, json, ttl, raw, old)
  if raw and old > 0 and old <= now then
    remove(group, id, raw, old)
    raw = false
  end
  local deadline = kind == 'u' and raw and old or 0
  if ttl ~= '' then
    deadline = math.min(now + tonumber(ttl), LATEST)
  end
  local change = raw and 'u' or 'c'
  local refused = append(change, group, id, deadline == 0 and '0' or format('%.0f', deadline), json, '')
  if refused then
    return false, refused
  end
  call('HSET', prefix .. 'h:' .. group, id, written .. format('%014x', deadline) .. json)
  if not raw then
    call('ZADD', prefix .. 'z:' .. group, 0, id)
    call('ZADD', groups, 0, group)
  end
  if deadline > 0 then
    call('ZADD', deadlines, format('%.0f', deadline), group .. '\0' .. id)
  elseif raw and old > 0 then
    call('ZREM', deadlines, group .. '\0' .. id)
  end
  return { change, written, stamp, raw }
end

local swept = 0
if ARGV[6] == '0' then
  if check(deadlines, 'zset') then
    return checked[deadlines]
  end
else
  local due = call('ZRANGEBYSCORE', deadlines, '-inf', format('%.0f', now), 'LIMIT', 0, ARGV[6])
  for _, member in ipairs(due) do
    local cut = string.find(member, '\0', 1, true)
    local group, id = sub(member, 1, cut - 1), sub(member, cut + 1)
    local raw, deadline = read(group, id)
    if deadline > 0 and deadline <= now then
      raw = check_removal(group) or raw
      if type(raw) == 'string' then
        remove(group, id, raw, deadline)
        swept = swept + 1
      end
    elseif type(raw) ~= 'table' then
      call('ZREM', deadlines, member)
    end
    if type(raw) == 'table' and string.find(raw.err, 'WRONGTYPE', 1, true) then
      -- Others must not wait behind it for ever. Its own deadline is with the item.
      redis.pcall('ZADD', deadlines, 'XX', format('%.0f', now + BLOCKED), member)
    end
  end
end

local left = {} -- what each write of this call left: a version, or "-"
local replies, at, number = {}, 8, 0
while ARGV[at] do
  local count, conflict, raws, ends = tonumber(ARGV[at]), nil, {}, {}
  for i = 1, count do
    local base = at + (i - 1) * 7
    local kind, group, id = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
    if kind ~= 'e' and kind ~= 'n' then
      local raw, deadline = read(group, id)
      local live = raw and (deadline == 0 or deadline > now)
      if type(raw) == 'table' then
        conflict = raw
      elseif raw and (kind == 'd' or not live) then
        conflict = check_removal(group)
      elseif not raw then
        conflict = check_order(group)
      end
      local expect = ARGV[base + 4]
      if not conflict and expect ~= '' then
        if sub(expect, 1, 1) == '#' then
          expect = left[tonumber(sub(expect, 2))]
        end
        if expect ~= (live and sub(raw, 1, 29) or '-') then
          conflict = { '!', i - 1, live and raw }
        end
      end
      if conflict then
        break
      end
      raws[i], ends[i] = raw, deadline
    end
  end
  if conflict then
    replies[#replies + 1] = conflict
  else
    local reply = {}
    for i = 1, count do
      local base = at + (i - 1) * 7
      local kind, group, id, json = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], ARGV[base + 5]
      local result = false
      if kind == 's' or kind == 'u' then
        result, conflict = store(kind, group, id, json, ARGV[base + 6], raws[i], ends[i])
        left[number + i] = written
      elseif kind == 'd' then
        local raw, deadline = raws[i], ends[i]
        if raw then
          remove(group, id, raw, deadline)
          if deadline == 0 or deadline > now then
            result = { 'd', written, stamp, raw }
          end
        end
        left[number + i] = '-'
      elseif kind ~= 'c' then
        conflict = append(kind, group, id, '0', json, ARGV[base + 7])
        result = { kind, written, stamp, false }
      end
      if conflict then
        break
      end
      reply[i] = result
    end
    replies[#replies + 1] = conflict or reply
  end
  number = number + count
  at = at + 1 + count * 7
end

if not epoch or (ARGV[7] == '1' and not changed) then
  begin()
  changed = true
end
if changed then
  if fresh then
    call('HSET', meta, 'e', format('%.0f', epoch), 's', format('%.0f', seq), 't', format('%.0f', stamp), 'i', server)
  else
    call('HSET', meta, 's', format('%.0f', seq), 't', stamped)
  end
  if logging then
    -- Few news travel with the bell, and save its hearers the way to the log; of many it only says "look".
    local told = news_bytes <= NEWS_BYTES and (news[2] and table.concat(news) or news[1]) or ''
    redis.pcall('PUBLISH', channel, told) -- a user who may not publish is heard of later
  end
end
return { written or format('%014x-%014x', epoch, seq), swept, replies }
