//! Builds summaries: those that are not built yet, and once more those of the last days, to correct what is wrong.

use chrono::TimeDelta;

use super::{Done, JobError, Work};
use crate::db::{
    DbError, Pool, Timestamp, levels,
    levels::Level,
    period::Period,
    summaries::build::{self, Built, Changed, Overlay, Scope},
};

/// How far back what is built is built again, unless somebody says otherwise.
pub const DAYS_BACK: u32 = 30;

/// What building a kind of period came to, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub period: Period,
    /// Periods that were built for the first time.
    pub new: usize,
    /// Periods that were built again.
    pub again: usize,
    pub changed: Changed,
    /// Periods that were left as they are, and why.
    pub left: Vec<Left>,
}

/// A stretch of periods that could not be built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub first: Timestamp,
    pub last: Timestamp,
    pub why: &'static str,
}

impl Report {
    fn new(period: Period) -> Self {
        Self { period, new: 0, again: 0, changed: Changed::default(), left: Vec::new() }
    }

    fn leave(&mut self, start: Timestamp, why: &'static str) {
        match self.left.last_mut() {
            Some(last) if last.why == why && self.period.next(last.last) == start => {
                last.last = start
            }
            _ => self.left.push(Left { first: start, last: start, why }),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Changed { added, corrected, removed } = self.changed;
        write!(
            f,
            "{}: {} built, {} checked; rows: {added} added, {corrected} corrected, {removed} removed",
            self.period.as_str(),
            self.new,
            self.again,
        )?;
        for Left { first, last, why } in &self.left {
            let shown = |at: &Timestamp| match self.period {
                Period::Hourly => at.format("%Y-%m-%dT%H:00Z").to_string(),
                _ => at.date().to_string(),
            };
            write!(f, "; left as they are: {} to {} ({why})", shown(first), shown(last))?;
        }
        Ok(())
    }
}

/// Builds periods, the shorter ones first.
///
/// # Errors
/// [`JobError`]; what was built until then stays.
pub async fn summarise(
    work: &Work<'_>,
    periods: &[Period],
    days_back: u32,
    scope: &Scope,
    now: Timestamp,
) -> Result<Done, JobError> {
    let mut reports = Vec::new();
    for period in Period::ALL.into_iter().filter(|period| periods.contains(period)) {
        reports.push(build_period(work, period, days_back, scope, now).await?);
    }
    let rows = reports.iter().map(|report| report.changed.rows()).sum();
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    Ok(Done { rows, message: lines.join("\n") })
}

async fn build_period(
    work: &Work<'_>,
    period: Period,
    days_back: u32,
    scope: &Scope,
    now: Timestamp,
) -> Result<Report, JobError> {
    let mut report = Report::new(period);
    let levels = levels::read(&mut work.writer().await?).await?;
    let known = built_ones(&levels, period, days_back, now);
    let total = known.len() as u64;
    for (at, start) in known.into_iter().enumerate() {
        if let Some(why) = why_left(&levels, period, start) {
            report.leave(start, why);
            continue;
        }
        let mut conn = work.writer().await?;
        let fence = work.fence.as_ref();
        match build::again(&mut conn, fence, period, start, scope).await? {
            Built::Done(changed) => {
                report.again += 1;
                report.changed += changed;
            }
            Built::SourceGone => report.leave(start, SOURCE_GONE),
            Built::PastRetention => report.leave(start, PAST_RETENTION),
        }
        work.tell(period.as_str(), at as u64 + 1, Some(total));
    }
    if !scope.is_everything() {
        return Ok(report);
    }
    let closed = period.floor(now);
    loop {
        let mut conn = work.writer().await?;
        let fence = work.fence.as_ref();
        let Some((_, changed)) = build::next(&mut conn, fence, period, closed).await? else {
            break;
        };
        report.new += 1;
        report.changed += changed;
        work.tell(period.as_str(), total + report.new as u64, None);
    }
    Ok(report)
}

/// What [`summarise`] would do. Nothing is written, and nobody waits.
///
/// # Errors
/// The database's.
pub async fn preview(
    pool: &Pool,
    periods: &[Period],
    days_back: u32,
    scope: &Scope,
    now: Timestamp,
) -> Result<Vec<Report>, DbError> {
    let mut conn = pool.reader().await?;
    let mut overlay = Overlay::default();
    let mut levels = levels::read(&mut conn).await?;
    let mut reports = Vec::new();
    for period in Period::ALL.into_iter().filter(|period| periods.contains(period)) {
        let mut report = Report::new(period);
        let known = built_ones(&levels, period, days_back, now);
        let mut new = Vec::new();
        if let Some(source) = period.source().filter(|_| scope.is_everything()) {
            let limit = period.floor(now.min(levels.built_before(source)));
            let built = levels.built_before(period);
            new = build::starts(&mut conn, period, built, limit, &overlay).await?;
            levels = levels.with_built(period, limit);
        }
        report.new = new.len();
        for start in known.into_iter().chain(new) {
            if let Some(why) = why_left(&levels, period, start) {
                report.leave(start, why);
                continue;
            }
            if let Built::Done(changed) =
                build::look(&mut conn, period, start, scope, &mut overlay).await?
            {
                report.again += 1;
                report.changed += changed;
            }
        }
        report.again -= report.new.min(report.again);
        reports.push(report);
    }
    Ok(reports)
}

const SOURCE_GONE: &str = "what they are built from is cleaned up";
const PAST_RETENTION: &str = "they are no longer kept";

fn why_left(levels: &levels::Levels, period: Period, start: Timestamp) -> Option<&'static str> {
    if start < levels.cleaned_before(Level::Summaries(period)) {
        Some(PAST_RETENTION)
    } else if !levels.has_source(period, start) {
        Some(SOURCE_GONE)
    } else {
        None
    }
}

/// The closed periods of the last days that are built already.
fn built_ones(
    levels: &levels::Levels,
    period: Period,
    days_back: u32,
    now: Timestamp,
) -> Vec<Timestamp> {
    let back = now.checked_sub_signed(TimeDelta::days(i64::from(days_back)));
    // Before that there is no usage.
    let earliest = levels::earliest();
    let from = period.floor(back.unwrap_or(earliest).max(earliest));
    let until = period.floor(now).min(levels.built_before(period));
    let mut starts = Vec::new();
    let mut start = from;
    while start < until {
        starts.push(start);
        start = period.next(start);
    }
    starts
}
