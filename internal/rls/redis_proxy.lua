-- Notes at which servers a proxy has streams of access logs, and ends the leases of one that has them nowhere.
-- KEYS: at, proxy.   ARGV: here, left or lost; the server; how long it is believed, in milliseconds; what names of
-- indexes begin with; how many leases may end.   Answers with how many requests lost their leases, and how many those were.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000000 + time[2] * 1000
local at, proxy, what, server = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if what == 'here' then
  redis.call('ZADD', at, string.format('%.0f', now + ARGV[3] * 1000000), server)
  redis.call('PEXPIRE', at, ARGV[3])
  return {0, 0}
end
redis.call('ZREM', at, server)
if what == 'left' then return {0, 0} end
redis.call('ZREMRANGEBYSCORE', at, '-inf', string.format('%.0f', now))
if redis.call('ZCARD', at) > 0 then return {0, 0} end
local ids, ended = redis.call('ZRANGE', proxy, 0, ARGV[5] - 1), 0
for _, id in ipairs(ids) do
  local index = ARGV[4] .. id
  for _, set in ipairs(redis.call('SMEMBERS', index)) do
    local gone = redis.call('ZREM', set, id)
    if set ~= proxy then ended = ended + gone end
  end
  redis.call('DEL', index)
  redis.call('ZREM', proxy, id)
end
return {#ids, ended}
