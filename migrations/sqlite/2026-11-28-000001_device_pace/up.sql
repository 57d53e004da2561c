-- How often a device asks is kept in the cache. The binary before this one still uses polled_at and poll_seconds, which go
-- one release later; this one writes neither. SQLite gives a default to a new column alone.
ALTER TABLE one_time_codes DROP COLUMN poll_seconds;
ALTER TABLE one_time_codes ADD COLUMN poll_seconds BIGINT NOT NULL DEFAULT 5;
