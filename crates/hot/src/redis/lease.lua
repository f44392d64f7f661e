-- KEYS: the lease, the counter of fences. ARGV: who asks, for how many milliseconds.
-- The counter lies outside the lease and never runs out. It is never behind the clock, so that fences rise even when
-- Redis lost everything in between.
local there = redis.call('HMGET', KEYS[1], 'holder', 'fence')
local holder, fence = there[1], there[2]
if holder and holder ~= ARGV[1] then
  return {0, holder, redis.call('PTTL', KEYS[1])}
end
if not fence then
  local time = redis.call('TIME')
  local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  fence = string.format('%.0f', math.max(last + 1, micros))
  redis.call('SET', KEYS[2], fence)
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'fence', fence)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, fence, 0}
