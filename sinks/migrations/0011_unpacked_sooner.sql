-- LZ4 in the table by venue: with blocks of 8 KiB a large crowd's marks are there an eighth sooner than with ZSTD,
-- for 2.5 of the 20 bytes a mark that both tables may have (docs/LOOKUPS.md, "Trials"; a server needs the settings
-- named there). By person only large chains would feel it. Parts that are there already are packed anew as they
-- merge, and read meanwhile.
ALTER TABLE visits
    MODIFY COLUMN venue CODEC(LZ4),
    MODIFY COLUMN hour CODEC(Delta, LZ4),
    MODIFY COLUMN person CODEC(LZ4),
    MODIFY COLUMN ins CODEC(LZ4),
    MODIFY COLUMN outs CODEC(LZ4),
    MODIFY COLUMN voids CODEC(LZ4);
