//! Usage rows: one for every call that reached upstream.

use std::sync::Arc;

use diesel::{SqliteConnection, prelude::*};
use serde::{Deserialize, Serialize};

use super::{Conn, DbError, Timestamp, on_conn, schema::usage_records};

/// Rows per statement: 31 columns each, well below what either database binds at once.
const ROWS_PER_STATEMENT: usize = 500;

/// A finished call, as the journal keeps it and the database stores it.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Insertable)]
#[diesel(table_name = usage_records, treat_none_as_default_value = false)]
pub struct NewUsage {
    /// UUID version 7; a row is written once, however often it is sent.
    pub call_id: String,
    pub user_id: i64,
    pub key_id: Option<i64>,
    pub endpoint_type: String,
    pub operation: String,
    pub model_requested: String,
    pub model_id: String,
    pub region_requested: Option<String>,
    pub region: String,
    pub request_time: Timestamp,
    pub response_time_ms: Option<i64>,
    pub time_to_first_byte_ms: Option<i64>,
    pub streamed: bool,
    /// Tokens; `None` = not known, 0 = known to be none.
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    /// All cache writes; `cache_write_1h_tokens` is the part of them kept for an hour.
    pub cache_write_tokens: Option<i64>,
    pub cache_write_1h_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub status: Option<i32>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub upstream_attempts: i32,
    pub request_id: String,
    pub stop_reason: Option<String>,
    /// Whole nano-dollars; `None` = the price is not known.
    pub cost_nano_usd: Option<i64>,
    pub price_id: Option<i64>,
    pub upstream_request_id: Option<String>,
    pub client_session_id: Option<String>,
    pub client_agent_id: Option<String>,
}

/// A row as it is read back.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = usage_records)]
pub struct UsageRecord {
    pub id: i64,
    pub call_id: String,
    pub user_id: i64,
    pub key_id: Option<i64>,
    pub endpoint_type: String,
    pub operation: String,
    pub model_requested: String,
    pub model_id: String,
    pub region: String,
    pub request_time: Timestamp,
    pub response_time_ms: Option<i64>,
    pub time_to_first_byte_ms: Option<i64>,
    pub streamed: bool,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_write_tokens: Option<i64>,
    pub cache_write_1h_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub status: Option<i32>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub upstream_attempts: i32,
    pub request_id: String,
    pub stop_reason: Option<String>,
    pub cost_nano_usd: Option<i64>,
    pub price_id: Option<i64>,
    pub upstream_request_id: Option<String>,
    pub client_session_id: Option<String>,
    pub client_agent_id: Option<String>,
}

/// Writes rows in one transaction; a row whose call is there already is left as it is. Answers how many were new.
///
/// # Errors
/// [`DbError`]; then none of the rows was written.
pub async fn insert_all(conn: &mut Conn, rows: Arc<Vec<NewUsage>>) -> Result<usize, DbError> {
    match conn {
        Conn::Postgres(object) => {
            let connection: &mut diesel_async::AsyncPgConnection = &mut *object;
            diesel_async::AsyncConnection::transaction(connection, async |c| {
                let mut written = 0;
                for chunk in rows.chunks(ROWS_PER_STATEMENT) {
                    let insert = diesel::insert_into(usage_records::table)
                        .values(chunk)
                        .on_conflict(usage_records::call_id)
                        .do_nothing();
                    written += diesel_async::RunQueryDsl::execute(insert, c).await?;
                }
                Ok(written)
            })
            .await
        }
        // diesel-async has no multi-row insert for SQLite: one hop onto the connection's own thread a batch.
        Conn::Sqlite(object) => {
            let insert = move |connection: &mut SqliteConnection| {
                connection.immediate_transaction(|c| {
                    let mut written = 0;
                    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
                        let insert = diesel::insert_into(usage_records::table)
                            .values(chunk)
                            .on_conflict(usage_records::call_id)
                            .do_nothing();
                        written += diesel::RunQueryDsl::execute(insert, c)?;
                    }
                    Ok(written)
                })
            };
            Ok(object.spawn_blocking(insert).await?)
        }
    }
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub user_id: Option<i64>,
    pub model: Option<String>,
    pub region: Option<String>,
    pub key_id: Option<i64>,
    pub outcome: Option<String>,
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Exclusive.
    pub end: Option<Timestamp>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Offset(i64),
    /// After the row with this time and id, in the order of the list.
    After(Timestamp, i64),
}

/// Above this, a list's total is not counted any further.
pub const COUNT_CAP: i64 = 10_000;

macro_rules! filtered {
    ($filter:expr) => {{
        let filter = $filter;
        let mut query = usage_records::table.into_boxed();
        if let Some(user_id) = filter.user_id {
            query = query.filter(usage_records::user_id.eq(user_id));
        }
        if let Some(model) = filter.model.as_deref() {
            query = query.filter(usage_records::model_id.eq(model));
        }
        if let Some(region) = filter.region.as_deref() {
            query = query.filter(usage_records::region.eq(region));
        }
        if let Some(key_id) = filter.key_id {
            query = query.filter(usage_records::key_id.eq(key_id));
        }
        if let Some(outcome) = filter.outcome.as_deref() {
            query = query.filter(usage_records::outcome.eq(outcome));
        }
        if let Some(start) = filter.start {
            query = query.filter(usage_records::request_time.ge(start));
        }
        if let Some(end) = filter.end {
            query = query.filter(usage_records::request_time.lt(end));
        }
        query
    }};
}

/// A page of rows, newest first.
pub async fn list(
    conn: &mut Conn,
    filter: &Filter,
    from: From,
    limit: i64,
) -> Result<Vec<UsageRecord>, DbError> {
    Ok(on_conn!(conn, c => {
        let mut query = filtered!(filter);
        match from {
            From::Offset(offset) => query = query.offset(offset),
            From::After(time, id) => {
                let same_time = usage_records::request_time.eq(time).and(usage_records::id.lt(id));
                query = query
                    .filter(usage_records::request_time.le(time))
                    .filter(usage_records::request_time.lt(time).or(same_time));
            }
        }
        let page = query
            .order((usage_records::request_time.desc(), usage_records::id.desc()))
            .limit(limit)
            .select(UsageRecord::as_select());
        diesel_async::RunQueryDsl::load(page, c).await
    })?)
}

/// The number of rows, counted up to one more than [`COUNT_CAP`].
pub async fn count(conn: &mut Conn, filter: &Filter) -> Result<i64, DbError> {
    let ids: Vec<i64> = on_conn!(conn, c => {
        let first = filtered!(filter).select(usage_records::id).limit(COUNT_CAP + 1);
        diesel_async::RunQueryDsl::load(first, c).await
    })?;
    Ok(ids.len() as i64)
}
