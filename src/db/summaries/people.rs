//! Who spent what: over everybody's sums, each in one statement that answers few rows, however many people there are.

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text, Timestamp as SqlTimestamp},
};
use diesel_async::RunQueryDsl;

use super::read::{Segment, total_segments};
use crate::db::{
    Conn, DbError, Timestamp,
    levels::{Level, Levels},
    on_conn,
};

/// What somebody used in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Spender {
    #[diesel(sql_type = BigInt)]
    pub user_id: i64,
    #[diesel(sql_type = BigInt)]
    pub requests: i64,
    #[diesel(sql_type = BigInt)]
    pub tokens: i64,
    #[diesel(sql_type = BigInt)]
    pub cost_nano_usd: i64,
    #[diesel(sql_type = BigInt)]
    pub unpriced: i64,
    /// How many people used anything.
    #[diesel(sql_type = BigInt)]
    pub people: i64,
}

/// Somebody who spends more than before, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Mover {
    #[diesel(sql_type = BigInt)]
    pub user_id: i64,
    #[diesel(sql_type = BigInt)]
    pub recent_nano_usd: i64,
    #[diesel(sql_type = BigInt)]
    pub before_nano_usd: i64,
}

impl Mover {
    pub fn change(&self) -> i64 {
        self.recent_nano_usd - self.before_nano_usd
    }
}

/// The sums of people that a range is put together from, as one source of rows.
struct Source {
    text: String,
    values: Vec<Value>,
}

enum Value {
    Text(&'static str),
    Time(Timestamp),
}

impl Source {
    fn new() -> Self {
        Self { text: String::new(), values: vec![Value::Text(super::PERSON)] }
    }

    /// Adds the rows of a range of whole days, [`widened`](super::read::widened), with these columns.
    fn add(&mut self, columns: &str, levels: &Levels, (start, end): (Timestamp, Timestamp)) {
        for Segment { level, from, to } in total_segments(levels, start, end, None) {
            // Whole days are put together from summaries alone.
            let Level::Summaries(period) = level else { continue };
            let at = self.values.len() + 1;
            self.values.extend([Value::Text(period.as_str()), Value::Time(from), Value::Time(to)]);
            if !self.text.is_empty() {
                self.text.push_str(" UNION ALL ");
            }
            // SQLite numbers what is bound in the order in which it comes first.
            self.text.push_str(&format!(
                "SELECT user_id, {columns} FROM usage_summaries WHERE detail = $1 AND period_type = ${at} \
                 AND period_start >= ${} AND period_start < ${}",
                at + 1,
                at + 2
            ));
        }
    }
}

macro_rules! load {
    ($conn:expr, $text:expr, $values:expr, $limit:expr) => {
        on_conn!($conn, c => {
            let mut query = diesel::sql_query($text).into_boxed();
            for value in $values {
                query = match value {
                    Value::Text(text) => query.bind::<Text, _>(text),
                    Value::Time(time) => query.bind::<SqlTimestamp, _>(time),
                };
            }
            query.bind::<BigInt, _>($limit).load(c).await
        })
    };
}

/// Those who spent most in a range of whole days, [`widened`](super::read::widened).
///
/// # Errors
/// The database's.
pub async fn top(
    conn: &mut Conn,
    levels: &Levels,
    range: (Timestamp, Timestamp),
    limit: i64,
) -> Result<Vec<Spender>, DbError> {
    const TOKENS: &str = "input_tokens + output_tokens + cache_write_tokens + cache_read_tokens";
    let mut source = Source::new();
    let columns = format!("requests, {TOKENS} AS tokens, cost_nano_usd, unpriced");
    source.add(&columns, levels, range);
    if source.text.is_empty() {
        return Ok(Vec::new());
    }
    // Worked out apart, or Postgres starts workers for it, which takes longer than the work.
    let text = format!(
        "WITH spent AS MATERIALIZED (SELECT user_id, CAST(SUM(requests) AS BIGINT) AS requests, \
         CAST(SUM(tokens) AS BIGINT) AS tokens, CAST(SUM(cost_nano_usd) AS BIGINT) AS cost_nano_usd, \
         CAST(SUM(unpriced) AS BIGINT) AS unpriced FROM ({}) AS parts GROUP BY user_id) \
         SELECT user_id, requests, tokens, cost_nano_usd, unpriced, (SELECT COUNT(*) FROM spent) AS people \
         FROM spent ORDER BY cost_nano_usd DESC, requests DESC, user_id LIMIT ${}",
        source.text,
        source.values.len() + 1
    );
    Ok(load!(conn, text.clone(), source.values, limit)?)
}

/// Those whose spend differs most between two ranges of whole days that are kept: first `limit` at most who spend more,
/// then as many who spend less, the greatest differences outermost.
///
/// # Errors
/// The database's.
pub async fn movers(
    conn: &mut Conn,
    levels: &Levels,
    recent: (Timestamp, Timestamp),
    before: (Timestamp, Timestamp),
    limit: i64,
) -> Result<Vec<Mover>, DbError> {
    let mut source = Source::new();
    source.add("cost_nano_usd AS recent, 0 AS earlier", levels, recent);
    source.add("0 AS recent, cost_nano_usd AS earlier", levels, before);
    if source.text.is_empty() {
        return Ok(Vec::new());
    }
    let place = source.values.len() + 1;
    // Both ends of one order; ties by id, so that it is always the same.
    let text = format!(
        "WITH moved AS MATERIALIZED (SELECT user_id, CAST(SUM(recent) AS BIGINT) AS recent_nano_usd, \
         CAST(SUM(earlier) AS BIGINT) AS before_nano_usd FROM ({}) AS parts GROUP BY user_id) \
         SELECT * FROM (SELECT * FROM moved WHERE recent_nano_usd > before_nano_usd \
         ORDER BY recent_nano_usd - before_nano_usd DESC, user_id LIMIT ${place}) AS more \
         UNION ALL SELECT * FROM (SELECT * FROM moved WHERE recent_nano_usd < before_nano_usd \
         ORDER BY recent_nano_usd - before_nano_usd, user_id LIMIT ${place}) AS less",
        source.text
    );
    let mut found: Vec<Mover> = load!(conn, text.clone(), source.values, limit)?;
    found.sort_by_key(|mover| (-mover.change(), mover.user_id));
    Ok(found)
}
