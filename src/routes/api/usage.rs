//! `GET /api/usage/records`: the caller's own calls.

use actix_web::web::Data;
use chrono::DateTime;
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Query},
};
use serde::{Deserialize, Serialize};

use crate::{
    db::{
        Timestamp,
        usage::{self, COUNT_CAP, Filter, From, UsageRecord},
    },
    routes::{
        api::{
            page::{Page, no_cursor, write_cursor},
            read_times,
        },
        error::ApiError,
        extract::Reader,
    },
    state::Worker,
};

/// Which rows to list. Unknown parameters are refused.
#[derive(Debug, Default, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Rows a page, 1 to 500. Default 50.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The model that was called, exactly.
    model: Option<String>,
    /// The region that was called.
    region: Option<String>,
    /// The API key that was used.
    key_id: Option<i64>,
    /// success, upstream_error, upstream_cut, timeout, client_disconnect, revoked, shutdown or interrupted.
    outcome: Option<String>,
    /// true: successes only.
    success_only: Option<bool>,
    /// From this time on: RFC 3339, or a date (its start in UTC).
    start_date: Option<String>,
    /// Before this time.
    end_date: Option<String>,
}

/// A page of calls, newest first.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Records {
    pub records: Vec<Record>,
    /// Exact up to 10000; above, 10000 and `total_is_capped`.
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// One call.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Record {
    id: i64,
    call_id: String,
    user_id: i64,
    key_id: Option<i64>,
    endpoint_type: String,
    operation: String,
    model_requested: String,
    model_id: String,
    region: String,
    #[serde(serialize_with = "super::time")]
    request_time: Timestamp,
    response_time_ms: Option<i64>,
    time_to_first_byte_ms: Option<i64>,
    streamed: bool,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    cache_write_tokens: Option<i64>,
    cache_write_1h_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    total_tokens: Option<i64>,
    estimated: bool,
    success: bool,
    outcome: String,
    status: Option<i32>,
    error_code: Option<String>,
    error_message: Option<String>,
    upstream_attempts: i32,
    request_id: String,
    stop_reason: Option<String>,
    /// US dollars with nine places; null = the price is not known.
    cost_usd: Option<String>,
    price_id: Option<i64>,
    upstream_request_id: Option<String>,
    client_session_id: Option<String>,
    client_agent_id: Option<String>,
}

impl std::convert::From<UsageRecord> for Record {
    fn from(row: UsageRecord) -> Self {
        let counts =
            [row.input_tokens, row.output_tokens, row.cache_write_tokens, row.cache_read_tokens];
        let known = counts.iter().any(Option::is_some);
        Self {
            id: row.id,
            call_id: row.call_id,
            user_id: row.user_id,
            key_id: row.key_id,
            endpoint_type: row.endpoint_type,
            operation: row.operation,
            model_requested: row.model_requested,
            model_id: row.model_id,
            region: row.region,
            request_time: row.request_time,
            response_time_ms: row.response_time_ms,
            time_to_first_byte_ms: row.time_to_first_byte_ms,
            streamed: row.streamed,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            cache_write_tokens: row.cache_write_tokens,
            cache_write_1h_tokens: row.cache_write_1h_tokens,
            cache_read_tokens: row.cache_read_tokens,
            total_tokens: known.then(|| counts.iter().flatten().sum()),
            estimated: row.estimated,
            success: row.outcome == "success",
            outcome: row.outcome,
            status: row.status,
            error_code: row.error_code,
            error_message: row.error_message,
            upstream_attempts: row.upstream_attempts,
            request_id: row.request_id,
            stop_reason: row.stop_reason,
            cost_usd: row.cost_nano_usd.map(dollars),
            price_id: row.price_id,
            upstream_request_id: row.upstream_request_id,
            client_session_id: row.client_session_id,
            client_agent_id: row.client_agent_id,
        }
    }
}

/// Nano-dollars as dollars with nine places.
fn dollars(nano: i64) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let nano = nano.unsigned_abs();
    format!("{sign}{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// List your own calls
///
/// What each call used and how it ended, newest first. A call appears within a second of its end.
#[api_v2_operation(tags(Usage), operation_id = "listUsageRecords")]
pub async fn records(
    reader: Reader,
    query: Query<ListQuery>,
    worker: Data<Worker>,
) -> Result<Json<Records>, ApiError> {
    let query = query.into_inner();
    let page = Page::read(query.limit, query.offset, query.cursor.as_deref())?;
    let Page { limit, offset, .. } = page;
    let from = match &page.cursor {
        Some(cursor) => read_cursor(cursor).ok_or_else(no_cursor)?,
        None => From::Offset(offset),
    };
    let filter = filter(reader.0.user_id, query)?;
    let mut conn = worker.shared.pool.reader().await?;
    let rows = usage::list(&mut conn, &filter, from, limit).await?;
    let counted = usage::count(&mut conn, &filter).await?;
    let full = rows.len() as i64 == limit;
    let place = |last: &UsageRecord| {
        write_cursor(format!("{}:{}", last.request_time.and_utc().timestamp_millis(), last.id))
    };
    let next_cursor = rows.last().filter(|_| full).map(place);
    Ok(Json(Records {
        records: rows.into_iter().map(Record::from).collect(),
        total: counted.min(COUNT_CAP),
        total_is_capped: counted > COUNT_CAP,
        limit,
        offset,
        next_cursor,
    }))
}

fn filter(user_id: i64, query: ListQuery) -> Result<Filter, ApiError> {
    const OUTCOMES: [&str; 8] = [
        "success",
        "upstream_error",
        "upstream_cut",
        "timeout",
        "client_disconnect",
        "revoked",
        "shutdown",
        "interrupted",
    ];
    let outcome = match (query.outcome, query.success_only.unwrap_or(false)) {
        (Some(outcome), _) if !OUTCOMES.contains(&outcome.as_str()) => {
            return Err(ApiError::parameter(
                "outcome",
                format!("outcome must be one of {}.", OUTCOMES.join(", ")),
            ));
        }
        (Some(outcome), true) if outcome != "success" => {
            return Err(ApiError::parameter(
                "success_only",
                "success_only=true excludes every other outcome.",
            ));
        }
        (outcome, false) => outcome,
        (_, true) => Some("success".to_owned()),
    };
    for (field, text) in [("model", &query.model), ("region", &query.region)] {
        // A NUL is no text to Postgres.
        if text.as_ref().is_some_and(|text| text.len() > 2048 || text.contains('\0')) {
            return Err(ApiError::parameter(field, format!("{field} is no such name.")));
        }
    }
    let (start, end) = read_times(query.start_date, query.end_date)?;
    Ok(Filter {
        user_id: Some(user_id),
        model: query.model,
        region: query.region,
        key_id: query.key_id,
        outcome,
        start,
        end,
    })
}

fn read_cursor(plain: &str) -> Option<From> {
    let (ms, id) = plain.split_once(':')?;
    let time = DateTime::from_timestamp_millis(ms.parse().ok()?)?.naive_utc();
    Some(From::After(time, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_nine_places() {
        assert_eq!(dollars(1_234_000), "0.001234000");
        assert_eq!(dollars(12_000_000_001), "12.000000001");
        assert_eq!(dollars(-1), "-0.000000001");
    }

    #[test]
    fn a_cursor_reads_back_and_others_do_not() {
        let time = DateTime::from_timestamp_millis(1_763_717_400_123).unwrap().naive_utc();
        assert!(matches!(read_cursor("1763717400123:7"), Some(From::After(t, 7)) if t == time));
        for text in ["", "x", "1:", ":1", "999999999999999999999:1"] {
            assert!(read_cursor(text).is_none(), "{text}");
        }
    }
}
