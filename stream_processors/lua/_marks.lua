local byte, char, find = string.byte, string.char, string.find

-- Entries of a bucket, 13 bytes each: person (8), kind and minute in the hour in one, tag of the scan (4). A field
-- of the bucket is a group of persons, by the last 5 bits of theirs; its name is no digit, which Redis would keep as
-- a number and write out at each look.
local function group_of(entries, at)
    return char(64 + byte(entries, at + 7) % 32)
end

-- where an entry begins that begins with `what`; nil: there is none
local function entry_at(entries, what, from)
    local at = find(entries, what, from, true)
    while at and at % 13 ~= 1 do
        at = find(entries, what, at + 1, true)
    end
    return at
end
