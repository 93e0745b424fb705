-- Put back what stands published, unless something newer is there.
-- KEYS[1] e: of venue and case. ARGV: expire_at, then field, version, value, ...
-- Values are JSON arrays whose first element is the version.
local key = KEYS[1]
for i = 2, #ARGV, 3 do
    local there = redis.call('HGET', key, ARGV[i])
    if not there or cjson.decode(there)[1] < tonumber(ARGV[i + 1]) then
        redis.call('HSET', key, ARGV[i], ARGV[i + 2])
    end
end
if redis.call('TTL', key) == -1 then
    redis.call('EXPIREAT', key, ARGV[1])
else
    redis.call('EXPIREAT', key, ARGV[1], 'GT')
end
return 1
