-- Entries of a person in index lists: KEYS from `first` on, a day each.
-- Returns them flat: position of the list from 0, hour of the day and venue (8 bytes).
local function entries_of(person, first)
    local found = {}
    for place = first, #KEYS do
        local all = table.concat(redis.call('LRANGE', KEYS[place], 0, -1))
        local at = string.find(all, person, 1, true)
        while at do
            if at % 16 == 1 then
                found[#found + 1] = place - first
                found[#found + 1] = string.sub(all, at + 8, at + 15)
            end
            at = string.find(all, person, at + 1, true)
        end
    end
    return found
end
