//! Small jobs: shipped prices that are missing, and audit events that are older than they are kept.

use chrono::TimeDelta;

use super::{Done, JobError, Work};
use crate::{
    db::{
        Conn, DbError, Timestamp,
        audit::{self, Origin},
        levels,
        period::Period,
        summaries::{
            Measures,
            read::{self, Dimension, Selection},
        },
    },
    pricing::ledger::{self, Lack, Ledger, Seeded},
};

/// Days of usage in which models without a price are looked for.
pub const DAYS: u32 = 30;

/// Adds shipped prices that are missing, and tells of models that were called and have none.
///
/// # Errors
/// [`JobError`].
pub async fn check_prices(
    work: &Work<'_>,
    origin: &Origin,
    now: Timestamp,
) -> Result<Done, JobError> {
    let mut conn = work.writer().await?;
    let Seeded { added, differing, .. } = ledger::seed(&mut conn, false, origin).await?;
    let missing = without_price(&mut conn, DAYS, now).await?;
    let mut message = format!("{added} shipped prices added");
    if differing > 0 {
        message.push_str(&format!(
            "; {differing} are older than those of this release (init --force-seed takes its)"
        ));
    }
    for Unpriced { region, model_id, measures, lack } in &missing {
        tracing::warn!(region, model = model_id, calls = measures.unpriced, "{}", lack.as_str());
        message.push_str(&format!(
            "\n{model_id} in {region}: {}; {} calls of the last {DAYS} days without a cost",
            lack.as_str(),
            measures.unpriced
        ));
    }
    Ok(Done { rows: added, message })
}

/// A model that was called and has no price, or one that lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpriced {
    pub region: String,
    pub model_id: String,
    /// Of all its calls.
    pub measures: Measures,
    pub lack: Lack,
}

/// Models that were called in the last days, the first of them from its start, and whose calls have no known cost; those
/// with most calls first.
///
/// # Errors
/// The database's.
pub async fn without_price(
    conn: &mut Conn,
    days: u32,
    now: Timestamp,
) -> Result<Vec<Unpriced>, DbError> {
    let levels = levels::read(conn).await?;
    let start = now.checked_sub_signed(TimeDelta::days(i64::from(days)));
    // Bounds of periods, so that summaries tell all of it.
    let start = Period::Daily.floor(start.unwrap_or_else(levels::earliest));
    let end = Period::Hourly.next(Period::Hourly.floor(now));
    let (start, end) = read::widened(&levels, start, end);
    let selection = Selection::new(None, None, &[Dimension::Model, Dimension::Region]);
    let groups = read::total(conn, &levels, &selection, start, end).await?;
    let groups: Vec<_> = groups.into_iter().filter(|(_, measures)| measures.unpriced > 0).collect();
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let ledger = Ledger::read(conn).await?;
    let mut found = Vec::new();
    for (group, measures) in groups {
        let (region, model_id) =
            (group.region.unwrap_or_default(), group.model_id.unwrap_or_default());
        // A call of whose tokens nothing is known has no cost whatever the prices are, and is estimated.
        let waits = (measures.unpriced > measures.estimated).then_some(Lack::Repricing);
        if let Some(lack) = ledger.lacks(&region, &model_id, &measures, now).or(waits) {
            found.push(Unpriced { region, model_id, measures, lack });
        }
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.measures.unpriced));
    Ok(found)
}

/// Removes audit events from before so many days.
///
/// # Errors
/// [`JobError`].
pub async fn retain_audit(work: &Work<'_>, days: u32, now: Timestamp) -> Result<Done, JobError> {
    let Some(end) = now.checked_sub_signed(TimeDelta::days(i64::from(days))) else {
        return Ok(Done::default());
    };
    let removed = audit::retain(&mut work.writer().await?, end, now).await?;
    Ok(Done { rows: removed, message: format!("{removed} audit events removed") })
}
