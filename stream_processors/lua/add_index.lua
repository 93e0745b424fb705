-- Person step of a scan. ARGV[1], msgpack: { lists, persons } (_index_step)
local request = cmsgpack.unpack(ARGV[1])
return add_index(request[1], request[2])
