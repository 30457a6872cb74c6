-- Decides on all descriptors of one request at a time: all of them are taken, or none if one that counts is
-- refused; what is given back is given back in any case. The arithmetic is that of package gcra, in nanoseconds of
-- Redis's own clock since 2026.
--
-- ARGV: 1 to write or 0 to look only; a letter for each descriptor, in capitals if a refusal counts; then for each
--   g  gcra    step interval tolerance    KEYS: state               all in nanoseconds
--   w  window  n    most     per          KEYS: state               per in seconds
--   l  lease   id   most     ttl          KEYS: set, index, gone, proxy    ttl in milliseconds
-- with a negative step, n or most for what is given back.
-- Answers with three for each: 1 if admitted, what remains, microseconds until the reset.
--
-- Most of what this costs is calls of Redis, and the dearest are those that make a key and say when it expires. So
-- the state of a rate is an integer, which is raised in place, and it expires at the end of the second in which it is
-- over.
local call, floor, ceil, min, max = redis.call, math.floor, math.ceil, math.min, math.max
local time = call('TIME')
local now = (time[1] - 1767225600) * 1000000000 + time[2] * 1000
local block = 1000000000
local slack = 100 -- what a sum of nanoseconds may be off by, as these numbers have 53 bits
local write = ARGV[1] == '1'
local over, states, takes, answers = false, {}, {}, {}

-- expiry is how long a state is kept, in milliseconds.
local function expiry(tat) return ceil(((floor(tat / block) + 1) * block - now) / 1000000) end

-- whole is a number as text. Redis writes those with a few digits by itself, and sooner; more become fractions.
local function whole(n) return n < 1e15 and n or string.format('%.0f', n) end

local function gcra(key, by, interval, tolerance)
  local step = tonumber(by)
  interval, tolerance = tonumber(interval), tonumber(tolerance)
  if step < 0 then
    if write and (tonumber(call('GET', key) or 0) or 0) > now then call('INCRBY', key, by) end
    return true, 0, 0
  end
  local kept = states[key] or tonumber(call('GET', key) or nil)
  if kept and kept < now - 2 * block then kept = nil end -- of another algorithm, or of a clock that was put forward
  local tat = max(kept or 0, now)
  local room = now + tolerance - tat + slack
  if step > tolerance or step > room then
    return false, floor(max(0, room) / interval), min(step, tolerance) - room + slack
  end
  tat = tat + step
  if step > 0 then
    states[key] = tat
    if not kept then
      takes[#takes + 1] = {'SET', key, whole(tat), 'PX', expiry(tat)}
    else
      takes[#takes + 1] = {'INCRBY', key, whole(tat - kept)}
      if floor(tat / block) > floor(kept / block) then takes[#takes + 1] = {'PEXPIRE', key, expiry(tat)} end
    end
  end
  return true, floor(max(0, room - step) / interval), tat - now
end

local function window(key, n, most, per)
  n, most, per = tonumber(n), tonumber(most), tonumber(per)
  local seconds = tonumber(time[1])
  local stop, taken = (floor(seconds / per) + 1) * per, 0
  local kept, had = string.match(states[key] or call('GET', key) or '', '^(%d+) (%d+)$')
  if kept and tonumber(kept) > seconds then stop, taken = min(stop, tonumber(kept)), tonumber(had) end
  local reset = (stop - 1767225600) * 1000000000 - now
  if n >= 0 and taken + n > most then return false, max(0, most - taken), reset end
  taken = max(0, taken + n)
  local set = {'SET', key, string.format('%d %d', stop, taken), 'PX', ceil(reset / 1000000)}
  if n < 0 then
    if write then call(unpack(set)) end
  elseif n > 0 then
    states[key] = set[3]
    takes[#takes + 1] = set
  end
  return true, max(0, most - taken), reset
end

-- A proxy's set is one more in which its requests hold a lease; its name is empty if it is not known.
local function lease(set, index, gone, proxy, id, most, ttl)
  most = tonumber(most)
  call('ZREMRANGEBYSCORE', set, '-inf', string.format('%.0f', now))
  if most < 0 then
    if write and call('ZREM', set, id) == 1 then
      call('SREM', index, set)
      if proxy ~= '' and call('SCARD', index) == 1 and call('SREM', index, proxy) == 1 then call('ZREM', proxy, id) end
      call('SET', gone, '', 'PX', ttl)
    end
    return true, 0, 0
  end
  local held, has = call('ZCARD', set), call('ZSCORE', set, id)
  if call('EXISTS', gone) == 1 or not has and held >= most then return false, max(0, most - held), 0 end
  if not has then held = held + 1 end
  local expires = string.format('%.0f', now + ttl * 1000000)
  for _, of in ipairs(proxy == '' and {set} or {set, proxy}) do
    takes[#takes + 1] = {'ZADD', of, expires, id}
    takes[#takes + 1] = {'PEXPIRE', of, ttl}
    takes[#takes + 1] = {'SADD', index, of}
  end
  if proxy ~= '' then takes[#takes + 1] = {'ZREMRANGEBYSCORE', proxy, '-inf', string.format('%.0f', now)} end
  takes[#takes + 1] = {'PEXPIRE', index, ttl}
  return true, max(0, most - held), 0
end

local k, a, n = 1, 3, 0
for kind in string.gmatch(ARGV[2], '.') do
  local admitted, remaining, reset
  local x, y, z = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  if kind == 'G' or kind == 'g' then
    admitted, remaining, reset = gcra(KEYS[k], x, y, z)
    k = k + 1
  elseif kind == 'W' or kind == 'w' then
    admitted, remaining, reset = window(KEYS[k], x, y, z)
    k = k + 1
  else
    admitted, remaining, reset = lease(KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], x, y, z)
    k = k + 4
  end
  over = over or not admitted and string.find(kind, '%u') ~= nil
  answers[n + 1], answers[n + 2], answers[n + 3] = admitted and 1 or 0, remaining, ceil(reset / 1000)
  a, n = a + 3, n + 3
end
if write and not over then
  for _, take in ipairs(takes) do call(unpack(take)) end
end
return answers
