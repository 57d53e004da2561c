ALTER TABLE one_time_codes ALTER COLUMN poll_seconds DROP DEFAULT;
