CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    email TEXT,
    email_verified BOOLEAN NOT NULL,
    display_name TEXT,
    state TEXT NOT NULL CHECK (state IN ('active', 'disabled', 'expired')),
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    last_login_at TIMESTAMP,
    last_idp_check_at TIMESTAMP,
    provider_refresh_token BLOB,
    UNIQUE (provider, subject)
);
CREATE INDEX users_email ON users (email);

CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    digest BLOB NOT NULL UNIQUE,
    pepper_id TEXT NOT NULL,
    hint TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    last_used_at TIMESTAMP,
    expires_at TIMESTAMP,
    revoked_at TIMESTAMP
);
CREATE INDEX api_keys_user ON api_keys (user_id);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL CHECK (kind IN ('browser', 'cli')),
    digest BLOB UNIQUE,
    created_at TIMESTAMP NOT NULL,
    last_seen_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP,
    ip_address TEXT,
    user_agent TEXT
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Bumped in the transaction of every change that takes access away, so that each instance notices it.
CREATE TABLE auth_epoch (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO auth_epoch (id, epoch) VALUES (1, 0);

-- Rows outlive the people and keys that they name, hence no foreign keys.
CREATE TABLE usage_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    call_id TEXT NOT NULL UNIQUE,
    user_id BIGINT NOT NULL,
    key_id BIGINT,
    endpoint_type TEXT NOT NULL,
    operation TEXT NOT NULL,
    model_requested TEXT NOT NULL,
    model_id TEXT NOT NULL,
    region_requested TEXT,
    region TEXT NOT NULL,
    request_time TIMESTAMP NOT NULL,
    response_time_ms BIGINT,
    time_to_first_byte_ms BIGINT,
    streamed BOOLEAN NOT NULL,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cache_write_tokens BIGINT,
    cache_write_1h_tokens BIGINT,
    cache_read_tokens BIGINT,
    estimated BOOLEAN NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    error_code TEXT,
    error_message TEXT,
    upstream_attempts INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    stop_reason TEXT,
    cost_nano_usd BIGINT,
    price_id BIGINT,
    upstream_request_id TEXT,
    client_session_id TEXT,
    client_agent_id TEXT
);
CREATE INDEX usage_records_user_time ON usage_records (user_id, request_time, id);
CREATE INDEX usage_records_time ON usage_records (request_time, id);

CREATE TABLE audit_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    event_type TEXT NOT NULL,
    user_id BIGINT,
    actor TEXT NOT NULL,
    provider TEXT,
    ip_address TEXT,
    user_agent TEXT,
    object TEXT NOT NULL,
    success BOOLEAN NOT NULL,
    error_code TEXT,
    metadata TEXT NOT NULL,
    request_id TEXT,
    hash BLOB NOT NULL
);
CREATE INDEX audit_logs_time ON audit_logs (created_at);
CREATE INDEX audit_logs_user ON audit_logs (user_id, created_at);
CREATE INDEX audit_logs_event ON audit_logs (event_type, created_at);
