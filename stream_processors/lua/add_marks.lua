-- Venue step of a scan: add marks to venue-hour buckets, read the flags of the venues.
-- ARGV[1], msgpack: { buckets, flag_keys }
--   buckets: { key, expire_at, field, mark, field, mark, ... } each; mark = mark byte + 4-byte tag
-- Returns { verdicts, flags }: verdicts one byte a mark in the order given ("n" new, "r" redelivery of
-- the scan that made the mark, "d" duplicate by another scan); flags { index of flag_keys, HGETALL } each.
local request = cmsgpack.unpack(ARGV[1])
local verdicts, count = {}, 0
for _, bucket in ipairs(request[1]) do
    local key = bucket[1]
    local fields, seen = {}, {}
    for i = 3, #bucket, 2 do
        local field = bucket[i]
        if seen[field] == nil then
            seen[field] = false
            fields[#fields + 1] = field
        end
    end
    local stored = redis.call('HMGET', key, unpack(fields))
    for i = 1, #fields do
        seen[fields[i]] = stored[i] or ''
    end
    local changed = {}
    for i = 3, #bucket, 2 do
        local field, mark = bucket[i], bucket[i + 1]
        local marks = seen[field]
        local byte = string.byte(mark)
        local verdict = 'n'
        for at = 1, #marks, 5 do
            if string.byte(marks, at) == byte then
                verdict = string.sub(marks, at, at + 4) == mark and 'r' or 'd'
                break
            end
        end
        if verdict == 'n' then
            seen[field] = marks .. mark
            changed[field] = true
        end
        count = count + 1
        verdicts[count] = verdict
    end
    local writes = {}
    for field in pairs(changed) do
        writes[#writes + 1] = field
        writes[#writes + 1] = seen[field]
    end
    if #writes > 0 then
        local added = redis.call('HSET', key, unpack(writes))
        -- by the hour that the key speaks of, never by write time, and once: the hour does not change
        if added > 0 and redis.call('HLEN', key) == added then
            redis.call('EXPIREAT', key, bucket[2])
        end
    end
end
local flags = {}
for index, key in ipairs(request[2]) do
    local records = redis.call('HGETALL', key)
    if #records > 0 then
        flags[#flags + 1] = { index - 1, records }
    end
end
return { table.concat(verdicts), flags }
