-- The price ledger: rows are added and never changed, so that a call can name the row that priced it. Of the rows of one
-- region and id, the one with the latest valid_from that is not after the call counts, the newest among equals; where
-- that one is `ended`, there is no price. Pico-dollars per token; NULL = unknown or not offered, 0 = free.
CREATE TABLE model_costs (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    region TEXT NOT NULL,
    model_id TEXT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    ended BOOLEAN NOT NULL,
    input BIGINT,
    output BIGINT,
    cache_write BIGINT,
    cache_write_1h BIGINT,
    cache_read BIGINT,
    long_input BIGINT,
    long_output BIGINT,
    long_cache_write BIGINT,
    long_cache_write_1h BIGINT,
    long_cache_read BIGINT,
    source TEXT NOT NULL CHECK (source IN ('shipped', 'imported', 'manual')),
    created_at TIMESTAMP NOT NULL
);
CREATE INDEX model_costs_key ON model_costs (region, model_id, valid_from, id);
CREATE INDEX model_costs_model ON model_costs (model_id);

-- Sums of calls, by hour, day, week (from Monday) and month, all in UTC. Each call is in three rows of a period: that of its
-- key, that of its person (key_id 0, and '' for what it does not tell apart) and that of everybody (user_id 0), so that
-- what asks for people or for everybody reads few rows. key_id 0 = no key.
CREATE TABLE usage_summaries (
    period_type TEXT NOT NULL,
    detail TEXT NOT NULL CHECK (detail IN ('key', 'person', 'everybody')),
    period_start TIMESTAMP NOT NULL,
    user_id BIGINT NOT NULL,
    key_id BIGINT NOT NULL,
    model_id TEXT NOT NULL,
    region TEXT NOT NULL,
    endpoint_type TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cost_nano_usd BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    duration_count BIGINT NOT NULL,
    first_byte_ms BIGINT NOT NULL,
    first_byte_count BIGINT NOT NULL,
    PRIMARY KEY (period_type, detail, period_start, user_id, key_id, model_id, region, endpoint_type)
) WITHOUT ROWID;
CREATE INDEX usage_summaries_user ON usage_summaries (period_type, detail, user_id, period_start);

-- How far each kind of summary is built, and how far rows and summaries are cleaned up. Who writes usage holds these rows
-- shared, who builds or cleans up holds them alone: that puts the two in order.
CREATE TABLE usage_levels (
    level TEXT PRIMARY KEY NOT NULL CHECK (level IN ('records', 'hourly', 'daily', 'weekly', 'monthly')),
    built_before TIMESTAMP NOT NULL,
    cleaned_before TIMESTAMP NOT NULL
);
INSERT INTO usage_levels (level, built_before, cleaned_before) VALUES
    ('records', '9999-01-01 00:00:00', '2000-01-01 00:00:00'),
    ('hourly', '9999-01-01 00:00:00', '2000-01-01 00:00:00'),
    ('daily', '2000-01-01 00:00:00', '2000-01-01 00:00:00'),
    ('weekly', '1999-12-27 00:00:00', '2000-01-01 00:00:00'),
    ('monthly', '2000-01-01 00:00:00', '2000-01-01 00:00:00');

-- The hours of the rows that are there already.
INSERT INTO usage_summaries
SELECT 'hourly', detail, strftime('%Y-%m-%d %H:00:00', request_time),
       CASE detail WHEN 'everybody' THEN 0 ELSE user_id END,
       CASE detail WHEN 'key' THEN COALESCE(key_id, 0) ELSE 0 END,
       CASE detail WHEN 'person' THEN '' ELSE model_id END,
       CASE detail WHEN 'person' THEN '' ELSE region END,
       CASE detail WHEN 'person' THEN '' ELSE endpoint_type END,
       COUNT(*),
       SUM(CASE WHEN outcome = 'success' THEN 0 ELSE 1 END),
       COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0), COALESCE(SUM(cache_write_tokens), 0),
       COALESCE(SUM(cache_write_1h_tokens), 0), COALESCE(SUM(cache_read_tokens), 0), COALESCE(SUM(cost_nano_usd), 0),
       SUM(CASE WHEN cost_nano_usd IS NULL THEN 1 ELSE 0 END), SUM(CASE WHEN estimated THEN 1 ELSE 0 END),
       COALESCE(SUM(response_time_ms), 0), COUNT(response_time_ms),
       COALESCE(SUM(time_to_first_byte_ms), 0), COUNT(time_to_first_byte_ms)
FROM usage_records
CROSS JOIN (SELECT 'key' AS detail UNION ALL SELECT 'person' UNION ALL SELECT 'everybody')
GROUP BY 2, 3, 4, 5, 6, 7, 8;

CREATE INDEX usage_records_key_time ON usage_records (key_id, request_time, id);
CREATE INDEX usage_records_model_time ON usage_records (model_id, request_time, id);
CREATE INDEX usage_records_region_time ON usage_records (region, request_time, id);
CREATE INDEX usage_records_failed ON usage_records (outcome, request_time, id) WHERE outcome <> 'success';

-- Who runs a job at the moment. Each taking raises the token; whoever finds another token than theirs has lost it.
CREATE TABLE job_leases (
    job TEXT PRIMARY KEY NOT NULL,
    token BIGINT NOT NULL,
    holder TEXT NOT NULL,
    expires_at TIMESTAMP NOT NULL
);

-- Runs of jobs. A slot of a schedule has one run, whichever instance takes it; a run by hand has no slot.
CREATE TABLE job_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    job TEXT NOT NULL,
    slot TIMESTAMP,
    attempt BIGINT NOT NULL,
    token BIGINT NOT NULL,
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    outcome TEXT CHECK (outcome IN ('success', 'failed', 'stopped', 'interrupted')),
    rows BIGINT,
    message TEXT,
    instance TEXT NOT NULL,
    UNIQUE (job, slot)
);
CREATE INDEX job_runs_job ON job_runs (job, id);
