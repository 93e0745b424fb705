-- LZ4 in the table by venue: with blocks of 8 KiB ZSTD takes longer to begin a block than to unpack it. The engine's
-- part of a crowd's question is an eighth shorter, for 2.6 bytes a mark of 20 that both tables may have
-- (docs/LOOKUPS.md, "Trials"). By person it would not be felt: a question reads a few granules.
-- Parts that are there already are packed anew as they merge, and read meanwhile.
ALTER TABLE visits
    MODIFY COLUMN venue CODEC(LZ4),
    MODIFY COLUMN hour CODEC(Delta, LZ4),
    MODIFY COLUMN person CODEC(LZ4),
    MODIFY COLUMN ins CODEC(LZ4),
    MODIFY COLUMN outs CODEC(LZ4),
    MODIFY COLUMN voids CODEC(LZ4);
