-- Remember venues that a case touches. KEYS[1] k: of the case. ARGV: venue codes.
-- Returns { record that stands or false, venues that were not there before, all venues }.
local key = KEYS[1]
local record = redis.call('HGET', key, 'r')
local added, all = {}, {}
if record then
    for _, venue in ipairs(ARGV) do
        if redis.call('HSET', key, 'v:' .. venue, '') == 1 then
            added[#added + 1] = venue
        end
    end
    for _, field in ipairs(redis.call('HKEYS', key)) do
        if string.sub(field, 1, 2) == 'v:' then
            all[#all + 1] = string.sub(field, 3)
        end
    end
end
return { record, added, all }
