ALTER TABLE one_time_codes ADD COLUMN polled_at TIMESTAMP;
ALTER TABLE one_time_codes ADD COLUMN poll_seconds BIGINT NOT NULL DEFAULT 5;
