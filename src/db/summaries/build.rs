//! Builds summaries from what they are sums of, and corrects those that are not. Building again changes nothing; a
//! period is one transaction, so that what is stopped half-way goes on where it stood.

use std::collections::{BTreeMap, HashMap};

use diesel::{dsl::sql, prelude::*, sql_types::BigInt};
use diesel_async::RunQueryDsl;

use super::{DETAILS, EVERYBODY, KEY, Measures, Place, UsageSummary, WriteSummaries};
use crate::db::{
    Conn, DbError, SqliteAsync, Timestamp, in_reading_transaction, in_transaction,
    levels::{Fence, Hands, Hold, Levels},
    on_conn,
    period::Period,
    schema::{usage_records, usage_summaries},
};

/// Whose summaries to build again. What is not built yet is always built for everybody.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    pub user_id: Option<i64>,
    /// An id or a part of one.
    pub model: Option<String>,
}

impl Scope {
    pub fn is_everything(&self) -> bool {
        self.user_id.is_none() && self.model.is_none()
    }

    fn holds(&self, place: &Place) -> bool {
        self.user_id.is_none_or(|id| place.user_id == id)
            && self.model.as_ref().is_none_or(|part| place.model_id.contains(part.as_str()))
    }
}

/// What a build changed, in rows of the table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    pub added: usize,
    pub corrected: usize,
    pub removed: usize,
}

impl Changed {
    pub fn rows(&self) -> usize {
        self.added + self.corrected + self.removed
    }
}

impl std::ops::AddAssign for Changed {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.corrected += other.corrected;
        self.removed += other.removed;
    }
}

/// What became of one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    Done(Changed),
    /// What it is built from is cleaned up, at least in part: it stays as it is.
    SourceGone,
    /// It is past its own retention.
    PastRetention,
}

/// Sums that a dry run worked out and did not write, for the longer periods that are built from them.
#[derive(Debug, Default)]
pub struct Overlay(BTreeMap<(Period, Timestamp), Sums>);

type Sums = BTreeMap<Place, Measures>;

/// What to do about the differences.
enum Apply<'a> {
    Write,
    /// Look only, and keep what was found.
    Look(&'a mut Overlay),
}

/// Builds a period that is built already once more, and corrects it.
///
/// # Errors
/// The database's; [`DbError::LeaseLost`].
pub async fn again(
    conn: &mut Conn,
    fence: Option<&Fence>,
    period: Period,
    start: Timestamp,
    scope: &Scope,
) -> Result<Built, DbError> {
    in_transaction!(conn, c => {
        c.check_fence(fence).await?;
        let levels = c.hold_levels(Hold::Alone).await?;
        correct(c, &levels, period, start, scope, Apply::Write).await
    })
}

/// What [`again`] or [`next`] would change.
pub async fn look(
    conn: &mut Conn,
    period: Period,
    start: Timestamp,
    scope: &Scope,
    overlay: &mut Overlay,
) -> Result<Built, DbError> {
    in_reading_transaction!(conn, c => {
        let levels = c.hold_levels(Hold::Shared).await?;
        correct(c, &levels, period, start, scope, Apply::Look(overlay)).await
    })
}

/// Builds the first period that is not built yet, has something in it and ends before `closed`. Answers it, or `None`
/// when there is none; then everything before `closed` is built.
///
/// # Errors
/// As [`again`].
pub async fn next(
    conn: &mut Conn,
    fence: Option<&Fence>,
    period: Period,
    closed: Timestamp,
) -> Result<Option<(Timestamp, Changed)>, DbError> {
    let Some(source) = period.source() else { return Ok(None) };
    in_transaction!(conn, c => {
        c.check_fence(fence).await?;
        let levels = c.hold_levels(Hold::Alone).await?;
        let limit = period.floor(closed.min(levels.built_before(source)));
        let built = levels.built_before(period);
        if built >= limit {
            return Ok::<_, DbError>(None);
        }
        let first: Option<Timestamp> = usage_summaries::table
            .filter(usage_summaries::period_type.eq(source.as_str()))
            .filter(usage_summaries::detail.eq(EVERYBODY))
            .filter(usage_summaries::period_start.ge(built).and(usage_summaries::period_start.lt(limit)))
            .select(usage_summaries::period_start)
            .order(usage_summaries::period_start)
            .first(c)
            .await
            .optional()?;
        let level = crate::db::levels::Level::Summaries(period);
        let Some(first) = first else {
            c.set_level(level, Some(limit), None).await?;
            return Ok(None);
        };
        let start = period.floor(first);
        let built = correct(c, &levels, period, start, &Scope::default(), Apply::Write).await?;
        c.set_level(level, Some(period.next(start)), None).await?;
        let Built::Done(changed) = built else {
            // Its source went before it was built: not through a clean-up, which waits for it.
            return Ok(Some((start, Changed::default())));
        };
        Ok(Some((start, changed)))
    })
}

/// The starts of those periods in `[from, until)` that have something to be built from, oldest first.
pub async fn starts(
    conn: &mut Conn,
    period: Period,
    from: Timestamp,
    until: Timestamp,
    overlay: &Overlay,
) -> Result<Vec<Timestamp>, DbError> {
    let Some(source) = period.source() else { return Ok(Vec::new()) };
    let found: Vec<Timestamp> = on_conn!(conn, c => {
        usage_summaries::table
            .filter(usage_summaries::period_type.eq(source.as_str()))
            .filter(usage_summaries::detail.eq(EVERYBODY))
            .filter(usage_summaries::period_start.ge(from).and(usage_summaries::period_start.lt(until)))
            .select(usage_summaries::period_start)
            .distinct()
            .order(usage_summaries::period_start)
            .load(c)
            .await
    })?;
    let found = found.into_iter().filter(|start| !overlay.0.contains_key(&(source, *start)));
    let worked_out = overlay.0.range((source, from)..(source, until));
    let worked_out = worked_out.filter(|(_, sums)| !sums.is_empty()).map(|((_, start), _)| *start);
    let all = found.chain(worked_out).map(|start| period.floor(start));
    let mut starts: Vec<Timestamp> = all.collect();
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

/// Compares a period with what it is a sum of, and deals with the differences.
async fn correct<C: Sources + WriteSummaries>(
    c: &mut C,
    levels: &Levels,
    period: Period,
    start: Timestamp,
    scope: &Scope,
    mut apply: Apply<'_>,
) -> Result<Built, DbError> {
    if start < levels.cleaned_before(crate::db::levels::Level::Summaries(period)) {
        return Ok(Built::PastRetention);
    }
    if !levels.has_source(period, start) {
        return Ok(Built::SourceGone);
    }
    let end = period.next(start);
    let mut target = match period.source() {
        None => c.of_records(start, end).await?,
        Some(source) => {
            let mut sums = Sums::new();
            let known: Vec<Timestamp> = match &apply {
                Apply::Write => Vec::new(),
                Apply::Look(overlay) => {
                    let inside = overlay.0.range((source, start)..(source, end));
                    inside.map(|((_, start), _)| *start).collect()
                }
            };
            for (at, place, measures) in c.of_summaries(source, &[KEY], start, end).await? {
                if !known.contains(&at) {
                    *sums.entry(place).or_default() += measures;
                }
            }
            if let Apply::Look(overlay) = &apply {
                for (_, known) in overlay.0.range((source, start)..(source, end)) {
                    for (place, measures) in known {
                        *sums.entry(place.clone()).or_default() += *measures;
                    }
                }
            }
            sums
        }
    };
    let mut there: HashMap<Place, Measures> = c
        .of_summaries(period, &DETAILS, start, end)
        .await?
        .into_iter()
        .map(|(_, place, measures)| (place, measures))
        .collect();
    target.retain(|place, measures| place.detail == KEY && !measures.is_zero());

    // What is out of scope stays; the wider rows are the sums of all that there is then.
    let mut wanted: Sums = there
        .iter()
        .filter(|(place, _)| place.detail == KEY && !scope.holds(place))
        .chain(target.iter().filter(|(place, _)| scope.holds(place)))
        .map(|(place, measures)| (place.clone(), *measures))
        .collect();
    if let Apply::Look(overlay) = &mut apply {
        overlay.0.insert((period, start), wanted.clone());
    }
    let mut wider = Sums::new();
    for (place, measures) in &wanted {
        for place in place.wider() {
            *wider.entry(place).or_default() += *measures;
        }
    }
    wanted.extend(wider);

    let mut changed = Changed::default();
    let mut rows = Vec::new();
    for (place, measures) in wanted {
        match there.remove(&place) {
            Some(known) if known == measures => continue,
            Some(_) => changed.corrected += 1,
            None => changed.added += 1,
        }
        let period_type = period.as_str().to_owned();
        rows.push(UsageSummary { period_type, period_start: start, place, measures });
    }
    changed.removed = there.len();
    if let Apply::Write = apply {
        c.replace(rows).await?;
        for place in there.into_keys() {
            c.remove(period, start, place).await?;
        }
    }
    Ok(Built::Done(changed))
}

/// What summaries are sums of, and the removal of one.
trait Sources {
    async fn of_records(&mut self, start: Timestamp, end: Timestamp) -> Result<Sums, DbError>;
    async fn of_summaries(
        &mut self,
        period: Period,
        details: &[&str],
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<(Timestamp, Place, Measures)>, DbError>;
    async fn remove(
        &mut self,
        period: Period,
        start: Timestamp,
        place: Place,
    ) -> Result<(), DbError>;
}

/// Sums of rows, in the order of [`Measures`].
macro_rules! sums_of_records {
    ($start:expr, $end:expr) => {
        usage_records::table
            .filter(
                usage_records::request_time.ge($start).and(usage_records::request_time.lt($end)),
            )
            .group_by((
                usage_records::user_id,
                usage_records::key_id,
                usage_records::model_id,
                usage_records::region,
                usage_records::endpoint_type,
            ))
            .select((
                usage_records::user_id,
                usage_records::key_id,
                usage_records::model_id,
                usage_records::region,
                usage_records::endpoint_type,
                (
                    sql::<BigInt>("COUNT(*)"),
                    sql::<BigInt>("SUM(CASE WHEN outcome = 'success' THEN 0 ELSE 1 END)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(cache_write_tokens), 0) AS BIGINT)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(cache_write_1h_tokens), 0) AS BIGINT)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(cache_read_tokens), 0) AS BIGINT)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(cost_nano_usd), 0) AS BIGINT)"),
                    sql::<BigInt>("SUM(CASE WHEN cost_nano_usd IS NULL THEN 1 ELSE 0 END)"),
                    sql::<BigInt>("SUM(CASE WHEN estimated THEN 1 ELSE 0 END)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(response_time_ms), 0) AS BIGINT)"),
                    sql::<BigInt>("COUNT(response_time_ms)"),
                    sql::<BigInt>("CAST(COALESCE(SUM(time_to_first_byte_ms), 0) AS BIGINT)"),
                    sql::<BigInt>("COUNT(time_to_first_byte_ms)"),
                ),
            ))
    };
}

/// Who and what a sum of rows is of.
type Summed = (i64, Option<i64>, String, String, String, Measures);

macro_rules! sources {
    ($($connection:ty),*) => {$(
        impl Sources for $connection {
            async fn of_records(&mut self, start: Timestamp, end: Timestamp) -> Result<Sums, DbError> {
                let rows: Vec<Summed> = sums_of_records!(start, end).load(self).await?;
                let mut sums = Sums::new();
                for (user_id, key_id, model_id, region, endpoint_type, measures) in rows {
                    let names = (model_id.as_str(), region.as_str(), endpoint_type.as_str());
                    let place = Place::of_key(user_id, key_id, names);
                    *sums.entry(place).or_default() += measures;
                }
                Ok(sums)
            }

            async fn of_summaries(
                &mut self,
                period: Period,
                details: &[&str],
                start: Timestamp,
                end: Timestamp,
            ) -> Result<Vec<(Timestamp, Place, Measures)>, DbError> {
                let rows = usage_summaries::table
                    .filter(usage_summaries::period_type.eq(period.as_str()))
                    .filter(usage_summaries::detail.eq_any(details))
                    .filter(usage_summaries::period_start.ge(start).and(usage_summaries::period_start.lt(end)))
                    .select((usage_summaries::period_start, Place::as_select(), Measures::as_select()));
                Ok(rows.load(self).await?)
            }

            async fn remove(
                &mut self,
                period: Period,
                start: Timestamp,
                place: Place,
            ) -> Result<(), DbError> {
                let Place { detail, user_id, key_id, model_id, region, endpoint_type } = place;
                let row = usage_summaries::table
                    .filter(usage_summaries::period_type.eq(period.as_str()))
                    .filter(usage_summaries::detail.eq(detail))
                    .filter(usage_summaries::period_start.eq(start))
                    .filter(usage_summaries::user_id.eq(user_id).and(usage_summaries::key_id.eq(key_id)))
                    .filter(usage_summaries::model_id.eq(model_id))
                    .filter(usage_summaries::region.eq(region))
                    .filter(usage_summaries::endpoint_type.eq(endpoint_type));
                diesel::delete(row).execute(self).await?;
                Ok(())
            }
        }
    )*};
}
sources!(diesel_async::AsyncPgConnection, SqliteAsync);
