//! Retention of usage: rows and summaries that are older than they are kept, as far as what is built from them is built.

use chrono::TimeDelta;

use super::{Done, Job, JobError, Work};
use crate::db::{
    DbError, Pool, Timestamp,
    audit::Origin,
    jobs as runs,
    levels::{self, Level},
    period::Period,
    retention,
};

/// Rows removed in one transaction: a few hundredths of a second, in which nothing else is written.
const CHUNK: i64 = 1000;
/// Days for which runs of jobs are kept.
const RUNS_KEPT: i64 = 90;

/// What cleaning up a level would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub level: Level,
    /// What lies before this goes.
    pub before: Timestamp,
    pub rows: u64,
    /// What is older than it is kept stays from `before` on, because this is not built that far.
    pub waits: bool,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.before.format("%Y-%m-%dT%H:%MZ");
        write!(f, "{}: {} before {before}", self.level.as_str(), self.rows)?;
        if self.waits {
            write!(f, " (what is later waits for the summaries that are built from it)")?;
        }
        Ok(())
    }
}

/// Removes what is older than its days.
///
/// # Errors
/// [`JobError`]; what was removed until then is removed.
pub async fn clean_up(
    work: &Work<'_>,
    kept: &[(Level, u32)],
    now: Timestamp,
    origin: &Origin,
) -> Result<Done, JobError> {
    let mut reports = Vec::new();
    for (level, days) in kept {
        let wanted = days_before(now, *days);
        let fence = work.fence.as_ref();
        let mut conn = work.writer().await?;
        let before = retention::mark(&mut conn, fence, *level, wanted, now, origin).await?;
        drop(conn);
        let mut rows = 0;
        loop {
            let mut conn = work.writer().await?;
            let removed = retention::remove_some(&mut conn, fence, *level, CHUNK).await?;
            if removed == 0 {
                break;
            }
            rows += removed as u64;
            work.tell(level.as_str(), rows, None);
        }
        let waits = waits(*level, before, wanted);
        reports.push(Report { level: *level, before, rows, waits });
    }
    let old = days_before(now, RUNS_KEPT as u32);
    for job in Job::ALL {
        runs::forget_before(&mut work.writer().await?, job.name(), old).await?;
    }
    let rows = reports.iter().map(|report| report.rows as usize).sum();
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    Ok(Done { rows, message: format!("removed {}", lines.join("\nremoved ")) })
}

/// What [`clean_up`] would remove.
///
/// # Errors
/// The database's.
pub async fn preview(
    pool: &Pool,
    kept: &[(Level, u32)],
    now: Timestamp,
) -> Result<Vec<Report>, DbError> {
    let mut conn = pool.reader().await?;
    let levels = levels::read(&mut conn).await?;
    let mut reports = Vec::new();
    for (level, days) in kept {
        let wanted = days_before(now, *days);
        let allowed = levels.removable_before(*level, wanted, now);
        let before = allowed.max(levels.cleaned_before(*level));
        let rows = retention::count(&mut conn, *level, before).await?;
        let rows = u64::try_from(rows).unwrap_or(0);
        reports.push(Report { level: *level, before, rows, waits: waits(*level, before, wanted) });
    }
    Ok(reports)
}

fn waits(level: Level, before: Timestamp, wanted: Timestamp) -> bool {
    // A day less is the rounding to whole periods.
    let rounding = match level {
        Level::Records => TimeDelta::hours(1),
        Level::Summaries(_) => TimeDelta::days(31),
    };
    match level {
        Level::Summaries(Period::Hourly | Period::Daily) => before < Period::Daily.floor(wanted),
        _ => before.checked_add_signed(rounding).is_some_and(|end| end < wanted),
    }
}

fn days_before(now: Timestamp, days: u32) -> Timestamp {
    let earliest = levels::earliest();
    now.checked_sub_signed(TimeDelta::days(i64::from(days))).unwrap_or(earliest).max(earliest)
}
