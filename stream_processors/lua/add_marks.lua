-- Venue step of a scan: add marks to venue-hour buckets, read the flags of the venues.
-- ARGV[1], msgpack: { marks, flag_keys }
--   marks, flat (a table a bucket costs more than what is done with it): key, expire_at, count, then count
--   times field, mark; mark = mark byte + 4-byte tag
-- Returns { verdicts, flags }: verdicts one byte a mark in the order given ("n" new, "r" redelivery of
-- the scan that made the mark, "d" duplicate by another scan, "e" of a person who was erased up to that hour, not
-- added); flags { index of flag_keys, HGETALL } each.
local request = cmsgpack.unpack(ARGV[1])
local marks, flag_keys = request[1], request[2]
local call, byte = redis.call, string.byte
local verdicts, count, at = {}, 0, 1
local any_erased = call('EXISTS', erased) == 1 -- hardly ever: nothing more is asked otherwise
while marks[at] do
    local key, last, added = marks[at], at + 2 + 2 * marks[at + 2], 0
    local hour = any_erased and tonumber(string.match(key, '%d+$'))
    for i = at + 3, last, 2 do
        local field, mark, verdict = marks[i], marks[i + 1], 'n'
        local limit = any_erased and call('HGET', erased, 'm' .. field)
        if limit and hour <= tonumber(string.sub(limit, 1, 12)) then
            verdict = 'e'
        -- nearly always a person's first mark of the hour
        elseif call('HSETNX', key, field, mark) == 1 then
            added = added + 1
        else
            local stored, kind_and_minute = call('HGET', key, field), byte(mark)
            for from = 1, #stored, 5 do
                if byte(stored, from) == kind_and_minute then
                    verdict = string.sub(stored, from, from + 4) == mark and 'r' or 'd'
                    break
                end
            end
            if verdict == 'n' then
                call('HSET', key, field, stored .. mark)
            end
        end
        count = count + 1
        verdicts[count] = verdict
    end
    -- by the hour that the key speaks of, never by write time, and once: the hour does not change
    if added > 0 and call('HLEN', key) == added then
        call('EXPIREAT', key, marks[at + 1])
    end
    at = last + 1
end
local flags = {}
-- hardly any venue is flagged: one question for a thousand of them
for first = 1, #flag_keys, 1000 do
    local last = math.min(first + 999, #flag_keys)
    if call('EXISTS', unpack(flag_keys, first, last)) > 0 then
        for index = first, last do
            local records = call('HGETALL', flag_keys[index])
            if #records > 0 then
                flags[#flags + 1] = { index - 1, records }
            end
        end
    end
end
return { table.concat(verdicts), flags }
