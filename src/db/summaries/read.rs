//! Reads sums of usage: from the summaries that are built, and for the part that is not yet from what they will be built
//! of. No call is in two of these sources.

use std::collections::BTreeMap;

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Nullable, Text, Timestamp as SqlTimestamp},
};
use diesel_async::RunQueryDsl;

use super::Measures;
use crate::db::{
    Conn, DbError, Timestamp,
    levels::{Level, Levels},
    on_conn,
    period::Period,
};

/// What sums may be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    User,
    Key,
    Model,
    Region,
    Endpoint,
}

impl Dimension {
    /// In the order of the table's key.
    const ALL: [Self; 5] = [Self::User, Self::Key, Self::Model, Self::Region, Self::Endpoint];

    fn column(self) -> &'static str {
        match self {
            Self::User => "user_id",
            Self::Key => "key_id",
            Self::Model => "model_id",
            Self::Region => "region",
            Self::Endpoint => "endpoint_type",
        }
    }

    /// What rows of calls have in the column's place.
    fn in_records(self) -> &'static str {
        match self {
            Self::Key => "COALESCE(key_id, 0)",
            other => other.column(),
        }
    }

    fn nothing(self) -> &'static str {
        match self {
            Self::User | Self::Key => "CAST(NULL AS BIGINT)",
            Self::Model | Self::Region | Self::Endpoint => "CAST(NULL AS TEXT)",
        }
    }
}

/// Whose usage, of which model, region and key, and what it is grouped by.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub user_id: Option<i64>,
    pub model_id: Option<String>,
    pub region: Option<String>,
    /// A key has one owner: whoever asks for one says whose it is, too, or everybody's keys are looked through.
    pub key_id: Option<i64>,
    by: Vec<Dimension>,
}

impl Selection {
    pub fn new(user_id: Option<i64>, model_id: Option<String>, by: &[Dimension]) -> Self {
        let by = Dimension::ALL.into_iter().filter(|dimension| by.contains(dimension)).collect();
        Self { user_id, model_id, by, ..Self::default() }
    }

    /// The same, in this region and with this key alone.
    pub fn within(self, region: Option<String>, key_id: Option<i64>) -> Self {
        Self { region, key_id, ..self }
    }

    /// The same, grouped by these.
    pub fn by(self, by: &[Dimension]) -> Self {
        let Self { user_id, model_id, region, key_id, .. } = self;
        Self::new(user_id, model_id, by).within(region, key_id)
    }

    /// Whether this is one of its groups, by what they tell apart.
    pub fn has(&self, group: &Group) -> bool {
        let told = [
            (Dimension::User, group.user_id.is_some()),
            (Dimension::Key, group.key_id.is_some()),
            (Dimension::Model, group.model_id.is_some()),
            (Dimension::Region, group.region.is_some()),
            (Dimension::Endpoint, group.endpoint_type.is_some()),
        ];
        told.into_iter().all(|(dimension, told)| self.is_by(dimension) == told)
    }

    pub fn is_by(&self, dimension: Dimension) -> bool {
        self.by.contains(&dimension)
    }

    /// The rows with no more detail than is needed: they are the fewest.
    fn detail(&self) -> &'static str {
        let people = self.user_id.is_some() || self.is_by(Dimension::User);
        let names = [Dimension::Model, Dimension::Region, Dimension::Endpoint];
        let names = self.model_id.is_some()
            || self.region.is_some()
            || names.into_iter().any(|name| self.is_by(name));
        match (people, names, self.key_id.is_some() || self.is_by(Dimension::Key)) {
            (false, _, false) => super::EVERYBODY,
            (true, false, false) => super::PERSON,
            _ => super::KEY,
        }
    }
}

/// A sum's place in a list: its period, and what it is grouped by. Lists go backwards through all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, QueryableByName)]
pub struct Group {
    #[diesel(sql_type = SqlTimestamp)]
    pub period_start: Timestamp,
    /// `None` = not grouped by; so for the others.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub user_id: Option<i64>,
    /// 0 = no key.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub key_id: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    pub model_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub region: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub endpoint_type: Option<String>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(embed)]
    group: Group,
    #[diesel(embed)]
    measures: Summed,
}

macro_rules! summed {
    ($($name:ident from $record:literal,)*) => {
        #[derive(QueryableByName)]
        struct Summed {
            $(#[diesel(sql_type = BigInt)] $name: i64,)*
        }

        impl std::convert::From<Summed> for Measures {
            fn from(summed: Summed) -> Self {
                Self { $($name: summed.$name,)* }
            }
        }

        const SUMS: &str = concat!(
            $(", CAST(COALESCE(SUM(", stringify!($name), "), 0) AS BIGINT) AS ", stringify!($name),)*
        );
        const SUMS_OF_RECORDS: &str = concat!(
            $(", CAST(COALESCE(SUM(", $record, "), 0) AS BIGINT) AS ", stringify!($name),)*
        );
    };
}
summed! {
    requests from "1",
    errors from "CASE WHEN outcome = 'success' THEN 0 ELSE 1 END",
    input_tokens from "input_tokens",
    output_tokens from "output_tokens",
    cache_write_tokens from "cache_write_tokens",
    cache_write_1h_tokens from "cache_write_1h_tokens",
    cache_read_tokens from "cache_read_tokens",
    cost_nano_usd from "cost_nano_usd",
    unpriced from "CASE WHEN cost_nano_usd IS NULL THEN 1 ELSE 0 END",
    estimated from "CASE WHEN estimated THEN 1 ELSE 0 END",
    duration_ms from "response_time_ms",
    duration_count from "CASE WHEN response_time_ms IS NULL THEN 0 ELSE 1 END",
    first_byte_ms from "time_to_first_byte_ms",
    first_byte_count from "CASE WHEN time_to_first_byte_ms IS NULL THEN 0 ELSE 1 END",
}

/// Sums by group.
pub type Groups = BTreeMap<Group, Measures>;

/// A part of a range, and where its sums come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub level: Level,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// What a list of one kind of period is put together from: the periods that are built, and the finer ones that are not
/// part of those yet.
fn list_segments(
    levels: &Levels,
    period: Period,
    start: Timestamp,
    end: Timestamp,
) -> (Segment, Vec<Segment>) {
    let (start, end) = (period.ceil(start), period.ceil(end));
    let built = levels.built_before(period).clamp(start, end.max(start));
    let segment = |period, from, to| Segment { level: Level::Summaries(period), from, to };
    let whole = segment(period, start, built.min(end));
    let rest = match period {
        Period::Hourly => Vec::new(),
        Period::Daily => vec![segment(Period::Hourly, built, end)],
        Period::Weekly | Period::Monthly => {
            let days = levels.built_before(Period::Daily).clamp(built, end.max(built));
            vec![segment(Period::Daily, built, days), segment(Period::Hourly, days, end)]
        }
    };
    (whole, rest.into_iter().filter(|segment| segment.from < segment.to).collect())
}

/// A range as it can be summed up: where only coarser summaries are left, it is widened to their bounds.
pub fn widened(levels: &Levels, start: Timestamp, end: Timestamp) -> (Timestamp, Timestamp) {
    let (mut start, mut end) = (start, end);
    for (level, coarser) in [
        (Level::Records, Period::Hourly),
        (Level::Summaries(Period::Hourly), Period::Daily),
        (Level::Summaries(Period::Daily), Period::Monthly),
    ] {
        let cleaned = levels.cleaned_before(level);
        // What is missing before a start is not needed; an end is cut out of the whole period that holds it, and one on
        // a bound cuts nothing.
        if start < cleaned {
            start = coarser.floor(start);
        }
        if coarser.floor(end) < cleaned {
            end = coarser.ceil(end);
        }
    }
    (start, end)
}

/// What the sums of a range, [`widened`], are put together from: the longest periods that fit, and are parts of `by`, if
/// the sums are by that.
pub(super) fn total_segments(
    levels: &Levels,
    start: Timestamp,
    end: Timestamp,
    by: Option<Period>,
) -> Vec<Segment> {
    let periods: &[Period] = match by {
        None => &[Period::Monthly, Period::Weekly, Period::Daily, Period::Hourly],
        Some(Period::Monthly) => &[Period::Monthly, Period::Daily, Period::Hourly],
        Some(Period::Weekly) => &[Period::Weekly, Period::Daily, Period::Hourly],
        Some(Period::Daily) => &[Period::Daily, Period::Hourly],
        Some(Period::Hourly) => &[Period::Hourly],
    };
    let mut segments = Vec::new();
    let mut open = vec![(start, end)];
    for &period in periods {
        let mut left = Vec::new();
        for (from, to) in open {
            // Days may be kept for longer than the weeks that are made of them.
            let kept = match period {
                Period::Weekly => from.max(levels.cleaned_before(Level::Summaries(period))),
                _ => from,
            };
            let first = period.ceil(kept);
            let last = period.floor(to).min(levels.built_before(period));
            if first >= last {
                left.push((from, to));
                continue;
            }
            segments.push(Segment { level: Level::Summaries(period), from: first, to: last });
            left.push((from, first));
            left.push((last, to));
        }
        open = left.into_iter().filter(|(from, to)| from < to).collect();
    }
    segments.extend(open.into_iter().map(|(from, to)| Segment { level: Level::Records, from, to }));
    segments
}

/// The total of a range, by group.
pub async fn total(
    conn: &mut Conn,
    levels: &Levels,
    selection: &Selection,
    start: Timestamp,
    end: Timestamp,
) -> Result<Groups, DbError> {
    let mut groups = Groups::new();
    for segment in total_segments(levels, start, end, None) {
        let statement = Statement::new(selection, segment, None);
        for (group, measures) in statement.all(conn).await? {
            *groups.entry(Group { period_start: start, ..group }).or_default() += measures;
        }
    }
    Ok(groups)
}

/// The sums of a range of whole days, [`widened`], by group and period; of a period that the range cuts, the part inside.
pub async fn by_period(
    conn: &mut Conn,
    levels: &Levels,
    selection: &Selection,
    (start, end): (Timestamp, Timestamp),
    period: Period,
) -> Result<Groups, DbError> {
    let mut groups = Groups::new();
    for segment in total_segments(levels, start, end, Some(period)) {
        let statement = Statement::new(selection, segment, Some(period));
        for (group, measures) in statement.all(conn).await? {
            let period_start = period.floor(group.period_start);
            *groups.entry(Group { period_start, ..group }).or_default() += measures;
        }
    }
    Ok(groups)
}

/// Where a page begins.
#[derive(Debug, Clone)]
pub enum From {
    Offset(i64),
    /// After this group, in the order of the list.
    After(Group),
}

/// A page of a list, newest first, and how many groups there are in all, counted up to one more than `cap`.
#[derive(Debug)]
pub struct Page {
    pub groups: Vec<(Group, Measures)>,
    pub total: i64,
}

/// The sums of the periods that start in a range.
pub async fn list(
    conn: &mut Conn,
    levels: &Levels,
    selection: &Selection,
    (period, start, end): (Period, Timestamp, Timestamp),
    (from, limit): (&From, i64),
    cap: i64,
) -> Result<Page, DbError> {
    let (whole, rest) = list_segments(levels, period, start, end);
    let mut newest = Groups::new();
    for segment in rest {
        let statement = Statement::new(selection, segment, Some(period));
        for (group, measures) in statement.all(conn).await? {
            let period_start = period.floor(group.period_start);
            *newest.entry(Group { period_start, ..group }).or_default() += measures;
        }
    }
    let in_rest = i64::try_from(newest.len()).unwrap_or(i64::MAX);
    let statement = Statement::new(selection, whole, Some(period));
    let counted = if whole.from < whole.to { statement.count(conn, cap + 1).await? } else { 0 };
    let total = in_rest.saturating_add(counted).min(cap + 1);

    let (mut groups, offset): (Vec<_>, i64) = match from {
        From::Offset(offset) => {
            let skip = usize::try_from(*offset).unwrap_or(usize::MAX);
            (newest.into_iter().rev().skip(skip).collect(), (offset - in_rest).max(0))
        }
        From::After(last) => {
            (newest.into_iter().rev().filter(|(group, _)| group < last).collect(), 0)
        }
    };
    let wanted = usize::try_from(limit).unwrap_or(0);
    groups.truncate(wanted);
    let missing = i64::try_from(wanted - groups.len()).unwrap_or(0);
    if missing > 0 && whole.from < whole.to {
        let after = match from {
            From::After(last) => Some(last),
            From::Offset(_) => None,
        };
        groups.extend(statement.page(conn, after, offset, missing).await?);
    }
    Ok(Page { groups, total })
}

/// One statement over one source. Its text is made of constants; every value is bound.
struct Statement<'a> {
    selection: &'a Selection,
    segment: Segment,
    /// Whether the sums are by period, too.
    by_period: bool,
}

macro_rules! load {
    ($conn:expr, $text:expr, $values:expr) => {
        on_conn!($conn, c => {
            let mut query = diesel::sql_query($text).into_boxed();
            for value in $values {
                query = match value {
                    Value::Number(number) => query.bind::<BigInt, _>(number),
                    Value::Text(text) => query.bind::<Text, _>(text),
                    Value::Time(time) => query.bind::<SqlTimestamp, _>(time),
                };
            }
            query.load(c).await
        })
    };
}

enum Value {
    Number(i64),
    Text(String),
    Time(Timestamp),
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

impl<'a> Statement<'a> {
    fn new(selection: &'a Selection, segment: Segment, list: Option<Period>) -> Self {
        Self { selection, segment, by_period: list.is_some() }
    }

    /// What the rows are, and what is bound for it.
    fn source(&self) -> (String, Vec<Value>) {
        let Segment { level, from, to } = self.segment;
        let mut values = Vec::new();
        let mut text = match level {
            Level::Records => {
                values.extend([Value::Time(from), Value::Time(to)]);
                " FROM usage_records WHERE request_time >= $1 AND request_time < $2".to_owned()
            }
            Level::Summaries(period) => {
                let [period, detail] = [period.as_str(), self.selection.detail()]
                    .map(|text| Value::Text(text.to_owned()));
                values.extend([period, detail, Value::Time(from), Value::Time(to)]);
                " FROM usage_summaries WHERE period_type = $1 AND detail = $2 \
                 AND period_start >= $3 AND period_start < $4"
                    .to_owned()
            }
        };
        if let Some(user_id) = self.selection.user_id {
            values.push(Value::Number(user_id));
            text.push_str(&format!(" AND user_id = ${}", values.len()));
        }
        if let Some(model_id) = &self.selection.model_id {
            values.push(Value::Text(model_id.clone()));
            text.push_str(&format!(" AND model_id = ${}", values.len()));
        }
        if let Some(region) = &self.selection.region {
            values.push(Value::Text(region.clone()));
            text.push_str(&format!(" AND region = ${}", values.len()));
        }
        if let Some(key_id) = self.selection.key_id {
            values.push(Value::Number(key_id));
            text.push_str(&format!(" AND key_id = ${}", values.len()));
        }
        (text, values)
    }

    /// The columns that are grouped by.
    fn keys(&self) -> Vec<&'static str> {
        let records = self.segment.level == Level::Records;
        let dimensions = self
            .selection
            .by
            .iter()
            .map(|dimension| if records { dimension.in_records() } else { dimension.column() });
        self.by_period.then_some("period_start").into_iter().chain(dimensions).collect()
    }

    fn grouped(&self) -> String {
        let keys = self.keys();
        if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) }
    }

    fn select(&self) -> String {
        let records = self.segment.level == Level::Records;
        let start = match (self.by_period, records) {
            (true, _) => "period_start",
            (false, false) => "MIN(period_start)",
            (false, true) => "MIN(request_time)",
        };
        let mut text = format!("SELECT {start} AS period_start");
        for dimension in Dimension::ALL {
            let column = match (self.selection.is_by(dimension), records) {
                (true, true) => dimension.in_records(),
                (true, false) => dimension.column(),
                (false, _) => dimension.nothing(),
            };
            text.push_str(&format!(", {column} AS {}", dimension.column()));
        }
        text.push_str(if records { SUMS_OF_RECORDS } else { SUMS });
        text
    }

    /// SQLite, which has no statistics here, would read everybody's sums of the range for those of one person.
    fn hinted(&self, conn: &Conn, text: String) -> String {
        match conn {
            Conn::Sqlite(_) if self.selection.user_id.is_some() => text.replacen(
                " FROM usage_summaries ",
                " FROM usage_summaries INDEXED BY usage_summaries_user ",
                1,
            ),
            _ => text,
        }
    }

    /// All groups.
    async fn all(&self, conn: &mut Conn) -> Result<Vec<(Group, Measures)>, DbError> {
        let (source, values) = self.source();
        // A sum of nothing would be a row, too, where nothing is grouped by.
        let text = format!("{}{source}{} HAVING COUNT(*) > 0", self.select(), self.grouped());
        let text = self.hinted(conn, text);
        let rows: Vec<Row> = load!(conn, text.clone(), values)?;
        Ok(rows.into_iter().map(|row| (row.group, row.measures.into())).collect())
    }

    async fn count(&self, conn: &mut Conn, cap: i64) -> Result<i64, DbError> {
        let (source, mut values) = self.source();
        values.push(Value::Number(cap));
        let text = format!(
            "SELECT COUNT(*) AS count FROM (SELECT 1 AS one{source}{} LIMIT ${}) AS counted",
            self.grouped(),
            values.len()
        );
        let text = self.hinted(conn, text);
        let counted: Vec<Counted> = load!(conn, text.clone(), values)?;
        Ok(counted.into_iter().next().map_or(0, |counted| counted.count))
    }

    async fn page(
        &self,
        conn: &mut Conn,
        after: Option<&Group>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<(Group, Measures)>, DbError> {
        let (mut source, mut values) = self.source();
        let keys = self.keys();
        if let Some(after) = after {
            let mut last = vec![Value::Time(after.period_start)];
            for dimension in &self.selection.by {
                let number = |number: Option<i64>| Value::Number(number.unwrap_or(0));
                let text = |text: &Option<String>| Value::Text(text.clone().unwrap_or_default());
                last.push(match dimension {
                    Dimension::User => number(after.user_id),
                    Dimension::Key => number(after.key_id),
                    Dimension::Model => text(&after.model_id),
                    Dimension::Region => text(&after.region),
                    Dimension::Endpoint => text(&after.endpoint_type),
                });
            }
            let places: Vec<String> =
                (values.len() + 1..=values.len() + last.len()).map(|at| format!("${at}")).collect();
            source.push_str(&format!(" AND ({}) < ({})", keys.join(", "), places.join(", ")));
            values.extend(last);
        }
        let backwards: Vec<String> = keys.iter().map(|key| format!("{key} DESC")).collect();
        values.extend([Value::Number(limit), Value::Number(offset)]);
        let text = format!(
            "{}{source}{} ORDER BY {} LIMIT ${} OFFSET ${}",
            self.select(),
            self.grouped(),
            backwards.join(", "),
            values.len() - 1,
            values.len()
        );
        let text = self.hinted(conn, text);
        let rows: Vec<Row> = load!(conn, text.clone(), values)?;
        Ok(rows.into_iter().map(|row| (row.group, row.measures.into())).collect())
    }
}

/// The start of the first period that there is anything of.
///
/// # Errors
/// The database's.
pub async fn first(conn: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    use crate::db::schema::usage_summaries as table;
    use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};

    let mut first = None;
    for period in [Period::Monthly, Period::Daily, Period::Hourly] {
        let query = table::table
            .filter(table::period_type.eq(period.as_str()))
            .filter(table::detail.eq(super::EVERYBODY))
            .select(table::period_start)
            .order(table::period_start);
        let found: Option<Timestamp> = on_conn!(conn, c => query.first(c).await.optional())?;
        first = first.into_iter().chain(found).min();
    }
    Ok(first)
}
