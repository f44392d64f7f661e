-- KEYS: the bucket. ARGV: tokens wanted, tokens a second, the most it holds.
-- Gives the tokens granted and the milliseconds until one more can be. The clock is Redis' own: replicas need not agree.
-- The sums are those of `bucket.rs`.
local want, per_second, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local there = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(there[1] or burst)
local at = tonumber(there[2] or now)
-- A clock that went back must not refill the same second twice.
tokens = math.min(burst, tokens + math.max(0, now - at) / 1000000 * per_second)
at = math.max(at, now)
local granted = math.min(want, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', at))
-- A full bucket is as good as one that nobody has touched.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((at - now) / 1000 + (burst - tokens) / per_second * 1000) + 1))
local wait = 0
if granted == 0 and tokens < 1 then
  wait = math.ceil((1 - tokens) / per_second * 1000)
end
return {granted, wait}
