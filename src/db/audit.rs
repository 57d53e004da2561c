//! The audit log: append-only, each row's hash covers the one before it, so that a changed or removed row
//! shows.

use aws_lc_rs::digest;
use diesel::prelude::*;
use serde_json::json;

use super::{Timestamp, schema::audit_logs};

/// Key of the advisory lock that makes appends one after another on Postgres: "audit" in ASCII.
pub(crate) const LOCK: i64 = 0x0061_7564_6974;

/// Something worth keeping: who did what to which object.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub at: Timestamp,
    pub event_type: &'a str,
    /// The person concerned.
    pub user_id: Option<i64>,
    /// Who did it: `operator` for the command line, else `user:ID`.
    pub actor: &'a str,
    /// What was changed: `user:7`, `api_key:3`, `schema`.
    pub object: String,
    pub metadata: serde_json::Value,
}

#[derive(Debug, Insertable)]
#[diesel(table_name = audit_logs)]
pub struct NewEntry {
    pub created_at: Timestamp,
    pub event_type: String,
    pub user_id: Option<i64>,
    pub actor: String,
    pub object: String,
    pub success: bool,
    pub metadata: String,
    pub hash: Vec<u8>,
}

impl NewEntry {
    /// The row for an event that follows the row with the hash `previous`.
    pub fn after(previous: Option<Vec<u8>>, event: Event<'_>) -> Self {
        let metadata = event.metadata.to_string();
        let covered = json!([
            event.at.and_utc().timestamp_millis(),
            event.event_type,
            event.user_id,
            event.actor,
            event.object,
            true,
            metadata
        ]);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&previous.unwrap_or_default());
        context.update(covered.to_string().as_bytes());
        Self {
            created_at: event.at,
            event_type: event.event_type.to_owned(),
            user_id: event.user_id,
            actor: event.actor.to_owned(),
            object: event.object,
            success: true,
            metadata,
            hash: context.finish().as_ref().to_vec(),
        }
    }
}

/// Inside a transaction: appends one event. Appends are serialised, by SQLite's single writer and by an
/// advisory lock on Postgres.
macro_rules! append {
    ($c:expr, $event:expr) => {{
        use $crate::db::{audit, schema::audit_logs};
        audit::Serialise::serialise($c).await?;
        let newest = audit_logs::table.select(audit_logs::hash).order(audit_logs::id.desc());
        let previous: Option<Vec<u8>> =
            diesel_async::RunQueryDsl::first(newest, $c).await.optional()?;
        let entry = audit::NewEntry::after(previous, $event);
        let insert = diesel::insert_into(audit_logs::table).values(entry);
        diesel_async::RunQueryDsl::execute(insert, $c).await?;
    }};
}
pub(crate) use append;

/// Takes the lock that orders appends, until the transaction ends.
pub(crate) trait Serialise {
    async fn serialise(&mut self) -> QueryResult<()>;
}

impl Serialise for diesel_async::AsyncPgConnection {
    async fn serialise(&mut self) -> QueryResult<()> {
        let sql = format!("SELECT pg_advisory_xact_lock({LOCK})");
        diesel_async::SimpleAsyncConnection::batch_execute(self, &sql).await
    }
}

impl Serialise for super::SqliteAsync {
    /// Its transactions are serialised by the write lock.
    async fn serialise(&mut self) -> QueryResult<()> {
        Ok(())
    }
}

/// Appends an event that stands alone, such as a migration.
///
/// # Errors
/// [`super::DbError`] if it could not be written.
pub async fn record(conn: &mut super::Conn, event: Event<'_>) -> Result<(), super::DbError> {
    super::in_transaction!(conn, c => {
        append!(c, event);
        Ok::<(), super::DbError>(())
    })
}
