DROP TABLE audit_logs;
DROP TABLE usage_records;
DROP TABLE auth_epoch;
DROP TABLE sessions;
DROP TABLE api_keys;
DROP TABLE users;
