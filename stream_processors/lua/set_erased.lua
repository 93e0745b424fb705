-- Refuse what a person did up to an hour. KEYS[1] x:. ARGV: field, last hour, until (seconds), now (seconds).
-- Field: 'm' .. person (8 bytes) refuses marks, 'i' .. person (16 digits) entries of the index.
-- A value is 12 digits of the last hour, 12 of until. A later hour stands, as erased twice is erased up to the second.
local key = KEYS[1]
local standing = redis.call('HGET', key, ARGV[1])
if not standing or tonumber(string.sub(standing, 1, 12)) <= tonumber(ARGV[2]) then
    redis.call('HSET', key, ARGV[1], string.format('%012d%012d', ARGV[2], ARGV[3]))
end
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
    if tonumber(string.sub(all[i + 1], 13, 24)) < tonumber(ARGV[4]) then
        redis.call('HDEL', key, all[i])
    end
end
if redis.call('TTL', key) == -1 then
    redis.call('EXPIREAT', key, ARGV[3])
else
    redis.call('EXPIREAT', key, ARGV[3], 'GT')
end
return 1
