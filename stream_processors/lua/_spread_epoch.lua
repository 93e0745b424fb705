-- Carry the epoch that the first shard decided on to another shard. KEYS[1] s: of the shard. ARGV: the epoch.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
end
return 1
