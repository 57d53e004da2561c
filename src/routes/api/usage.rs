//! `/api/usage/records` and `/api/usage/export`, and the same of everybody for admins.

use actix_web::{HttpRequest, HttpResponse, Responder, body::BoxBody, web::Data};
use chrono::DateTime;
use paperclip::{
    actix::{
        Apiv2Schema, OperationModifier, api_v2_operation,
        web::{Json, Query},
    },
    v2::{
        models::{DefaultOperationRaw, DefaultSchemaRaw},
        schema::Apiv2Schema as Schema,
    },
};
use serde::{Deserialize, Serialize};

use super::export::{self, Format};
use crate::{
    db::{
        Conn, Timestamp,
        usage::{self, COUNT_CAP, Filter, From, UsageRecord},
    },
    pricing::money::dollars,
    routes::{
        api::{
            page::{Page, no_cursor, write_cursor},
            read_times,
        },
        error::ApiError,
        extract::{Admin, Reader},
    },
    state::Worker,
};

/// What every list of calls can be narrowed to.
#[derive(Debug, Default)]
pub struct Given {
    pub user_id: Option<i64>,
    pub model: Option<String>,
    pub region: Option<String>,
    pub key_id: Option<i64>,
    pub outcome: Option<String>,
    pub success_only: Option<bool>,
    pub start_date: Option<String>,
    pub end_date: Option<String>,
}

/// A query with these filters and some members of its own; one struct each, as unknown parameters are refused.
macro_rules! query {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: Option<$kind:ident>,)* } user: $user:expr) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize, Apiv2Schema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* $field: Option<$kind>,)*
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

        impl $name {
            fn given(&mut self) -> Given {
                let user_of: fn(&Self) -> Option<i64> = $user;
                Given {
                    user_id: user_of(self),
                    model: self.model.take(),
                    region: self.region.take(),
                    key_id: self.key_id,
                    outcome: self.outcome.take(),
                    success_only: self.success_only,
                    start_date: self.start_date.take(),
                    end_date: self.end_date.take(),
                }
            }
        }
    };
}

query! {
    /// Which of your own calls to list. Unknown parameters are refused.
    RecordsQuery {
        /// Rows a page, 1 to 500. Default 50.
        limit: Option<i64>,
        /// Rows to pass over, up to 10000; beyond, use `cursor`.
        offset: Option<i64>,
        /// `next_cursor` of the page before.
        cursor: Option<String>,
        /// csv or jsonl: all of them as a file, as `/api/usage/export` answers.
        format: Option<String>,
    }
    user: |_| None
}
query! {
    /// Which calls to list. Unknown parameters are refused.
    AdminRecordsQuery {
        /// Rows a page, 1 to 500. Default 50.
        limit: Option<i64>,
        /// Rows to pass over, up to 10000; beyond, use `cursor`.
        offset: Option<i64>,
        /// `next_cursor` of the page before.
        cursor: Option<String>,
        /// csv or jsonl: all of them as a file, as `/api/admin/usage/export` answers.
        format: Option<String>,
        /// The person who called.
        user_id: Option<i64>,
    }
    user: |query| query.user_id
}
query! {
    /// Which of your own calls to export. Unknown parameters are refused.
    ExportQuery {
        /// csv (default) or jsonl: JSON, a line each.
        format: Option<String>,
    }
    user: |_| None
}
query! {
    /// Which calls to export. Unknown parameters are refused.
    AdminExportQuery {
        /// csv (default) or jsonl: JSON, a line each.
        format: Option<String>,
        /// The person who called.
        user_id: Option<i64>,
    }
    user: |query| query.user_id
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
    /// US dollars with nine places; null = not known, as a price or the tokens are not.
    cost_usd: Option<String>,
    /// The row of the price ledger that the cost comes from.
    price_id: Option<i64>,
    upstream_request_id: Option<String>,
    client_session_id: Option<String>,
    client_agent_id: Option<String>,
}

impl std::convert::From<UsageRecord> for Record {
    fn from(row: UsageRecord) -> Self {
        let total_tokens = row.total_tokens();
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
            total_tokens,
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

impl Record {
    /// For a spreadsheet: text that it would take for a formula begins with an apostrophe (SEC-52).
    pub fn neutralised(mut self) -> Self {
        let texts = [
            &mut self.call_id,
            &mut self.endpoint_type,
            &mut self.operation,
            &mut self.model_requested,
            &mut self.model_id,
            &mut self.region,
            &mut self.outcome,
            &mut self.request_id,
        ];
        let optional = [
            &mut self.error_code,
            &mut self.error_message,
            &mut self.stop_reason,
            &mut self.upstream_request_id,
            &mut self.client_session_id,
            &mut self.client_agent_id,
        ];
        for text in texts.into_iter().chain(optional.into_iter().flatten()) {
            if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
                text.insert(0, '\'');
            }
        }
        self
    }
}

/// A page, or a file.
pub enum Answer {
    Page(Json<Records>),
    File(HttpResponse),
}

impl Responder for Answer {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Page(page) => page.respond_to(request).map_into_boxed_body(),
            Self::File(file) => file,
        }
    }
}

impl Schema for Answer {
    fn raw_schema() -> DefaultSchemaRaw {
        Records::raw_schema()
    }
}

impl OperationModifier for Answer {
    fn update_response(operation: &mut DefaultOperationRaw) {
        Json::<Records>::update_response(operation);
    }
    fn update_definitions(map: &mut std::collections::BTreeMap<String, DefaultSchemaRaw>) {
        Json::<Records>::update_definitions(map);
    }
}

/// List your own calls
///
/// What each call used, what it cost and how it ended, newest first. A call appears within a second of its end.
#[api_v2_operation(tags(Usage), operation_id = "listUsageRecords")]
pub async fn records(
    reader: Reader,
    query: Query<RecordsQuery>,
    worker: Data<Worker>,
) -> Result<Answer, ApiError> {
    let mut query = query.into_inner();
    let given = Given { user_id: Some(reader.0.user_id), ..query.given() };
    let RecordsQuery { limit, offset, cursor, format, .. } = query;
    answer(&worker, given, (limit, offset, cursor), format).await
}

/// List everybody's calls
///
/// As `/api/usage/records`, of everybody or of one person.
#[api_v2_operation(tags(Administration), operation_id = "listAllUsageRecords")]
pub async fn all_records(
    _admin: Admin,
    query: Query<AdminRecordsQuery>,
    worker: Data<Worker>,
) -> Result<Answer, ApiError> {
    let mut query = query.into_inner();
    let given = query.given();
    let AdminRecordsQuery { limit, offset, cursor, format, .. } = query;
    answer(&worker, given, (limit, offset, cursor), format).await
}

/// Export your own calls
///
/// All of them that pass the filters, newest first, as CSV or JSON lines, however many they are. A file that broke off
/// ends in a broken connection, never as a whole one does.
#[api_v2_operation(
    tags(Usage),
    operation_id = "exportUsage",
    produces = "text/csv, application/jsonl"
)]
pub async fn export(
    reader: Reader,
    query: Query<ExportQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut query = query.into_inner();
    let given = Given { user_id: Some(reader.0.user_id), ..query.given() };
    export::respond(&worker, filter(given)?, Format::read(query.format.as_deref())?)
}

/// Export everybody's calls
///
/// As `/api/usage/export`, of everybody or of one person.
#[api_v2_operation(
    tags(Administration),
    operation_id = "exportAllUsage",
    produces = "text/csv, application/jsonl"
)]
pub async fn export_all(
    _admin: Admin,
    query: Query<AdminExportQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut query = query.into_inner();
    let filter = filter(query.given())?;
    export::respond(&worker, filter, Format::read(query.format.as_deref())?)
}

async fn answer(
    worker: &Data<Worker>,
    given: Given,
    (limit, offset, cursor): (Option<i64>, Option<i64>, Option<String>),
    format: Option<String>,
) -> Result<Answer, ApiError> {
    let page = Page::read(limit, offset, cursor.as_deref())?;
    if let Some(format) = format.filter(|format| format != "json") {
        if limit.or(offset).is_some() || cursor.is_some() {
            let message = "A file has no pages: leave out limit, offset and cursor.";
            return Err(ApiError::parameter("format", message));
        }
        let format = Format::read(Some(&format))?;
        return export::respond(worker, filter(given)?, format).map(Answer::File);
    }
    let filter = filter(given)?;
    let mut conn = worker.shared.pool.reader().await?;
    let (rows, next_cursor) = page_of(&mut conn, &filter, &page).await?;
    let counted = usage::count(&mut conn, &filter).await?;
    let Page { limit, offset, .. } = page;
    Ok(Answer::Page(Json(Records {
        records: rows.into_iter().map(Record::from).collect(),
        total: counted.min(COUNT_CAP),
        total_is_capped: counted > COUNT_CAP,
        limit,
        offset,
        next_cursor,
    })))
}

/// A page of calls, and the cursor of the next one, if there may be one.
///
/// # Errors
/// 400 for a cursor that is none; the database's.
pub async fn page_of(
    conn: &mut Conn,
    filter: &Filter,
    page: &Page,
) -> Result<(Vec<UsageRecord>, Option<String>), ApiError> {
    let from = match &page.cursor {
        Some(cursor) => read_cursor(cursor).ok_or_else(no_cursor)?,
        None => From::Offset(page.offset),
    };
    let rows = usage::list(conn, filter, from, page.limit).await?;
    let full = rows.len() as i64 == page.limit;
    let place = |last: &UsageRecord| {
        write_cursor(format!("{}:{}", last.request_time.and_utc().timestamp_millis(), last.id))
    };
    let next = rows.last().filter(|_| full).map(place);
    Ok((rows, next))
}

/// How calls end.
pub const OUTCOMES: [&str; 8] = [
    "success",
    "upstream_error",
    "upstream_cut",
    "timeout",
    "client_disconnect",
    "revoked",
    "shutdown",
    "interrupted",
];

/// # Errors
/// 400 for what is no outcome, name or time.
pub fn filter(given: Given) -> Result<Filter, ApiError> {
    let outcome = match (given.outcome, given.success_only.unwrap_or(false)) {
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
    let model = super::name("model", given.model)?;
    let region = super::name("region", given.region)?;
    let (start, end) = read_times(given.start_date, given.end_date)?;
    Ok(Filter { user_id: given.user_id, model, region, key_id: given.key_id, outcome, start, end })
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
    fn a_cursor_reads_back_and_others_do_not() {
        let time = DateTime::from_timestamp_millis(1_763_717_400_123).unwrap().naive_utc();
        assert!(matches!(read_cursor("1763717400123:7"), Some(From::After(t, 7)) if t == time));
        for text in ["", "x", "1:", ":1", "999999999999999999999:1"] {
            assert!(read_cursor(text).is_none(), "{text}");
        }
    }
}
