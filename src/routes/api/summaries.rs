//! `/api/usage/summaries`, and the same of everybody for admins.

use actix_web::web::Data;
use chrono::DateTime;
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    page::{Page, no_cursor, write_cursor},
    read_times,
};
use crate::{
    db::{
        self, Conn, DbError, Timestamp,
        levels::{self, Level, Levels},
        period::Period,
        summaries::{
            Measures,
            read::{self, Dimension, From, Group, Selection},
        },
        usage::COUNT_CAP,
    },
    pricing::money::dollars,
    routes::{
        error::ApiError,
        extract::{Admin, Reader},
    },
    state::Worker,
};

/// Which of your own summaries to list. Unknown parameters are refused.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct SummariesQuery {
    /// hourly, daily (default), weekly (from Monday), monthly, or total: all of the range in one. In UTC.
    period_type: Option<String>,
    /// Any of user, model, region, endpoint and key, with commas between. Default model; empty: nothing.
    group_by: Option<String>,
    /// The model that was called, exactly.
    model_id: Option<String>,
    /// Periods that start from this time on: RFC 3339, or a date (its start in UTC).
    start_date: Option<String>,
    /// Periods that start before this time.
    end_date: Option<String>,
    /// Rows a page, 1 to 500. Default 50.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which summaries to list. Unknown parameters are refused.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct AdminSummariesQuery {
    /// hourly, daily (default), weekly (from Monday), monthly, or total: all of the range in one. In UTC.
    period_type: Option<String>,
    /// Any of user, model, region, endpoint and key, with commas between. Default model; empty: nothing.
    group_by: Option<String>,
    /// The model that was called, exactly.
    model_id: Option<String>,
    /// The person who called.
    user_id: Option<i64>,
    /// Periods that start from this time on: RFC 3339, or a date (its start in UTC).
    start_date: Option<String>,
    /// Periods that start before this time.
    end_date: Option<String>,
    /// Rows a page, 1 to 500. Default 50.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of summaries, newest first; those of a total by cost, highest first.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Summaries {
    pub summaries: Vec<Summary>,
    /// Exact up to 10000; above, 10000 and `total_is_capped`.
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
    /// Summaries of these periods from before are cleaned up, and not in the list; null = none are.
    #[serde(serialize_with = "super::time_or_null")]
    pub kept_from: Option<Timestamp>,
}

/// The sum of the calls of a period. What it is not grouped by is not there.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Summary {
    period_type: &'static str,
    /// Where only coarser summaries are kept, a total covers whole ones: this is where it begins.
    #[serde(serialize_with = "super::time")]
    period_start: Timestamp,
    #[serde(serialize_with = "super::time")]
    period_end: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_type: Option<String>,
    /// null: calls with an access token instead of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<Option<i64>>,
    total_requests: i64,
    successful_requests: i64,
    total_input_tokens: i64,
    total_output_tokens: i64,
    total_cache_write_tokens: i64,
    total_cache_write_1h_tokens: i64,
    total_cache_read_tokens: i64,
    total_tokens: i64,
    avg_response_time_ms: Option<i64>,
    avg_time_to_first_byte_ms: Option<i64>,
    /// US dollars with nine places, of the calls whose cost is known; null = of none that cost anything.
    total_cost_usd: Option<String>,
    /// Calls whose cost is not known, and is not in the total.
    unpriced_requests: i64,
    /// Calls whose tokens are known in part.
    estimated_requests: i64,
}

impl Summary {
    fn new(period_type: &'static str, period_end: Timestamp, group: Group, sums: Measures) -> Self {
        Self {
            period_type,
            period_start: group.period_start,
            period_end,
            user_id: group.user_id,
            model_id: group.model_id,
            region: group.region,
            endpoint_type: group.endpoint_type,
            key_id: group.key_id.map(|id| Some(id).filter(|id| *id != 0)),
            total_requests: sums.requests,
            successful_requests: sums.requests - sums.errors,
            total_input_tokens: sums.input_tokens,
            total_output_tokens: sums.output_tokens,
            total_cache_write_tokens: sums.cache_write_tokens,
            total_cache_write_1h_tokens: sums.cache_write_1h_tokens,
            total_cache_read_tokens: sums.cache_read_tokens,
            total_tokens: sums.tokens(),
            avg_response_time_ms: sums.average_duration_ms(),
            avg_time_to_first_byte_ms: sums.average_first_byte_ms(),
            total_cost_usd: sums.known_cost().map(dollars),
            unpriced_requests: sums.unpriced,
            estimated_requests: sums.estimated,
        }
    }
}

/// What somebody used of each model since `start`.
pub async fn by_model_since(
    conn: &mut Conn,
    user_id: i64,
    start: Timestamp,
) -> Result<Vec<(String, Measures)>, DbError> {
    let levels = levels::read(conn).await?;
    let selection = Selection::new(Some(user_id), None, &[Dimension::Model]);
    let end = Period::Hourly.next(Period::Hourly.floor(db::now()));
    let (start, end) = read::widened(&levels, start, end);
    let groups = read::total(conn, &levels, &selection, start, end).await?;
    Ok(groups.into_iter().map(|(group, sums)| (group.model_id.unwrap_or_default(), sums)).collect())
}

/// Summaries of your own usage
///
/// Tokens, cost and times by hour, day, week, month or over all, grouped as you like. They are up to date to the last
/// call that ended.
#[api_v2_operation(tags(Usage), operation_id = "listUsageSummaries")]
pub async fn summaries(
    reader: Reader,
    query: Query<SummariesQuery>,
    worker: Data<Worker>,
) -> Result<Json<Summaries>, ApiError> {
    let SummariesQuery {
        period_type,
        group_by,
        model_id,
        start_date,
        end_date,
        limit,
        offset,
        cursor,
    } = query.into_inner();
    let user_id = Some(reader.0.user_id);
    let page = Page::read(limit, offset, cursor.as_deref())?;
    answer(&worker, user_id, (period_type, group_by), model_id, (start_date, end_date), page).await
}

/// Summaries of everybody's usage
///
/// As `/api/usage/summaries`, of everybody or of one person.
#[api_v2_operation(tags(Administration), operation_id = "listAllUsageSummaries")]
pub async fn all_summaries(
    _admin: Admin,
    query: Query<AdminSummariesQuery>,
    worker: Data<Worker>,
) -> Result<Json<Summaries>, ApiError> {
    let AdminSummariesQuery {
        period_type,
        group_by,
        model_id,
        user_id,
        start_date,
        end_date,
        limit,
        offset,
        cursor,
    } = query.into_inner();
    let page = Page::read(limit, offset, cursor.as_deref())?;
    answer(&worker, user_id, (period_type, group_by), model_id, (start_date, end_date), page).await
}

async fn answer(
    worker: &Worker,
    user_id: Option<i64>,
    (period_type, group_by): (Option<String>, Option<String>),
    model_id: Option<String>,
    (start_date, end_date): (Option<String>, Option<String>),
    page: Page,
) -> Result<Json<Summaries>, ApiError> {
    let by = dimensions(group_by.as_deref())?;
    let selection = Selection::new(user_id, super::name("model_id", model_id)?, &by);
    let (start, end) = read_times(start_date, end_date)?;
    let start = start.unwrap_or_else(levels::earliest);
    let period = match period_type.as_deref() {
        None => Some(Period::Daily),
        Some("total") => None,
        Some(name) => Some(name.parse().map_err(|_| {
            let message = "period_type must be hourly, daily, weekly, monthly or total.";
            ApiError::parameter("period_type", message)
        })?),
    };
    let mut conn = worker.shared.pool.reader().await?;
    let levels = levels::read(&mut conn).await?;
    match period {
        Some(period) => {
            let end = end.unwrap_or_else(|| period.next(period.floor(db::now())));
            list(&mut conn, &levels, &selection, (period, start, end), page).await
        }
        None => {
            let end = end.unwrap_or_else(|| Period::Hourly.next(Period::Hourly.floor(db::now())));
            total(&mut conn, &levels, &selection, (start, end), page).await
        }
    }
    .map(Json)
}

async fn list(
    conn: &mut Conn,
    levels: &Levels,
    selection: &Selection,
    range: (Period, Timestamp, Timestamp),
    page: Page,
) -> Result<Summaries, ApiError> {
    let from = match &page.cursor {
        Some(cursor) => {
            let last = read_group(range.0, cursor).filter(|last| selection.has(last));
            From::After(last.ok_or_else(no_cursor)?)
        }
        None => From::Offset(page.offset),
    };
    let found = read::list(conn, levels, selection, range, (&from, page.limit), COUNT_CAP).await?;
    let full = i64::try_from(found.groups.len()).is_ok_and(|count| count == page.limit);
    let next_cursor =
        found.groups.last().filter(|_| full).map(|(last, _)| write_group(range.0, last));
    let period = range.0;
    let summary = |(group, measures): (Group, Measures)| {
        Summary::new(period.as_str(), period.next(group.period_start), group, measures)
    };
    Ok(Summaries {
        summaries: found.groups.into_iter().map(summary).collect(),
        total: found.total.min(COUNT_CAP),
        total_is_capped: found.total > COUNT_CAP,
        limit: page.limit,
        offset: page.offset,
        next_cursor,
        kept_from: kept_from(levels, period),
    })
}

/// Up to where periods are cleaned up, if any are.
fn kept_from(levels: &Levels, period: Period) -> Option<Timestamp> {
    let cleaned = levels.cleaned_before(Level::Summaries(period));
    Some(cleaned).filter(|cleaned| *cleaned > levels::earliest())
}

/// All groups of the range fit into memory: their number is that of people, keys and models, whatever the time.
async fn total(
    conn: &mut Conn,
    levels: &Levels,
    selection: &Selection,
    (start, end): (Timestamp, Timestamp),
    page: Page,
) -> Result<Summaries, ApiError> {
    let start = match read::first(conn).await? {
        Some(first) => start.max(first.min(end)),
        None => end,
    };
    let (start, end) = read::widened(levels, start, end);
    let groups = read::total(conn, levels, selection, start, end).await?;
    let mut groups: Vec<(Group, Measures)> = groups.into_iter().collect();
    groups.sort_by(|(one, a), (other, b)| {
        b.cost_nano_usd.cmp(&a.cost_nano_usd).then_with(|| one.cmp(other))
    });
    let count = i64::try_from(groups.len()).unwrap_or(i64::MAX);
    let place = page.number()?.unwrap_or(page.offset);
    let next = place.saturating_add(page.limit);
    let skip = usize::try_from(place).unwrap_or(usize::MAX);
    let shown = groups.into_iter().skip(skip).take(usize::try_from(page.limit).unwrap_or(0));
    Ok(Summaries {
        summaries: shown.map(|(group, sums)| Summary::new("total", end, group, sums)).collect(),
        total: count.min(COUNT_CAP),
        total_is_capped: count > COUNT_CAP,
        limit: page.limit,
        offset: page.offset,
        next_cursor: (next < count).then(|| write_cursor(next)),
        kept_from: kept_from(levels, Period::Monthly),
    })
}

fn dimensions(text: Option<&str>) -> Result<Vec<Dimension>, ApiError> {
    let text = text.unwrap_or("model").trim();
    if text.is_empty() {
        return Ok(Vec::new()); // one group of all
    }
    let read = |word| match word {
        "user" => Ok(Dimension::User),
        "model" => Ok(Dimension::Model),
        "region" => Ok(Dimension::Region),
        "endpoint" => Ok(Dimension::Endpoint),
        "key" => Ok(Dimension::Key),
        _ => {
            let message = "group_by is a list of user, model, region, endpoint and key; \
                           for days or hours see period_type.";
            Err(ApiError::parameter("group_by", message))
        }
    };
    text.split(',').map(str::trim).map(read).collect()
}

/// A group as a cursor: its list's period and its members, in order, as JSON.
fn write_group(period: Period, group: &Group) -> String {
    let Group { period_start, user_id, key_id, model_id, region, endpoint_type } = group;
    let ms = period_start.and_utc().timestamp_millis();
    let members =
        serde_json::json!([period.as_str(), ms, user_id, key_id, model_id, region, endpoint_type]);
    write_cursor(members)
}

fn read_group(period: Period, plain: &str) -> Option<Group> {
    type Members =
        (String, i64, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<String>);
    let (of, ms, user_id, key_id, model_id, region, endpoint_type): Members =
        serde_json::from_str(plain).ok()?;
    let texts = [&model_id, &region, &endpoint_type];
    let sound = texts.into_iter().flatten().all(|text| text.len() <= 2048 && !text.contains('\0'));
    let period_start = DateTime::from_timestamp_millis(ms)?.naive_utc();
    let in_range = (2000..2200).contains(&chrono::Datelike::year(&period_start));
    (of == period.as_str() && sound && in_range).then_some(Group {
        period_start,
        user_id,
        key_id,
        model_id,
        region,
        endpoint_type,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_comes_back_from_its_cursor_and_nonsense_does_not() {
        let group = Group {
            period_start: "2026-11-27T00:00:00".parse().unwrap(),
            user_id: Some(7),
            key_id: None,
            model_id: Some("us.anthropic.claude-opus-5".to_owned()),
            region: None,
            endpoint_type: None,
        };
        let page = Page::read(None, None, Some(&write_group(Period::Daily, &group))).unwrap();

        let cursor = page.cursor.unwrap();
        assert_eq!(read_group(Period::Weekly, &cursor), None, "of another list");
        assert_eq!(read_group(Period::Daily, &cursor), Some(group));
        for text in ["", "7", "[]", "[1,2,3,4,5,6]", "[9999999999999999,null,null,null,null,null]"]
        {
            assert_eq!(read_group(Period::Daily, text), None, "{text}");
        }
    }
}
