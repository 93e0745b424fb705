-- Take a person out of buckets of one shard. KEYS: the buckets. ARGV[1]: the person (8 bytes).
-- Returns how many marks there were.
local count = 0
for _, key in ipairs(KEYS) do
    local marks = redis.call('HGET', key, ARGV[1])
    if marks then
        count = count + #marks / 5
        redis.call('HDEL', key, ARGV[1])
    end
end
return count
