local byte, char, find, sub = string.byte, string.char, string.find, string.sub

-- Entries of a bucket, 13 bytes each: person (8), kind and minute in the hour in one, tag of the scan (4). A field
-- of the bucket is a group of persons, by the last 5 bits of theirs; its name is no digit, which Redis would keep as
-- a number and write out at each look.
local function group_of(entries, at)
    return char(64 + byte(entries, at + 7) % 32)
end

-- A field is written as a whole, so each mark of a crowd's hour would have Redis write out kilobytes. A group of more
-- than so many bytes goes into a hash of its own, in 16 parts by four more bits of its persons; what stands in its own
-- place is empty from then on. (An emptied group is no field.)
local MOST = 20 * 13
local function large(key, group)
    return 'd' .. sub(key, 2) .. group
end
local function part_of(entries, at)
    return char(64 + byte(entries, at + 6) % 16)
end

-- where an entry begins that begins with `what`; nil: there is none
local function entry_at(entries, what, from)
    local at = find(entries, what, from, true)
    while at and at % 13 ~= 1 do
        at = find(entries, what, at + 1, true)
    end
    return at
end
