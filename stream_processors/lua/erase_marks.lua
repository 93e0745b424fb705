-- Take a person out of buckets of one shard. KEYS: the buckets. ARGV[1]: the person (8 bytes).
-- Returns how many marks there were.
local person, count = ARGV[1], 0
for _, key in ipairs(KEYS) do
    local group = group_of(person, 1)
    local entries = redis.call('HGET', key, group)
    if entries == '' then
        key, group = large(key, group), part_of(person, 1)
        entries = redis.call('HGET', key, group)
    end
    local there = entries and entry_at(entries, person, 1)
    if there then
        while there do
            entries = sub(entries, 1, there - 1) .. sub(entries, there + 13)
            count = count + 1
            there = entry_at(entries, person, there)
        end
        if entries == '' then
            redis.call('HDEL', key, group)
        else
            redis.call('HSET', key, group, entries)
        end
    end
end
return count
