-- First step of a case: keep its highest version, refuse what contradicts it.
-- KEYS[1] k: of the case. ARGV: record, subject, expire_at.
-- A record is 8 decimal digits of version, 12 of its expiry in seconds, then the JSON.
-- Returns { verdict, record that stands }; verdict: set, same, lower, conflict, subject.
local key, record = KEYS[1], ARGV[1]
local standing = redis.call('HGET', key, 'r')
if standing then
    if redis.call('HGET', key, 's') ~= ARGV[2] then
        return { 'subject', standing }
    end
    local old, new = string.sub(standing, 1, 8), string.sub(record, 1, 8)
    if old == new then
        return { string.sub(standing, 21) == string.sub(record, 21) and 'same' or 'conflict', standing }
    end
    if old > new then
        return { 'lower', standing }
    end
    redis.call('HSET', key, 'r', record)
    redis.call('EXPIREAT', key, ARGV[3], 'GT')
    return { 'set', record }
end
redis.call('HSET', key, 'r', record, 's', ARGV[2])
redis.call('EXPIREAT', key, ARGV[3])
return { 'set', record }
