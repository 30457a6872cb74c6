-- Decides on all descriptors of one request at a time: all of them are taken, or none if one that counts is
-- refused; what is given back is given back in any case. The arithmetic is that of package gcra, in microseconds of Redis's own clock since 2026.
--
-- ARGV: 1 to write or 0 to look only; then five for each descriptor
--   gcra   counts n  interval burst        KEYS: state
--   window counts n  most     per          KEYS: state            per in seconds
--   lease  counts id most     ttl          KEYS: set, index, gone    ttl in milliseconds
-- with negative n, or a most of -1, for what is given back.
-- Answers with three for each: 1 if admitted, what remains, microseconds until the reset.
local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local slack = 0.1 -- what a sum of microseconds may be off by
local over, states, takes, gives, answers = false, {}, {}, {}, {}

local function state(key)
  if states[key] == nil then states[key] = redis.call('GET', key) or '0' end
  return states[key]
end

local function keep(writes, key, value, ms)
  states[key] = value
  writes[#writes + 1] = function()
    if ms > 0 then redis.call('SET', key, value, 'PX', string.format('%d', ms)) else redis.call('DEL', key) end
  end
end

local function gcra(key, n, interval, burst)
  local tat = math.max(tonumber(state(key)), now)
  local room = now + burst * interval - tat
  local admitted = n < 0 or n <= burst and n * interval <= room + slack
  if admitted then
    tat, room = math.max(tat + n * interval, now), room - n * interval
    if n ~= 0 then keep(n < 0 and gives or takes, key, string.format('%.17g', tat), math.ceil((tat - now) / 1000)) end
  end
  local reset = tat - now
  if not admitted then reset = math.min(n, burst) * interval - room end
  return admitted, math.floor(math.max(0, room + slack) / interval), reset
end

local function window(key, n, most, per)
  local seconds = tonumber(time[1])
  local stop, taken = (math.floor(seconds / per) + 1) * per, 0
  local kept, had = string.match(state(key), '^(%d+) (%d+)$')
  if kept and tonumber(kept) > seconds then stop, taken = math.min(stop, tonumber(kept)), tonumber(had) end
  local reset = (stop - 1767225600) * 1000000 - now
  local admitted = n < 0 or taken + n <= most
  if admitted then
    taken = math.max(0, taken + n)
    if n ~= 0 then keep(n < 0 and gives or takes, key, string.format('%d %d', stop, taken), math.ceil(reset / 1000)) end
  end
  return admitted, math.max(0, most - taken), reset
end

local function lease(set, index, gone, id, most, ttl)
  redis.call('ZREMRANGEBYSCORE', set, '-inf', string.format('%.17g', now))
  local held, has = redis.call('ZCARD', set), redis.call('ZSCORE', set, id)
  if most < 0 then
    gives[#gives + 1] = function()
      if redis.call('ZREM', set, id) == 1 then
        redis.call('SREM', index, set)
        redis.call('SET', gone, '', 'PX', string.format('%d', ttl))
      end
    end
    return true, 0, 0
  end
  local admitted = redis.call('EXISTS', gone) == 0 and (has or held < most)
  if admitted then
    if not has then held = held + 1 end
    takes[#takes + 1] = function()
      redis.call('ZADD', set, string.format('%.17g', now + ttl * 1000), id)
      redis.call('PEXPIRE', set, string.format('%d', ttl))
      redis.call('SADD', index, set)
      redis.call('PEXPIRE', index, string.format('%d', ttl))
    end
  end
  return admitted, math.max(0, most - held), 0
end

local k = 1
for a = 2, #ARGV, 5 do
  local kind, counts, x, y = ARGV[a], ARGV[a + 1] == '1', tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local admitted, remaining, reset
  if kind == 'lease' then
    admitted, remaining, reset = lease(KEYS[k], KEYS[k + 1], KEYS[k + 2], ARGV[a + 2], x, y)
    k = k + 3
  else
    local of = kind == 'gcra' and gcra or window
    admitted, remaining, reset = of(KEYS[k], tonumber(ARGV[a + 2]), x, y)
    k = k + 1
  end
  over = over or counts and not admitted
  answers[#answers + 1] = admitted and 1 or 0
  answers[#answers + 1] = remaining
  answers[#answers + 1] = math.ceil(reset)
end
if ARGV[1] == '1' then
  for _, write in ipairs(gives) do write() end
  if not over then
    for _, write in ipairs(takes) do write() end
  end
end
return answers
