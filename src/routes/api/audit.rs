//! `/api/admin/audit-logs`: what happened, and whether the log of it is whole.

use actix_web::web::Data;
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    page::{Page, write_cursor},
    read_times,
};
use crate::{
    db::{
        Timestamp,
        audit::{self, AuditLogEntry, Filter},
    },
    routes::{error::ApiError, extract::Admin},
    state::Worker,
};

/// Counted exactly up to this.
const COUNT_CAP: i64 = 10_000;
/// Longest name of a type of events.
const LONGEST_TYPE: usize = 64;

/// Which events to list.
#[derive(Debug, Default, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Rows a page, 1 to 500. Default 50.
    pub limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    pub offset: Option<i64>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The person concerned.
    pub user_id: Option<i64>,
    /// Such as sign_in, key_created, user_state_changed.
    pub event_type: Option<String>,
    /// false: refusals only.
    pub success: Option<bool>,
    /// From this time on: RFC 3339, or a date (its start in UTC).
    pub start_date: Option<String>,
    /// Before this time.
    pub end_date: Option<String>,
}

/// Events, newest first.
#[derive(Debug, Default, Serialize, Apiv2Schema)]
pub struct AuditList {
    pub logs: Vec<AuditEntry>,
    /// Exact up to 10000; above, 10000 and `total_is_capped`.
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// Who did what to which object, and how it went.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct AuditEntry {
    pub id: i64,
    #[serde(serialize_with = "super::time")]
    pub created_at: Timestamp,
    pub event_type: String,
    pub user_id: Option<i64>,
    /// user:7, operator, service or anonymous.
    pub actor: String,
    pub provider: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub object: String,
    pub success: bool,
    pub error_code: Option<String>,
    pub metadata: serde_json::Value,
    pub request_id: Option<String>,
    /// SHA-256 over this event and the hash before it.
    pub hash: String,
}

impl From<AuditLogEntry> for AuditEntry {
    fn from(entry: AuditLogEntry) -> Self {
        Self {
            id: entry.id,
            created_at: entry.created_at,
            event_type: entry.event_type,
            user_id: entry.user_id,
            actor: entry.actor,
            provider: entry.provider,
            ip_address: entry.ip_address,
            user_agent: entry.user_agent,
            object: entry.object,
            success: entry.success,
            error_code: entry.error_code,
            metadata: serde_json::from_str(&entry.metadata).unwrap_or_default(),
            request_id: entry.request_id,
            hash: hex::encode(entry.hash),
        }
    }
}

/// What happened
///
/// Sign-ins, changes and refusals, newest first. Nothing here can be changed or removed but by age
/// (`audit.retention_days`).
#[api_v2_operation(tags(Administration), operation_id = "listAuditLogs")]
pub async fn list(
    _admin: Admin,
    query: Query<AuditQuery>,
    worker: Data<Worker>,
) -> Result<Json<AuditList>, ApiError> {
    listed(&worker, query.into_inner()).await.map(Json)
}

/// A page of events.
pub async fn listed(worker: &Worker, query: AuditQuery) -> Result<AuditList, ApiError> {
    let page = Page::read(query.limit, query.offset, query.cursor.as_deref())?;
    let plain = |text: &String| {
        text.len() <= LONGEST_TYPE && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    if !query.event_type.as_ref().is_none_or(plain) {
        let message = "event_type is a word such as sign_in or key_created.";
        return Err(ApiError::parameter("event_type", message));
    }
    let (start, end) = read_times(query.start_date, query.end_date)?;
    let AuditQuery { user_id, event_type, success, .. } = query;
    let filter = Filter { user_id, event_type, success, start, end };
    let before = page.number()?;
    let mut conn = worker.shared.pool.reader().await?;
    let entries = AuditLogEntry::list(&mut conn, &filter, before, page.offset, page.limit).await?;
    let counted = AuditLogEntry::count(&mut conn, &filter, COUNT_CAP + 1).await?;
    let full = i64::try_from(entries.len()).is_ok_and(|count| count == page.limit);
    Ok(AuditList {
        next_cursor: entries.last().filter(|_| full).map(|last| write_cursor(last.id)),
        logs: entries.into_iter().map(AuditEntry::from).collect(),
        total: counted.min(COUNT_CAP),
        total_is_capped: counted > COUNT_CAP,
        limit: page.limit,
        offset: page.offset,
    })
}

/// Whether the log is whole.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct AuditVerdict {
    pub ok: bool,
    /// Events that were looked at.
    pub checked: u64,
    /// The first that is not what was written, or is missing.
    pub first_bad_id: Option<i64>,
}

/// Is the log what was written?
///
/// Walks the chain of hashes. An event that was changed, removed or put in shows.
#[api_v2_operation(tags(Administration), operation_id = "verifyAuditLogs")]
pub async fn verify(_admin: Admin, worker: Data<Worker>) -> Result<Json<AuditVerdict>, ApiError> {
    verdict(&worker).await.map(Json)
}

/// Whether the log is whole.
pub async fn verdict(worker: &Worker) -> Result<AuditVerdict, ApiError> {
    let verdict = audit::verify(&mut worker.shared.pool.reader().await?).await?;
    Ok(AuditVerdict {
        ok: verdict.first_bad_id.is_none(),
        checked: verdict.checked,
        first_bad_id: verdict.first_bad_id,
    })
}
