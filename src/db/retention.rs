//! Removes rows and summaries of usage that are older than they are kept, a chunk a transaction. First the mark moves, up
//! to which a level is cleaned up: from then on nothing before it is built, read for a build, or written. So a clean-up
//! that is stopped half-way leaves nothing that counts as whole.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::json;

use super::{
    Conn, DbError, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction, in_transaction,
    levels::{Fence, Hands, Hold, Level},
    on_conn,
    schema::{usage_records, usage_summaries},
    summaries::{DETAILS, EVERYBODY},
};

/// Moves the mark of a level as far as is wanted and allowed, and leaves an event that says so. Answers where it is.
///
/// # Errors
/// The database's; [`DbError::LeaseLost`].
pub async fn mark(
    conn: &mut Conn,
    fence: Option<&Fence>,
    level: Level,
    wanted: Timestamp,
    now: Timestamp,
    origin: &Origin,
) -> Result<Timestamp, DbError> {
    in_audited_transaction!(conn, c => {
        c.check_fence(fence).await?;
        let levels = c.hold_levels(Hold::Alone).await?;
        let cleaned = levels.cleaned_before(level);
        let before = levels.removable_before(level, wanted, now).max(cleaned);
        if before > cleaned {
            c.set_level(level, None, Some(before)).await?;
            let event = Event {
                object: format!("usage:{}", level.as_str()),
                metadata: json!({ "before": before.and_utc().to_rfc3339() }),
                ..Event::new(now, "usage_retention", origin)
            };
            c.append(event).await?;
        }
        Ok::<_, DbError>(before)
    })
}

/// How many rows a level has before a time.
pub async fn count(conn: &mut Conn, level: Level, before: Timestamp) -> Result<i64, DbError> {
    Ok(match level {
        Level::Records => {
            let old = usage_records::table.filter(usage_records::request_time.lt(before)).count();
            on_conn!(conn, c => old.get_result(c).await)?
        }
        Level::Summaries(period) => {
            let old = usage_summaries::table
                .filter(usage_summaries::period_type.eq(period.as_str()))
                .filter(usage_summaries::detail.eq_any(DETAILS))
                .filter(usage_summaries::period_start.lt(before))
                .count();
            on_conn!(conn, c => old.get_result(c).await)?
        }
    })
}

/// Removes some of what a level has before its mark: up to `limit` rows, or the summaries of one period. Answers how many;
/// 0 when there is nothing left.
///
/// # Errors
/// As [`mark`].
pub async fn remove_some(
    conn: &mut Conn,
    fence: Option<&Fence>,
    level: Level,
    limit: i64,
) -> Result<usize, DbError> {
    in_transaction!(conn, c => {
        c.check_fence(fence).await?;
        let before = c.hold_levels(Hold::Shared).await?.cleaned_before(level);
        let Level::Summaries(period) = level else {
            let ids: Vec<i64> = usage_records::table
                .filter(usage_records::request_time.lt(before))
                .order(usage_records::request_time)
                .select(usage_records::id)
                .limit(limit)
                .load(c)
                .await?;
            if ids.is_empty() {
                return Ok::<_, DbError>(0);
            }
            let some = usage_records::table.filter(usage_records::id.eq_any(ids));
            return Ok(diesel::delete(some).execute(c).await?);
        };
        let first: Option<Timestamp> = usage_summaries::table
            .filter(usage_summaries::period_type.eq(period.as_str()))
            .filter(usage_summaries::detail.eq(EVERYBODY))
            .filter(usage_summaries::period_start.lt(before))
            .select(usage_summaries::period_start)
            .order(usage_summaries::period_start)
            .first(c)
            .await
            .optional()?;
        let Some(first) = first else { return Ok(0) };
        let one = usage_summaries::table
            .filter(usage_summaries::period_type.eq(period.as_str()))
            .filter(usage_summaries::detail.eq_any(DETAILS))
            .filter(usage_summaries::period_start.eq(first));
        Ok(diesel::delete(one).execute(c).await?)
    })
}
