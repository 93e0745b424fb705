-- Write down how far the store has been told. KEYS: none of its own. ARGV: field, next offset, ...
-- An offset only rises: a late zombie takes nothing back.
for i = 1, #ARGV, 2 do
    if tonumber(redis.call('HGET', state, ARGV[i]) or '-1') < tonumber(ARGV[i + 1]) then
        redis.call('HSET', state, ARGV[i], ARGV[i + 1])
    end
end
return 1
