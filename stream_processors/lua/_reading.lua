-- All entries of a bucket.
local function everybody(key)
    local fields, found = redis.call('HGETALL', key), {}
    for at = 2, #fields, 2 do
        local entries = fields[at]
        if entries == '' then
            entries = table.concat(redis.call('HVALS', large(key, fields[at - 1])))
        end
        found[#found + 1] = entries
    end
    return table.concat(found)
end

-- Marks at a venue, of a request as read_marks and set_flag take it: { bucket_prefix, persons, most, first hour, last
-- hour, first hour, last hour, ... }
--   no persons: everybody. Stretches of hours are read in their order, none is begun once `most` entries were found,
--   or persons asked for where they are named.
-- Returns { stretches that were read, { hour, entries (13 bytes each), ... } of the hours that have any }.
local function read_marks(packed)
    local request = cmsgpack.unpack(packed)
    local prefix, persons, most = request[1], request[2], request[3]
    local places, names, of = {}, {}, {} -- group → its place among the names asked for; that of each person
    for number, person in ipairs(persons) do
        local group = group_of(person, 1)
        if not places[group] then
            names[#names + 1] = group
            places[group] = #names
        end
        of[number] = places[group]
    end
    local found, count, at = {}, 0, 4
    while request[at] and count < most do
        for hour = request[at], request[at + 1] do
            local key = prefix .. string.format('%d', hour)
            local entries
            if #persons == 0 then
                entries = everybody(key)
            else
                local groups, theirs, any = redis.call('HMGET', key, unpack(names)), {}, false
                for place = 1, #names do
                    any = any or groups[place]
                end
                -- most hours of a stretch have no bucket
                for number = 1, any and #persons or 0 do
                    local person = persons[number]
                    local group = groups[of[number]]
                    if group == '' then
                        group = redis.call('HGET', large(key, names[of[number]]), part_of(person, 1))
                    end
                    local there = group and entry_at(group, person, 1)
                    while there do
                        theirs[#theirs + 1] = sub(group, there, there + 12)
                        there = entry_at(group, person, there + 13)
                    end
                end
                entries = table.concat(theirs)
            end
            if entries ~= '' then
                found[#found + 1], found[#found + 2] = hour, entries
            end
            count = count + math.max(#persons, #entries / 13)
        end
        at = at + 2
    end
    return { (at - 4) / 2, found }
end
