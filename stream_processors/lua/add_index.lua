-- Person step of a scan: add (hour, venue) pairs to the persons' indexes, read the persons' cases.
-- ARGV[1], msgpack: { entries, case_keys, floor }
--   entries, flat: index_key, expire_at of its hour, entry for each mark; entry = 4-byte big-endian hour .. venue code
--   case_keys: of the same persons, at most 2,000
--   floor = entries below this 4-byte hour may go
-- Returns { position of the mark, HGETALL of its person's cases } for those who have any.
local request = cmsgpack.unpack(ARGV[1])
local entries, case_keys, floor = request[1], request[2], request[3]
local call, byte = redis.call, string.byte
local function hour_of(entry)
    local a, b, c, d = byte(entry, 1, 4)
    return ((a * 256 + b) * 256 + c) * 256 + d
end
local any_erased = call('EXISTS', erased) == 1
for at = 1, #entries, 3 do
    local key, entry = entries[at], entries[at + 2]
    -- of a person who was erased, entries up to that hour are left out
    local limit = any_erased and call('HGET', erased, 'i' .. string.sub(key, -16))
    if not (limit and hour_of(entry) <= tonumber(string.sub(limit, 1, 12))) and call('HSET', key, entry, '') == 1 then
        -- a new key has no expiry yet; a known one keeps the later
        if call('EXPIREAT', key, entries[at + 1], 'NX') == 0 then
            call('EXPIREAT', key, entries[at + 1], 'GT')
            -- A person who scans every day keeps the key for ever, so expired entries go now and then: when the
            -- number of the hour is a multiple of 29, which somebody who only ever scans at one hour of the day
            -- meets every 29th day.
            if (byte(entry, 3) * 256 + byte(entry, 4)) % 29 == 0 then
                for _, old in ipairs(call('HKEYS', key)) do
                    if string.sub(old, 1, 4) < floor then
                        call('HDEL', key, old)
                    end
                end
            end
        end
    end
end
local found = {}
-- hardly anybody is a case: one question for all of them
if #case_keys > 0 and call('EXISTS', unpack(case_keys)) > 0 then
    for position, key in ipairs(case_keys) do
        local cases = call('HGETALL', key)
        if #cases > 0 then
            found[#found + 1] = { position - 1, cases }
        end
    end
end
return found
