-- Every accepted version of every case. All versions are kept, and where each stood in the topic: the cases
-- role decides which records are refused (an equal version with other content, another subject) and says so
-- in cases.rejected, after this row is written; `cases_current` leaves those out.
CREATE TABLE IF NOT EXISTS cases
(
    case_id      String,
    version      UInt32,
    topic        LowCardinality(String),
    partition    UInt32,
    offset       UInt64,
    status       LowCardinality(String) COMMENT 'confirmed or withdrawn',
    person       Nullable(UInt64),
    venue        LowCardinality(String) COMMENT 'of a place-time; empty: a person',
    window_start UInt64 COMMENT 'ms',
    window_end   UInt64 COMMENT 'ms',
    min_overlap  UInt16 COMMENT 'minutes',
    linger       UInt16 COMMENT 'minutes',
    recorded_at  UInt64 COMMENT 'ms, the time of the Kafka record'
)
ENGINE = ReplacingMergeTree
ORDER BY (case_id, version, topic, partition, offset);

-- One row per exposure and version; the highest version stands (FINAL, and only then the status).
CREATE TABLE IF NOT EXISTS exposures
(
    case_id      String,
    person       UInt64,
    venue        LowCardinality(String),
    date         Date32,
    sector       LowCardinality(String),
    department   LowCardinality(String),
    first        UInt64 COMMENT 'ms, start of the first overlap in that date',
    last         UInt64 COMMENT 'ms, end of the last overlap in that date',
    minutes      UInt32,
    status       LowCardinality(String) COMMENT 'exposed or withdrawn',
    case_version UInt32,
    evidence     UInt32,
    version      UInt64,
    exposure_id  String ALIAS substring(lower(hex(SHA256(concat(case_id, '|', leftPad(lower(hex(person)), 16, '0'), '|', venue, '|', toString(date))))), 1, 32)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (case_id, person, venue, date);

CREATE TABLE IF NOT EXISTS venue_warnings
(
    case_id    String,
    venue      LowCardinality(String),
    date       Date32,
    department LowCardinality(String),
    presences  Array(Tuple(UInt64, UInt64)) COMMENT 'ms, without linger',
    contacts   UInt32,
    status     LowCardinality(String) COMMENT 'exposed or withdrawn',
    version    UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (case_id, venue, date);
