//! The audit log: append-only. Each row's hash covers the row and the hash before it, so that a changed, removed or
//! inserted row shows; `audit_chain` keeps both ends. An event of a change is written in the change's transaction, or
//! the change does not happen.

mod chain;
mod taken;

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, Timestamp, in_audited_transaction, on_conn,
    schema::{audit_chain, audit_logs},
};

pub(crate) use chain::Append;
pub use chain::{Verdict, verify};
pub(crate) use taken::told;

/// Who does something, and from where. What is done by the service itself or on the command line has an actor alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// `user:7`, `operator`, `service`, or `anonymous`.
    pub actor: String,
    /// `api_key:3` or `session:…`.
    pub credential: Option<String>,
    pub ip_address: Option<String>,
    /// At most 256 characters.
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
}

impl Origin {
    /// Somebody at the command line, on the database directly.
    pub fn operator() -> Self {
        Self { actor: "operator".to_owned(), ..Self::default() }
    }

    /// The service, on its own account.
    pub fn service() -> Self {
        Self { actor: "service".to_owned(), ..Self::default() }
    }
}

/// Every type of events, in the order of the alphabet.
pub const TYPES: &[&str] = &[
    "admin_denied",
    "admin_gained",
    "admin_lost",
    "audit_retention",
    "command_line_allowed",
    "device_decided",
    "job_run_asked",
    "key_created",
    "key_expired",
    "key_refused",
    "key_renamed",
    "key_revoked",
    "migration",
    "price_ended",
    "price_set",
    "prices_imported",
    "prices_seeded",
    "rate_limited",
    "refresh_refused",
    "refresh_reused",
    "secrets_in_use",
    "session_created",
    "session_ended",
    "sessions_ended_by_admin",
    "sessions_ended_by_operator",
    "settings_reloaded",
    "sign_in",
    "sign_in_code_reused",
    "sign_in_failed",
    "sign_out",
    "stream_cut",
    "usage_repriced",
    "usage_retention",
    "user_created",
    "user_state_changed",
];

/// Something worth keeping: who did what to which object, and how it went.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub at: Timestamp,
    pub event_type: &'static str,
    /// The person concerned.
    pub user_id: Option<i64>,
    /// The identity provider, where one has a part in it.
    pub provider: Option<&'a str>,
    /// What was changed: `user:7`, `api_key:3`, `schema`.
    pub object: String,
    /// Why it was refused; `None` = it was done.
    pub error: Option<&'a str>,
    pub metadata: serde_json::Value,
    pub origin: &'a Origin,
}

impl<'a> Event<'a> {
    /// An event about nobody and nothing yet; for struct update.
    pub fn new(at: Timestamp, event_type: &'static str, origin: &'a Origin) -> Self {
        Self {
            at,
            event_type,
            user_id: None,
            provider: None,
            object: String::new(),
            error: None,
            metadata: serde_json::json!({}),
            origin,
        }
    }
}

/// An event could not be written, so what it records must not happen.
#[derive(Debug, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct Unwritten(#[source] pub(super) diesel::result::Error);

impl From<Unwritten> for DbError {
    fn from(Unwritten(error): Unwritten) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error};
        match error {
            Error::DatabaseError(
                Kind::ClosedConnection | Kind::UnableToSendCommand | Kind::SerializationFailure,
                _,
            )
            | Error::BrokenTransactionManager => error.into(),
            error => match Self::from(error) {
                Self::ReadOnly => Self::ReadOnly,
                other => Self::Audit(Box::new(other)),
            },
        }
    }
}

/// Appends an event that stands alone.
///
/// # Errors
/// [`DbError`] if it could not be written.
pub async fn record(conn: &mut Conn, event: Event<'_>) -> Result<(), DbError> {
    in_audited_transaction!(conn, c => {
        c.append(event).await?;
        Ok::<(), DbError>(())
    })
}

/// One event as it is kept.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit_logs)]
pub struct AuditLogEntry {
    pub id: i64,
    pub created_at: Timestamp,
    pub event_type: String,
    pub user_id: Option<i64>,
    pub actor: String,
    pub provider: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub object: String,
    pub success: bool,
    pub error_code: Option<String>,
    /// JSON.
    pub metadata: String,
    pub request_id: Option<String>,
    pub hash: Vec<u8>,
}

/// Which events to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub user_id: Option<i64>,
    pub event_type: Option<String>,
    pub success: Option<bool>,
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Exclusive.
    pub end: Option<Timestamp>,
}

macro_rules! filtered {
    ($filter:expr) => {{
        let mut query = audit_logs::table.into_boxed();
        if let Some(user_id) = $filter.user_id {
            query = query.filter(audit_logs::user_id.eq(user_id));
        }
        if let Some(event_type) = &$filter.event_type {
            query = query.filter(audit_logs::event_type.eq(event_type));
        }
        if let Some(success) = $filter.success {
            query = query.filter(audit_logs::success.eq(success));
        }
        if let Some(start) = $filter.start {
            query = query.filter(audit_logs::created_at.ge(start));
        }
        if let Some(end) = $filter.end {
            query = query.filter(audit_logs::created_at.lt(end));
        }
        query
    }};
}

impl AuditLogEntry {
    /// Events that pass the filter, newest first: `limit` of them, those with ids below `before` if it is given, after
    /// passing over `offset`.
    pub async fn list(
        conn: &mut Conn,
        filter: &Filter,
        before: Option<i64>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        Ok(on_conn!(conn, c => {
            let mut query = filtered!(filter);
            if let Some(before) = before {
                query = query.filter(audit_logs::id.lt(before));
            }
            query
                .order(audit_logs::id.desc())
                .offset(offset)
                .limit(limit)
                .select(Self::as_select())
                .load(c)
                .await
        })?)
    }

    /// How many events pass the filter; counting stops after `cap`.
    pub async fn count(conn: &mut Conn, filter: &Filter, cap: i64) -> Result<i64, DbError> {
        Ok(on_conn!(conn, c => {
            let some = filtered!(filter).select(audit_logs::id).limit(cap);
            let ids: Vec<i64> = some.load(c).await?;
            Ok::<i64, diesel::result::Error>(i64::try_from(ids.len()).unwrap_or(cap))
        })?)
    }

    /// Who changed prices at these times: a change of the ledger and its event have the same. Those whose events are no
    /// longer kept are missing.
    pub async fn actors_of_prices(
        conn: &mut Conn,
        times: &[Timestamp],
    ) -> Result<HashMap<Timestamp, String>, DbError> {
        const CHANGES: [&str; 4] = ["price_set", "price_ended", "prices_imported", "prices_seeded"];
        let query = audit_logs::table
            .filter(audit_logs::event_type.eq_any(CHANGES))
            .filter(audit_logs::created_at.eq_any(times))
            .select((audit_logs::created_at, audit_logs::actor));
        let found: Vec<(Timestamp, String)> = on_conn!(conn, c => query.load(c).await)?;
        Ok(found.into_iter().collect())
    }

    /// The newest event of a type.
    pub async fn newest(conn: &mut Conn, event_type: &str) -> Result<Option<Self>, DbError> {
        let query = audit_logs::table
            .filter(audit_logs::event_type.eq(event_type))
            .order(audit_logs::id.desc());
        let found = on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional());
        Ok(found?)
    }
}

/// Removes events from before `end`, moves the start of the chain behind them, and leaves an event that says so; all in
/// one transaction. Answers how many were removed.
pub async fn retain(conn: &mut Conn, end: Timestamp, now: Timestamp) -> Result<usize, DbError> {
    let origin = Origin::service();
    in_audited_transaction!(conn, c => {
        // Everything before the first event that is to stay: one that carries a wrong time takes no others with it.
        let first_kept: Option<i64> = audit_logs::table
            .filter(audit_logs::created_at.ge(end))
            .select(audit_logs::id)
            .order(audit_logs::id)
            .first(c)
            .await
            .optional()?;
        let last: Option<(i64, Vec<u8>)> = audit_logs::table
            .filter(audit_logs::id.lt(first_kept.unwrap_or(i64::MAX)))
            .select((audit_logs::id, audit_logs::hash))
            .order(audit_logs::id.desc())
            .first(c)
            .await
            .optional()?;
        let Some((start_id, start_hash)) = last else { return Ok::<usize, DbError>(0) };
        let removed =
            diesel::delete(audit_logs::table.filter(audit_logs::id.le(start_id))).execute(c).await?;
        diesel::update(audit_chain::table)
            .set((audit_chain::start_id.eq(start_id), audit_chain::start_hash.eq(&start_hash)))
            .execute(c)
            .await?;
        c.append(Event {
            object: "audit_logs".to_owned(),
            metadata: serde_json::json!({
                "removed": removed,
                "through_id": start_id,
                "through_hash": hex::encode(&start_hash),
            }),
            ..Event::new(now, RETENTION, &origin)
        })
        .await?;
        Ok(removed)
    })
}

/// The event that [`retain`] leaves; the newest one vouches for the start of the chain.
const RETENTION: &str = "audit_retention";

#[cfg(test)]
mod tests {
    use super::TYPES;

    /// The second arguments of `Event::new(…)` in a text, where they are written out.
    fn named(text: &str) -> Vec<String> {
        let calls = text.split("Event::new(").skip(1);
        let second =
            calls.filter_map(|call| call.split_once(',')?.1.trim_start().strip_prefix('"'));
        second.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
    }

    fn read(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.extend(named(&std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn every_type_of_event_that_is_written_is_listed() {
        let mut found = Vec::new();
        read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);

        assert!(found.len() > 20, "{found:?}");
        for name in &found {
            assert!(TYPES.contains(&name.as_str()), "{name} is missing in TYPES");
        }
        assert!(TYPES.is_sorted());
    }
}
