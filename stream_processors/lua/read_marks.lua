-- Marks at a venue. KEYS[1]: one of the buckets (all share its slot).
-- ARGV[1], msgpack: { bucket_prefix, first hour, last hour, fields }; no fields: everybody.
-- Returns { hour, { field, marks, ... } } for the hours that have any.
local request = cmsgpack.unpack(ARGV[1])
local prefix, fields = request[1], request[4]
local found = {}
for hour = request[2], request[3] do
    local key = prefix .. string.format('%d', hour)
    local pairs_of_hour
    if #fields == 0 then
        pairs_of_hour = redis.call('HGETALL', key)
    else
        pairs_of_hour = {}
        for at = 1, #fields, 1000 do
            local part = { unpack(fields, at, math.min(at + 999, #fields)) }
            local values = redis.call('HMGET', key, unpack(part))
            for i, field in ipairs(part) do
                if values[i] then
                    pairs_of_hour[#pairs_of_hour + 1] = field
                    pairs_of_hour[#pairs_of_hour + 1] = values[i]
                end
            end
        end
    end
    if #pairs_of_hour > 0 then
        found[#found + 1] = { hour, pairs_of_hour }
    end
end
return found
