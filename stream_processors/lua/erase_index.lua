-- Entries of a person's index up to an hour. KEYS: the lists of the index, a day each.
-- ARGV: person (8 bytes), hour of the last day up to which (the others are whole), '1' to remove them.
-- Returns them flat: position of the list from 0, hour of the day and venue (8 bytes).
local person, last_hour = ARGV[1], tonumber(ARGV[2])
local all = entries_of(person, 1)
local found, lists = {}, {}
for at = 1, #all, 2 do
    if all[at] < #KEYS - 1 or string.byte(all[at + 1]) <= last_hour then
        found[#found + 1], found[#found + 2] = all[at], all[at + 1]
        lists[all[at] + 1] = true
    end
end
if ARGV[3] == '1' then
    for place in pairs(lists) do
        local key = KEYS[place]
        local expire_at, elements = redis.call('EXPIRETIME', key), redis.call('LRANGE', key, 0, -1)
        redis.call('DEL', key)
        for _, entries in ipairs(elements) do
            local kept = {}
            for at = 1, #entries, 16 do
                local entry = string.sub(entries, at, at + 15)
                if string.sub(entry, 1, 8) ~= person or place == #KEYS and string.byte(entry, 9) > last_hour then
                    kept[#kept + 1] = entry
                end
            end
            if #kept > 0 and redis.call('RPUSH', key, table.concat(kept)) == 1 then
                redis.call('EXPIREAT', key, expire_at)
            end
        end
    end
end
return found
