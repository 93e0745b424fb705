-- In the table by person a column of venues as plain text: of a LowCardinality one the dictionary is read once a
-- granule, thousands of codes for a few rows of each person. Marks of 1,377 persons: 190 instead of 300 ms, of one
-- 7 instead of 8, 6.16 instead of 6.23 bytes a row (46 million rows). In `visits` a granule holds few venues:
-- there it stays. Parts that are there are rewritten in the background, and read meanwhile.
ALTER TABLE visits_by_person MODIFY COLUMN venue String CODEC(ZSTD(1)) SETTINGS alter_sync = 0;
