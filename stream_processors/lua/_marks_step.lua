-- Venue step of a scan: add marks to venue-hour buckets, read the flags of the venues.
-- ARGV[1], msgpack: { buckets, flag_keys, ... }
--   buckets, flat (a table a bucket costs more than what is done with it): key, expire_at, entries (13 bytes each,
--   those of a group one behind the other)
-- Makes `said`, one byte a mark in the order given ("n" new, "r" redelivery of the scan that made the mark,
-- "d" duplicate by another scan, "e" of a person who was erased up to that hour, not added), and `flags`,
-- { index of flag_keys, HGETALL } each.
local request = cmsgpack.unpack(ARGV[1])
local buckets, flag_keys = request[1], request[2]
local call = redis.call
local verdicts, count = {}, 0
local any_erased = call('EXISTS', erased) == 1 -- hardly ever: nothing more is asked otherwise

local function is_erased(person, hour)
    local limit = call('HGET', erased, 'm' .. person)
    return limit and hour <= tonumber(sub(limit, 1, 12))
end

-- of an entry and its group: the verdict, and the group with it
local function verdict_of(value, entry)
    local there = entry_at(value, sub(entry, 1, 9), 1)
    if there then
        return sub(value, there, there + 12) == entry and 'r' or 'd', value
    end
    return 'n', value .. entry
end

-- a group that has grown too large
local function cut(key, group, value, expire_at)
    local names, parts, fields = {}, {}, {}
    for at = 1, #value, 13 do
        local part = part_of(value, at)
        if not parts[part] then
            names[#names + 1], parts[part] = part, {}
        end
        local entries = parts[part]
        entries[#entries + 1] = sub(value, at, at + 12)
    end
    for _, part in ipairs(names) do
        fields[#fields + 1], fields[#fields + 2] = part, table.concat(parts[part])
    end
    local at = large(key, group)
    call('HSET', at, unpack(fields))
    call('EXPIREAT', at, expire_at)
    call('HSET', key, group, '')
end

-- an entry into a field
local function put(key, name, value, entry)
    local verdict
    verdict, value = verdict_of(value, entry)
    if verdict == 'n' then
        call('HSET', key, name, value)
    end
    return verdict, value
end

-- by the hour that the key speaks of, never by write time, and once: the hour does not change
local function expire_new(key, fields, expire_at)
    if call('HLEN', key) == fields then
        call('EXPIREAT', key, expire_at)
    end
end

-- an entry into a group that is in parts; when all of it was erased, it is a new hash
local function put_part(at, entry, expire_at)
    local part = part_of(entry, 1)
    local value = call('HGET', at, part)
    local verdict = put(at, part, value or '', entry)
    if not value then
        expire_new(at, 1, expire_at)
    end
    return verdict
end

-- A bucket that gets one mark. Mostly the group is new (many venues, many hours), or mostly it is there (one hour,
-- in which all of a chunk is), or mostly in parts (few venues): two commands then, if the right one is tried first, and
-- up to four if not. So the marks before tell.
local groups_new, groups_there, groups_cut = 0, 0, 0
local function add_one(key, expire_at, entry)
    local group = group_of(entry, 1)
    if groups_cut > groups_there and groups_cut > groups_new then
        local at, part = large(key, group), part_of(entry, 1)
        local value = call('HGET', at, part)
        if value then
            groups_cut = groups_cut + 1
            return (put(at, part, value, entry))
        end
    end
    local value = groups_there >= groups_new and call('HGET', key, group)
    if not value then
        if call('HSETNX', key, group, entry) == 1 then
            groups_new = groups_new + 1
            expire_new(key, 1, expire_at)
            return 'n'
        end
        value = call('HGET', key, group)
    end
    if value == '' then
        groups_cut = groups_cut + 1
        return put_part(large(key, group), entry, expire_at)
    end
    groups_there = groups_there + 1
    local verdict
    verdict, value = put(key, group, value, entry)
    if #value > MOST then
        cut(key, group, value, expire_at)
    end
    return verdict
end

for bucket = 1, #buckets, 3 do
    local key, expire_at, entries = buckets[bucket], buckets[bucket + 1], buckets[bucket + 2]
    if #entries == 13 and not any_erased then
        count = count + 1
        verdicts[count] = add_one(key, expire_at, entries)
    else
        local hour = any_erased and tonumber(string.match(key, '%d+$'))
        local names, starts = {}, {}
        for at = 1, #entries, 13 do
            local name = group_of(entries, at)
            if name ~= names[#names] then
                names[#names + 1], starts[#starts + 1] = name, at
            end
        end
        starts[#starts + 1] = #entries + 1
        -- a look and a write for all persons of the bucket, not for each
        local groups = call('HMGET', key, unpack(names))
        local grown, too_large, new = {}, {}, true
        for place, name in ipairs(names) do
            local before = groups[place]
            local value = before or ''
            new = new and not before
            for at = starts[place], starts[place + 1] - 1, 13 do
                local verdict = 'e'
                if not any_erased or not is_erased(sub(entries, at, at + 7), hour) then
                    if before == '' then
                        verdict = put_part(large(key, name), sub(entries, at, at + 12), expire_at)
                    else
                        verdict, value = verdict_of(value, sub(entries, at, at + 12))
                    end
                end
                count = count + 1
                verdicts[count] = verdict
            end
            if value ~= (before or '') then
                grown[#grown + 1], grown[#grown + 2] = name, value
            end
            if #value > MOST then
                too_large[#too_large + 1], too_large[#too_large + 2] = name, value
            end
        end
        if #grown > 0 then
            local added = call('HSET', key, unpack(grown))
            if new then
                expire_new(key, added, expire_at)
            end
        end
        for at = 1, #too_large, 2 do
            cut(key, too_large[at], too_large[at + 1], expire_at)
        end
    end
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
local said = table.concat(verdicts)
