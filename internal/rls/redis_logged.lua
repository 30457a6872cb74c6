-- Does what an entry of an access log says of one request's leases.
-- KEYS: index, gone, then the sets that the entry tells of.   ARGV: 1 if the request is over, id, ttl in milliseconds
-- (of the leases, or of the tombstone). Answers with how many leases were ended, or how many were not known.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local index, gone, id, ttl = KEYS[1], KEYS[2], ARGV[2], tonumber(ARGV[3])
local changed = 0
if ARGV[1] == '1' then
  for _, set in ipairs(redis.call('SMEMBERS', index)) do changed = changed + redis.call('ZREM', set, id) end
  redis.call('DEL', index)
  redis.call('SET', gone, '', 'PX', string.format('%d', ttl))
  return changed
end
if redis.call('EXISTS', gone) == 1 then return 0 end
local function hold(set)
  changed = changed + redis.call('ZADD', set, string.format('%.17g', now + ttl * 1000), id)
  redis.call('PEXPIRE', set, string.format('%d', ttl))
end
for _, set in ipairs(redis.call('SMEMBERS', index)) do hold(set) end
for i = 3, #KEYS do
  hold(KEYS[i])
  redis.call('SADD', index, KEYS[i])
end
redis.call('PEXPIRE', index, string.format('%d', ttl))
return changed
