-- Person step of a scan: add (hour, venue) pairs to the persons' indexes, read the persons' cases.
-- ARGV[1], msgpack: { persons, floor }
--   persons: { index_key, case_key, expire_at of its latest hour, entry, entry, ... } each;
--   entry = 4-byte big-endian hour .. venue code; floor = entries below this 4-byte hour may go
-- Returns { position of the person, HGETALL of its cases } for those who have any.
local request = cmsgpack.unpack(ARGV[1])
local floor = request[2]
local found = {}
for position, person in ipairs(request[1]) do
    local key = person[1]
    local writes = {}
    for i = 4, #person do
        writes[#writes + 1] = person[i]
        writes[#writes + 1] = ''
    end
    local added = redis.call('HSET', key, unpack(writes))
    if added > 0 then
        local size = redis.call('HLEN', key)
        if size == added then
            redis.call('EXPIREAT', key, person[3])
        else
            redis.call('EXPIREAT', key, person[3], 'GT')
            -- A person who scans every day keeps the key for ever: expired entries go every 64th time.
            if size > 256 and size % 64 < added then
                for _, entry in ipairs(redis.call('HKEYS', key)) do
                    if string.sub(entry, 1, 4) < floor then
                        redis.call('HDEL', key, entry)
                    end
                end
            end
        end
    end
    local cases = redis.call('HGETALL', person[2])
    if #cases > 0 then
        found[#found + 1] = { position - 1, cases }
    end
end
return found
