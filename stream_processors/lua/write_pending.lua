-- Third step of a match: write what will change as pending, only if nobody else began meanwhile.
-- KEYS[1] e: of venue and case. ARGV: n, then field, value, ...
-- Returns 1, or 0 when the attempt has to be made again.
if redis.call('HGET', KEYS[1], 'n') ~= ARGV[1] then
    return 0
end
for i = 2, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
