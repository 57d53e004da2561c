-- How often a device asks is kept in the cache.
ALTER TABLE one_time_codes DROP COLUMN polled_at;
ALTER TABLE one_time_codes DROP COLUMN poll_seconds;
