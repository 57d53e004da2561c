//! JSON for people and scripts, in the shapes of our own API.

pub mod audit;
pub mod costs;
mod export;
pub mod jobs;
pub mod keys;
pub mod models;
pub(super) mod page;
pub mod streams;
pub mod summaries;
pub mod usage;
pub mod users;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde::Serializer;

use super::error::ApiError;
use crate::db::Timestamp;

/// RFC 3339, UTC, milliseconds: `2026-11-21T09:30:00.000Z`.
pub fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The same, or null.
pub fn time_or_null<S: Serializer>(
    given: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match given {
        Some(given) => time(given, serializer),
        None => serializer.serialize_none(),
    }
}

/// RFC 3339, or a date that means its start in UTC; between the years 2000 and 2200 (SEC-101).
fn read_time(field: &'static str, text: &str) -> Result<Timestamp, ApiError> {
    let date = || Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN));
    let time = text.parse::<DateTime<Utc>>().ok().map(|time| time.naive_utc()).or_else(date);
    let year = |time: &Timestamp| chrono::Datelike::year(time);
    time.filter(|time| (2000..2200).contains(&year(time))).ok_or_else(|| {
        let message = format!(
            "{field} must be a time such as 2026-11-21T09:30:00Z or a date, from 2000 to 2199."
        );
        ApiError::parameter(field, message)
    })
}

/// Two times, in order.
fn read_times(
    start: Option<String>,
    end: Option<String>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), ApiError> {
    let start = start.map(|text| read_time("start_date", &text)).transpose()?;
    let end = end.map(|text| read_time("end_date", &text)).transpose()?;
    if start.zip(end).is_some_and(|(start, end)| start > end) {
        return Err(ApiError::parameter("end_date", "end_date is before start_date."));
    }
    Ok((start, end))
}

/// A name to compare with, if one is given. Longer than any id it is none, and a NUL is no text to Postgres.
fn name(field: &'static str, text: Option<String>) -> Result<Option<String>, ApiError> {
    if text.as_ref().is_some_and(|text| text.len() > 2048 || text.contains('\0')) {
        return Err(ApiError::parameter(field, format!("{field} is no such name.")));
    }
    Ok(text)
}
