-- What the rule for admins said when it was last applied: at start, at a sign-in, at a re-check.
ALTER TABLE users ADD COLUMN admin BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE users ADD COLUMN idp_check_due_at TIMESTAMP;
CREATE INDEX users_created ON users (created_at);
CREATE INDEX users_last_login ON users (last_login_at);
CREATE INDEX users_admin ON users (admin);
CREATE INDEX users_idp_check ON users (idp_check_due_at);

-- Whether the end of a key by time is in the audit log.
ALTER TABLE api_keys ADD COLUMN expiry_noted BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX api_keys_expiry ON api_keys (expires_at);

-- The tokens of one session are a family; each is used once, and names the one before it.
CREATE TABLE refresh_tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    family TEXT NOT NULL REFERENCES sessions (id),
    parent BIGINT,
    user_id BIGINT NOT NULL REFERENCES users (id),
    issued_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    used_at TIMESTAMP,
    revoked_at TIMESTAMP
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);

-- Secrets that work once and for minutes, by digest: states of sign-ins that came back, codes for the command line,
-- device codes.
CREATE TABLE one_time_codes (
    digest BLOB PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('state', 'code', 'device')),
    user_code BLOB UNIQUE,
    challenge TEXT,
    redirect_uri TEXT,
    user_id BIGINT REFERENCES users (id),
    created_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    denied_at TIMESTAMP,
    used_at TIMESTAMP,
    polled_at TIMESTAMP,
    poll_seconds BIGINT NOT NULL,
    session_id TEXT,
    ip_address TEXT,
    user_agent TEXT
);
CREATE INDEX one_time_codes_expiry ON one_time_codes (expires_at);

-- The ends of the audit log's hash chain. Its one row is the lock that puts appends one after another; the chain
-- begins after `start_id`, which retention moves. What is there already is kept, before the start.
CREATE TABLE audit_chain (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    start_id BIGINT NOT NULL,
    start_hash BLOB NOT NULL,
    last_id BIGINT NOT NULL,
    last_hash BLOB NOT NULL
);
INSERT INTO audit_chain (id, start_id, start_hash, last_id, last_hash)
SELECT 1, last.id, last.hash, last.id, last.hash
FROM (
    SELECT COALESCE(MAX(id), 0) AS id,
           COALESCE((SELECT hash FROM audit_logs ORDER BY id DESC LIMIT 1), X'') AS hash
    FROM audit_logs
) AS last;
