-- What was refused, as it came. The key is the place in the source, so a repeated record is one row.
CREATE TABLE IF NOT EXISTS rejected
(
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_index     UInt32 COMMENT 'place in the array of the record',
    reason           LowCardinality(String),
    detail           String,
    arrival          UInt64 COMMENT 'ms',
    attempts         UInt32,
    value            String COMMENT 'the original bytes'
)
ENGINE = ReplacingMergeTree
ORDER BY (source_topic, source_partition, source_offset, source_index);

-- The version of each case that stands.
CREATE VIEW IF NOT EXISTS cases_current AS
SELECT *
FROM cases
WHERE (topic, partition, offset) NOT IN
    (SELECT source_topic, source_partition, source_offset FROM rejected)
ORDER BY version DESC, offset ASC
LIMIT 1 BY case_id;
