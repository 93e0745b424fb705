-- Marks at a venue. KEYS[1]: one of the buckets (all share its slot).
-- ARGV[1], msgpack: { bucket_prefix, persons, most, first hour, last hour, first hour, last hour, ... }
--   no persons: everybody. Stretches of hours are read in their order, none is begun once `most` entries were found,
--   or persons asked for where they are named.
-- Returns { stretches that were read, { hour, entries (13 bytes each), ... } of the hours that have any }.
local request = cmsgpack.unpack(ARGV[1])
local prefix, persons, most = request[1], request[2], request[3]
local sub = string.sub
local places, names = {}, {} -- group → its place among the names of those asked for
for _, person in ipairs(persons) do
    local group = group_of(person, 1)
    if not places[group] then
        names[#names + 1] = group
        places[group] = #names
    end
end
local found, count, at = {}, 0, 4
while request[at] and count < most do
    for hour = request[at], request[at + 1] do
        local key = prefix .. string.format('%d', hour)
        local entries
        if #persons == 0 then
            entries = table.concat(redis.call('HVALS', key))
        else
            local groups, theirs = redis.call('HMGET', key, unpack(names)), {}
            for _, person in ipairs(persons) do
                local group = groups[places[group_of(person, 1)]]
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
