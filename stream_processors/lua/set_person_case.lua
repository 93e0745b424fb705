-- Second step of a case: give the person the case, read where the person was, in one.
-- KEYS: c: of the person, w: of the shard, then the lists of the index, a day each.
-- ARGV: case_id, record, expire_at, now (seconds), person (8 bytes).
-- Returns the person's entries, flat: position of the list from 0, hour of the day and venue (8 bytes).
local key, having, person = KEYS[1], KEYS[2], ARGV[5]
local standing = redis.call('HGET', key, ARGV[1])
if not standing or string.sub(standing, 1, 8) < string.sub(ARGV[2], 1, 8) then
    redis.call('HSET', key, ARGV[1], ARGV[2])
end
if redis.call('TTL', key) < 0 then
    redis.call('EXPIREAT', key, ARGV[3])
else
    redis.call('EXPIREAT', key, ARGV[3], 'GT')
end
redis.call('ZADD', having, 'GT', ARGV[3], person)
redis.call('ZREMRANGEBYSCORE', having, '-inf', '(' .. ARGV[4])
return entries_of(person, 3)
