-- Before every script: is this still the store that the caller knows?
-- Last of KEYS: s: of the shard; last of ARGV: the epoch that the caller began with. A wiped or replaced store
-- has none or another one: then nothing is read and nothing is written.
local known, state = table.remove(ARGV), table.remove(KEYS)
if redis.call('HGET', state, 'epoch') ~= known then
    return redis.error_reply('STORELOST another epoch than ' .. known)
end
-- who was erased: the key of the same shard
local erased = 'x' .. string.sub(state, 2)
