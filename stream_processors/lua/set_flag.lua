-- First step of a match: flag the venue with the case, count the attempt, read what stands published, then marks.
-- KEYS[1] f: of the venue, KEYS[2] e: of venue and case.
-- ARGV: case_id, record, expire_at, now (seconds), marks to read (a request of _reading.lua; '': none), then fields of
-- e to read; none: all of them.
-- Returns { record that stands, n, marks as _reading.lua returns them or false, field, value, ... }.
local flags, entries = KEYS[1], KEYS[2]
local record = ARGV[2]
local standing = redis.call('HGET', flags, ARGV[1])
if standing and string.sub(standing, 1, 8) >= string.sub(record, 1, 8) then
    record = standing
else
    redis.call('HSET', flags, ARGV[1], record)
    -- a busy venue keeps the key for ever: flags that are past their own expiry go
    local all = redis.call('HGETALL', flags)
    for i = 1, #all, 2 do
        if tonumber(string.sub(all[i + 1], 9, 20)) < tonumber(ARGV[4]) then
            redis.call('HDEL', flags, all[i])
        end
    end
end
local n = redis.call('HINCRBY', entries, 'n', 1)
for _, key in ipairs(KEYS) do
    if redis.call('TTL', key) == -1 then
        redis.call('EXPIREAT', key, ARGV[3])
    else
        redis.call('EXPIREAT', key, ARGV[3], 'GT')
    end
end
local reply = { record, n, ARGV[5] ~= '' and read_marks(ARGV[5]) }
if #ARGV == 5 then
    for _, item in ipairs(redis.call('HGETALL', entries)) do
        reply[#reply + 1] = item
    end
else
    for i = 6, #ARGV do
        local value = redis.call('HGET', entries, ARGV[i])
        if value then
            reply[#reply + 1] = ARGV[i]
            reply[#reply + 1] = value
        end
    end
end
return reply
