-- Marks at a venue. KEYS[1]: one of the buckets (all share its slot). ARGV[1]: the request (_reading.lua).
return read_marks(ARGV[1])
