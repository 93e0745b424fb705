-- Fifth step of a match: what was published is no longer pending, unless it was written anew meanwhile.
-- KEYS[1] e: of venue and case. ARGV: field, value as written, value without pending, ...
for i = 1, #ARGV, 3 do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    end
end
return 1
