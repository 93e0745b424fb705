-- The audit is a chain on the topic lookup.audit; here is its copy, to be asked by SQL, and the anchor that shows when
-- the end of the chain was cut off. seq 0: noted by a program without the chain.
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS role LowCardinality(String);
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS purpose String COMMENT 'a case id or an order number';
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS step LowCardinality(String) COMMENT 'asked, answered, refused';
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS answer_rows Nullable(UInt64);
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS answer_of Nullable(UInt64) COMMENT 'seq of the question';
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS seq UInt64;
ALTER TABLE lookup_audit ADD COLUMN IF NOT EXISTS hash String COMMENT 'of the row in the chain';
