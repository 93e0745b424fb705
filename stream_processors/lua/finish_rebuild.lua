-- The store is whole again. ARGV: since (ms). The epoch says that it was not lost once more meanwhile.
redis.call('HSET', state, 'status', 'ready', 'since', ARGV[1])
redis.call('HDEL', state, 'reason', 'step', 'done', 'total')
return 1
