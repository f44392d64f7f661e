-- KEYS: the value. ARGV: its version, the value, for how many milliseconds.
-- Versions are written with 20 digits, so that text compares as the numbers do: Lua's own are exact to 2^53 only.
local there = redis.call('HGET', KEYS[1], 'version')
if there and there > ARGV[1] then
  return 0
end
if there ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'value', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
