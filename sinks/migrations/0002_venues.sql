-- The register of venues, the newest record of a code. Joined, not a dictionary: a dictionary answers with
-- what it loaded last, needs a password in its definition, and the register is small.
CREATE TABLE IF NOT EXISTS venues
(
    code        String,
    name        String,
    sector      LowCardinality(String),
    district    LowCardinality(String),
    department  LowCardinality(String),
    parent      String COMMENT 'empty: none',
    dwell       UInt16 COMMENT 'minutes',
    capacity    Nullable(UInt32),
    opens       String COMMENT 'HH:MM, empty: not told',
    closes      String,
    lat         Nullable(Float64),
    lon         Nullable(Float64),
    closed_at   Nullable(UInt64) COMMENT 'ms',
    recorded_at UInt64 COMMENT 'ms, the time of the Kafka record: the newest stands'
)
ENGINE = ReplacingMergeTree(recorded_at)
ORDER BY code;
