-- How often a device asks is kept in the cache. The binary before this one still uses polled_at and poll_seconds, which go
-- one release later; this one writes neither.
ALTER TABLE one_time_codes ALTER COLUMN poll_seconds SET DEFAULT 5;
