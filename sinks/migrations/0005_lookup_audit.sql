-- Who asked what about whom; written before the answer is read.
CREATE TABLE IF NOT EXISTS lookup_audit
(
    asked_at  DateTime64(3, 'Asia/Ho_Chi_Minh'),
    asker     String,
    question  LowCardinality(String),
    arguments String COMMENT 'JSON'
)
ENGINE = MergeTree
ORDER BY asked_at;
