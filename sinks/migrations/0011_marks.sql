-- Both serving tables again have every mark as a byte: minute of the hour * 4 + 0 a void, 1 an in, 2 an out
-- (lookups/presence.py). A question reads two bytes a row instead of three masks of eight: of a crowd 12 instead of
-- 17 ms of the engine (100 million marks), for 1.5 bytes a mark and table. LZ4: with ZSTD it would be 1.3, and a
-- crowd takes a tenth longer, the marks of thousands of persons a quarter (docs/LOOKUPS.md).
-- Rows of one key merge to the set of their marks, which is the OR of their masks. Whoever inserts names the masks:
-- the bytes follow from them. Parts that are there are rewritten in the background, and read from the masks until then.
ALTER TABLE visits ADD COLUMN IF NOT EXISTS marks SimpleAggregateFunction(groupUniqArrayArray, Array(UInt8))
    DEFAULT arrayConcat(
        arrayMap(minute -> minute * 4, bitPositionsToArray(voids)),
        arrayMap(minute -> minute * 4 + 1, bitPositionsToArray(ins)),
        arrayMap(minute -> minute * 4 + 2, bitPositionsToArray(outs))
    )
    COMMENT 'minute of the hour * 4 + kind: 0 void, 1 in, 2 out' CODEC(LZ4);

ALTER TABLE visits_by_person ADD COLUMN IF NOT EXISTS marks SimpleAggregateFunction(groupUniqArrayArray, Array(UInt8))
    DEFAULT arrayConcat(
        arrayMap(minute -> minute * 4, bitPositionsToArray(voids)),
        arrayMap(minute -> minute * 4 + 1, bitPositionsToArray(ins)),
        arrayMap(minute -> minute * 4 + 2, bitPositionsToArray(outs))
    )
    COMMENT 'minute of the hour * 4 + kind: 0 void, 1 in, 2 out' CODEC(LZ4);

ALTER TABLE visits MATERIALIZE COLUMN marks SETTINGS mutations_sync = 0;

ALTER TABLE visits_by_person MATERIALIZE COLUMN marks SETTINGS mutations_sync = 0;
