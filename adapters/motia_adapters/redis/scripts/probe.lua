-- Whether this user may run every command of the other scripts: one that fails midway would leave half a write.
--
-- KEYS: meta, log, groups, deadlines (unused: they are of the slot).
-- ARGV: prefix of the stream's keys.
-- Reply: OK, or the first refusal. Nothing is left behind.

local key = ARGV[1] .. 'p'
local commands = {
  { 'UNLINK', key }, { 'TIME' }, { 'INFO', 'replication' }, { 'TYPE', key }, { 'EXISTS', key },
  { 'HDEL', key, 'x' }, { 'HSET', key, 'x', '1' }, { 'HGET', key, 'x' }, { 'HMGET', key, 'x' }, { 'UNLINK', key },
  { 'ZREM', key, 'x' }, { 'ZADD', key, 'XX', 0, 'x' }, { 'ZRANGEBYLEX', key, '-', '+' },
  { 'ZRANGEBYSCORE', key, 0, 0 }, { 'XADD', key, 'NOMKSTREAM', '1-1', 'x', '1' }, { 'XRANGE', key, '-', '+' },
  { 'XREVRANGE', key, '+', '-' }, { 'XTRIM', key, 'MAXLEN', 0 },
}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  local refusal = type(reply) == 'table' and reply.err
  if refusal and (string.find(refusal, 'NOPERM', 1, true) or string.find(refusal, 'ACL', 1, true)
      or string.find(refusal, 'can\'t run this command', 1, true) or string.find(refusal, 'permission', 1, true)) then
    return redis.error_reply('NOPERM ' .. command[1] .. ': ' .. refusal)
  end
end
return redis.status_reply('OK')
