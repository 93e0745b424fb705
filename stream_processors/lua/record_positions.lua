-- Write down how far the store has been told. KEYS: s: of the shards, in a cluster of one; ARGV: field, next
-- offset, ...
-- An offset only rises: a late zombie takes nothing back.
for _, key in ipairs(KEYS) do
    for i = 1, #ARGV, 2 do
        if tonumber(redis.call('HGET', key, ARGV[i]) or '-1') < tonumber(ARGV[i + 1]) then
            redis.call('HSET', key, ARGV[i], ARGV[i + 1])
        end
    end
end
return 1
