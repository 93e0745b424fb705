-- ZSTD(1) for the two serving tables, chosen by measurement (docs/LOOKUPS.md): 10.7 instead of 17.9 bytes a mark,
-- lookups as fast. Parts that are there already are packed anew as they merge.
ALTER TABLE visits
    MODIFY COLUMN venue CODEC(ZSTD(1)),
    MODIFY COLUMN hour CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN person CODEC(ZSTD(1)),
    MODIFY COLUMN ins CODEC(ZSTD(1)),
    MODIFY COLUMN outs CODEC(ZSTD(1)),
    MODIFY COLUMN voids CODEC(ZSTD(1)),
    MODIFY COLUMN party CODEC(ZSTD(1)),
    MODIFY COLUMN sources CODEC(ZSTD(1));

ALTER TABLE visits_by_person
    MODIFY COLUMN venue CODEC(ZSTD(1)),
    MODIFY COLUMN hour CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN person CODEC(ZSTD(1)),
    MODIFY COLUMN ins CODEC(ZSTD(1)),
    MODIFY COLUMN outs CODEC(ZSTD(1)),
    MODIFY COLUMN voids CODEC(ZSTD(1)),
    MODIFY COLUMN party CODEC(ZSTD(1)),
    MODIFY COLUMN sources CODEC(ZSTD(1));
