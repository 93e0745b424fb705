-- Marks at a venue. KEYS[1]: one of the buckets (all share its slot).
-- ARGV[1], msgpack: { bucket_prefix, fields, most, first hour, last hour, first hour, last hour, ... }
--   no fields: everybody. Stretches of hours are read in their order, none is begun once `most` fields were found,
--   or asked for where they are named.
-- Returns { stretches that were read, { hour, { field, marks, ... } } of the hours that have any }.
local request = cmsgpack.unpack(ARGV[1])
local prefix, fields, most = request[1], request[2], request[3]
local found, count, at = {}, 0, 4
while request[at] and count < most do
    for hour = request[at], request[at + 1] do
        local key = prefix .. string.format('%d', hour)
        local pairs_of_hour
        if #fields == 0 then
            pairs_of_hour = redis.call('HGETALL', key)
        else
            pairs_of_hour = {}
            for first = 1, #fields, 1000 do
                local part = { unpack(fields, first, math.min(first + 999, #fields)) }
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
        count = count + math.max(#fields, #pairs_of_hour / 2)
    end
    at = at + 2
end
return { (at - 4) / 2, found }
