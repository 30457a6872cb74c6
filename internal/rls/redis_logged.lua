-- Does what an entry of an access log says of one request's leases.
-- KEYS: index, gone, proxy, then the sets that the entry tells of.   ARGV: 1 if the request is over, id, ttl in
-- milliseconds (of the leases, or of the tombstone). Answers with how many leases were ended, or how many were not known.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000000 + time[2] * 1000
local index, gone, proxy, id, ttl = KEYS[1], KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3])
local changed = 0
if ARGV[1] == '1' then
  for _, set in ipairs(redis.call('SMEMBERS', index)) do
    local ended = redis.call('ZREM', set, id)
    if set ~= proxy then changed = changed + ended end
  end
  redis.call('DEL', index)
  redis.call('SET', gone, '', 'PX', ttl)
  return changed
end
if redis.call('EXISTS', gone) == 1 then return 0 end
local function hold(set)
  local new = redis.call('ZADD', set, string.format('%.0f', now + ttl * 1000000), id)
  redis.call('PEXPIRE', set, ttl)
  if set ~= proxy then changed = changed + new end
end
local held = redis.call('SMEMBERS', index)
for _, set in ipairs(held) do hold(set) end
for i = 4, #KEYS do
  hold(KEYS[i])
  redis.call('SADD', index, KEYS[i])
end
if proxy ~= '' and (#held > 0 or #KEYS > 3) then
  hold(proxy)
  redis.call('SADD', index, proxy)
  redis.call('ZREMRANGEBYSCORE', proxy, '-inf', string.format('%.0f', now))
end
redis.call('PEXPIRE', index, ttl)
return changed
