-- Second step of a case: give the person the case, read where the person was, in one.
-- KEYS[1] c: of the person, KEYS[2] p: of the person. ARGV: case_id, record, expire_at, now (seconds).
-- Returns the entries of the person's index.
local key = KEYS[1]
local standing = redis.call('HGET', key, ARGV[1])
if not standing or string.sub(standing, 1, 8) < string.sub(ARGV[2], 1, 8) then
    redis.call('HSET', key, ARGV[1], ARGV[2])
end
if redis.call('TTL', key) < 0 then
    redis.call('EXPIREAT', key, ARGV[3])
else
    redis.call('EXPIREAT', key, ARGV[3], 'GT')
end
return redis.call('HKEYS', KEYS[2])
