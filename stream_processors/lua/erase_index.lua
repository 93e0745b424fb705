-- Entries of a person's index up to an hour. KEYS[1] p: of the person. ARGV: last hour, '1' to remove them.
-- Returns them; an entry begins with its hour, 4 bytes, big-endian.
local found = {}
for _, entry in ipairs(redis.call('HKEYS', KEYS[1])) do
    local a, b, c, d = string.byte(entry, 1, 4)
    if ((a * 256 + b) * 256 + c) * 256 + d <= tonumber(ARGV[1]) then
        found[#found + 1] = entry
        if ARGV[2] == '1' then
            redis.call('HDEL', KEYS[1], entry)
        end
    end
end
return found
