//! Calls as a file: read and sent a page at a time, so that neither the number of rows nor a slow client takes memory.

use actix_web::{HttpResponse, http::header::CONTENT_DISPOSITION, web::Data};
use bytes::Bytes;
use futures_util::stream;

use super::usage::Record;
use crate::{
    db::{
        self, DbError, Pool,
        usage::{self, Filter, From, UsageRecord},
    },
    routes::error::ApiError,
    state::Worker,
};

/// Rows read at a time.
const PAGE: i64 = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Csv,
    JsonLines,
}

impl Format {
    /// # Errors
    /// 400 for any other.
    pub fn read(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("csv") => Ok(Self::Csv),
            Some("jsonl") => Ok(Self::JsonLines),
            Some(_) => Err(ApiError::parameter("format", "format must be csv or jsonl.")),
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::JsonLines => "application/jsonl; charset=utf-8",
        }
    }

    /// Rows as text; the first ones of a CSV after its header.
    fn write(self, rows: Vec<UsageRecord>, first: bool) -> Result<Vec<u8>, std::io::Error> {
        let records = rows.into_iter().map(Record::from);
        match self {
            Self::Csv => {
                let buffer = Vec::with_capacity(records.len() * 400);
                let mut writer = csv::WriterBuilder::new().has_headers(first).from_writer(buffer);
                for record in records {
                    writer.serialize(record.neutralised())?;
                }
                writer.into_inner().map_err(|error| error.into_error())
            }
            Self::JsonLines => {
                let mut buffer = Vec::with_capacity(records.len() * 900);
                for record in records {
                    serde_json::to_writer(&mut buffer, &record)?;
                    buffer.push(b'\n');
                }
                Ok(buffer)
            }
        }
    }

    /// A file without rows.
    fn empty(self) -> Vec<u8> {
        match self {
            Self::Csv => {
                let names = COLUMNS.join(",") + "\n";
                names.into_bytes()
            }
            Self::JsonLines => Vec::new(),
        }
    }
}

/// The header of a CSV, for one without rows: a writer makes its header of the first.
const COLUMNS: [&str; 33] = [
    "id",
    "call_id",
    "user_id",
    "key_id",
    "endpoint_type",
    "operation",
    "model_requested",
    "model_id",
    "region",
    "request_time",
    "response_time_ms",
    "time_to_first_byte_ms",
    "streamed",
    "input_tokens",
    "output_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "total_tokens",
    "estimated",
    "success",
    "outcome",
    "status",
    "error_code",
    "error_message",
    "upstream_attempts",
    "request_id",
    "stop_reason",
    "cost_usd",
    "price_id",
    "upstream_request_id",
    "client_session_id",
    "client_agent_id",
];

type Loading = tokio::task::JoinHandle<Result<Vec<UsageRecord>, DbError>>;

/// A file that is being made.
struct Making {
    pool: Pool,
    filter: Filter,
    format: Format,
    first: bool,
    /// The page that is read while the one before is written.
    loading: Option<Loading>,
}

impl Making {
    fn load(&self, from: From) -> Loading {
        let (pool, filter) = (self.pool.clone(), self.filter.clone());
        actix_rt::spawn(async move {
            let mut conn = pool.reader().await?;
            usage::list(&mut conn, &filter, from, PAGE).await
        })
    }

    /// The next piece of the file; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        let Some(loading) = self.loading.take() else { return Ok(None) };
        let rows = loading.await.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
        let full = rows.len() as i64 == PAGE;
        if let Some(last) = rows.last().filter(|_| full) {
            self.loading = Some(self.load(From::After(last.request_time, last.id)));
        }
        let first = std::mem::replace(&mut self.first, false);
        if rows.is_empty() {
            return Ok(first.then(|| self.format.empty().into()));
        }
        Ok(Some(self.format.write(rows, first)?.into()))
    }
}

/// Sends everything that passes the filter.
///
/// # Errors
/// None before the head is sent; later ones break the connection.
pub fn respond(
    worker: &Data<Worker>,
    filter: Filter,
    format: Format,
) -> Result<HttpResponse, ApiError> {
    let mut making =
        Making { pool: worker.shared.pool.clone(), filter, format, first: true, loading: None };
    making.loading = Some(making.load(From::Offset(0)));
    let file = stream::unfold(Some(making), |making| async {
        let mut making = making?;
        match making.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(making))),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an export broke off");
                Some((Err(error), None))
            }
        }
    });
    let name = format!("usage-{}.{}", db::now().date(), format.extension());
    Ok(HttpResponse::Ok()
        .content_type(format.content_type())
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .streaming(file))
}
