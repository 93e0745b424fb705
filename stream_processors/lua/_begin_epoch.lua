-- Begin an epoch on the first shard; what was written down of the one before is gone. KEYS[1] its s:.
-- ARGV: the epoch that is expected there ('' for none), the new one, then field, value, ...
-- Returns the epoch that stands: another one than the new when somebody was quicker.
local there = redis.call('HGET', KEYS[1], 'epoch') or ''
if there ~= ARGV[1] then
    return there
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], unpack(ARGV, 3))
return ARGV[2]
