//! JSON for people and scripts, in the shapes of our own API.

pub mod models;
pub mod usage;

use chrono::SecondsFormat;
use serde::Serializer;

use crate::db::Timestamp;

/// RFC 3339, UTC, milliseconds: `2026-11-21T09:30:00.000Z`.
pub fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
}
