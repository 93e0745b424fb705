-- Add (hour, venue) pairs to the persons' indexes, read the persons' cases.
--   lists, flat: key, expire_at, entries, entries again. Entries are 16 bytes: person (8), hour of the day, venue (7).
--     Those of new marks are appended as they are; those of marks that were there already, by the same scan, only
--     if they are not there: the first delivery may have ended before it came here
--   persons, flat: shard, persons (8 bytes each), for every shard
-- Returns { person, HGETALL of its cases } for those who have any.
local call, sub, find, byte = redis.call, string.sub, string.find, string.byte

local function digits(person)
    return (string.gsub(person, '.', function(c) return string.format('%02x', byte(c)) end))
end

-- without the entries, up to an hour, of persons who were erased
local function permitted(entries, day)
    local kept = {}
    for at = 1, #entries, 16 do
        local entry = sub(entries, at, at + 15)
        local limit = call('HGET', erased, 'i' .. digits(sub(entry, 1, 8)))
        if not limit or day * 24 + byte(entry, 9) > tonumber(sub(limit, 1, 12)) then
            kept[#kept + 1] = entry
        end
    end
    return table.concat(kept)
end

local function holds(all, entry)
    local at = find(all, entry, 1, true)
    while at and at % 16 ~= 1 do
        at = find(all, entry, at + 1, true)
    end
    return at
end

local function add_index(lists, persons)
    local any_erased = call('EXISTS', erased) == 1
    for at = 1, #lists, 4 do
        local key, fresh, again = lists[at], lists[at + 2], lists[at + 3]
        if any_erased then
            local day = tonumber(string.match(key, '%d+$'))
            fresh, again = permitted(fresh, day), permitted(again, day)
        end
        if again ~= '' then
            local all = table.concat(call('LRANGE', key, 0, -1)) .. fresh
            for from = 1, #again, 16 do
                local entry = sub(again, from, from + 15)
                if not holds(all, entry) then
                    fresh, all = fresh .. entry, all .. entry
                end
            end
        end
        -- by the day that the key speaks of, and once: the day does not change
        if fresh ~= '' and call('RPUSH', key, fresh) == 1 then
            call('EXPIREAT', key, lists[at + 1])
        end
    end
    local found = {}
    for at = 1, #persons, 2 do
        local having = 'w:{' .. persons[at] .. '}'
        -- hardly anybody is a case
        if call('EXISTS', having) == 1 then
            local of_shard = persons[at + 1]
            for first = 1, #of_shard, 8000 do
                local asked = {}
                for from = first, math.min(first + 7999, #of_shard), 8 do
                    asked[#asked + 1] = sub(of_shard, from, from + 7)
                end
                for place, score in ipairs(call('ZMSCORE', having, unpack(asked))) do
                    if score then
                        local cases = call('HGETALL', 'c:{' .. persons[at] .. '}:' .. digits(asked[place]))
                        if #cases > 0 then
                            found[#found + 1] = { asked[place], cases }
                        end
                    end
                end
            end
        end
    end
    return found
end
