//! Usage rows: one for every call that reached upstream.

use std::{collections::HashSet, sync::Arc};

use diesel::{
    SqliteConnection,
    dsl::{max, sql},
    prelude::*,
    sql_types::Bool,
};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use super::{
    Conn, DbError, SqliteAsync, Timestamp, in_transaction,
    levels::{Fence, Hands, Hold},
    on_conn,
    schema::{model_costs, usage_records},
    summaries::{Changes, Measures, Place, WriteSummaries},
};

/// Rows per statement: 31 columns each, well below what either database binds at once.
const ROWS_PER_STATEMENT: usize = 500;

/// A finished call, as the journal keeps it and the database stores it.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Insertable)]
#[diesel(table_name = usage_records, treat_none_as_default_value = false)]
pub struct NewUsage {
    /// UUID version 7; a row is written once, however often it is sent.
    pub call_id: String,
    pub user_id: i64,
    pub key_id: Option<i64>,
    pub endpoint_type: String,
    pub operation: String,
    pub model_requested: String,
    pub model_id: String,
    pub region_requested: Option<String>,
    pub region: String,
    pub request_time: Timestamp,
    pub response_time_ms: Option<i64>,
    pub time_to_first_byte_ms: Option<i64>,
    pub streamed: bool,
    /// Tokens; `None` = not known, 0 = known to be none.
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    /// All cache writes; `cache_write_1h_tokens` is the part of them kept for an hour.
    pub cache_write_tokens: Option<i64>,
    pub cache_write_1h_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub status: Option<i32>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub upstream_attempts: i32,
    pub request_id: String,
    pub stop_reason: Option<String>,
    /// Whole nano-dollars; `None` = the price is not known.
    pub cost_nano_usd: Option<i64>,
    pub price_id: Option<i64>,
    pub upstream_request_id: Option<String>,
    pub client_session_id: Option<String>,
    pub client_agent_id: Option<String>,
}

/// A row as it is read back.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = usage_records)]
pub struct UsageRecord {
    pub id: i64,
    pub call_id: String,
    pub user_id: i64,
    pub key_id: Option<i64>,
    pub endpoint_type: String,
    pub operation: String,
    pub model_requested: String,
    pub model_id: String,
    pub region: String,
    pub request_time: Timestamp,
    pub response_time_ms: Option<i64>,
    pub time_to_first_byte_ms: Option<i64>,
    pub streamed: bool,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_write_tokens: Option<i64>,
    pub cache_write_1h_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub status: Option<i32>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub upstream_attempts: i32,
    pub request_id: String,
    pub stop_reason: Option<String>,
    pub cost_nano_usd: Option<i64>,
    pub price_id: Option<i64>,
    pub upstream_request_id: Option<String>,
    pub client_session_id: Option<String>,
    pub client_agent_id: Option<String>,
}

impl UsageRecord {
    /// Tokens of all classes that are known; `None` = of none.
    pub fn total_tokens(&self) -> Option<i64> {
        let counts = [
            self.input_tokens,
            self.output_tokens,
            self.cache_write_tokens,
            self.cache_read_tokens,
        ];
        counts.iter().any(Option::is_some).then(|| counts.iter().flatten().sum())
    }
}

/// What became of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// So many were new.
    Rows(usize),
    /// The price ledger has another version than the one that they were priced with: nothing was written.
    OldPrices,
}

/// Writes rows, and adds them to their summaries, in one transaction; a row whose call is there already changes nothing.
/// `version` is that of the price ledger that their costs come from.
///
/// # Errors
/// [`DbError`]; then nothing was written.
pub async fn insert_all(
    conn: &mut Conn,
    rows: Arc<Vec<NewUsage>>,
    version: i64,
) -> Result<Inserted, DbError> {
    in_transaction!(conn, c => {
        let levels = c.hold_levels(Hold::Shared).await?;
        let newest: Option<i64> = model_costs::table.select(max(model_costs::id)).first(c).await?;
        if newest.unwrap_or(0) != version {
            return Ok::<_, DbError>(Inserted::OldPrices);
        }
        let mut new: HashSet<String> = c.insert_rows(rows.clone()).await?.into_iter().collect();
        let inserted = new.len();
        let mut changes = Changes::default();
        // Of a call that is there twice the first row was written: each is taken off the set once.
        for row in rows.iter().filter(|row| new.remove(&row.call_id)) {
            changes.note(&levels, row.request_time, &Place::of(row), Measures::of(row));
        }
        c.add(changes.into_rows()).await?;
        Ok(Inserted::Rows(inserted))
    })
}

/// Inside a transaction: inserts rows, and answers the calls that were new.
trait InsertRows {
    async fn insert_rows(&mut self, rows: Arc<Vec<NewUsage>>) -> Result<Vec<String>, DbError>;
}

macro_rules! inserting {
    ($rows:expr) => {
        diesel::insert_into(usage_records::table)
            .values($rows)
            .on_conflict(usage_records::call_id)
            .do_nothing()
            .returning(usage_records::call_id)
    };
}

impl InsertRows for diesel_async::AsyncPgConnection {
    async fn insert_rows(&mut self, rows: Arc<Vec<NewUsage>>) -> Result<Vec<String>, DbError> {
        let mut new = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            let insert = inserting!(chunk);
            let inserted: Vec<String> =
                diesel_async::RunQueryDsl::get_results(insert, self).await?;
            new.extend(inserted);
        }
        Ok(new)
    }
}

// diesel-async has no multi-row insert for SQLite: one hop onto the connection's own thread.
impl InsertRows for SqliteAsync {
    async fn insert_rows(&mut self, rows: Arc<Vec<NewUsage>>) -> Result<Vec<String>, DbError> {
        let work = move |c: &mut SqliteConnection| {
            let mut new = Vec::with_capacity(rows.len());
            for chunk in rows.chunks(ROWS_PER_STATEMENT) {
                let inserted: Vec<String> = diesel::RunQueryDsl::get_results(inserting!(chunk), c)?;
                new.extend(inserted);
            }
            Ok(new)
        };
        Ok(self.spawn_blocking(work).await?)
    }
}

/// What a row's cost depends on, and what it is.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = usage_records)]
pub struct Costed {
    pub id: i64,
    pub request_time: Timestamp,
    pub user_id: i64,
    pub key_id: Option<i64>,
    pub endpoint_type: String,
    pub model_id: String,
    pub region: String,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_write_tokens: Option<i64>,
    pub cache_write_1h_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub estimated: bool,
    pub cost_nano_usd: Option<i64>,
    pub price_id: Option<i64>,
}

macro_rules! costed_after {
    ($time:expr, $id:expr, $limit:expr) => {{
        let same_time = usage_records::request_time.eq($time).and(usage_records::id.gt($id));
        usage_records::table
            .filter(usage_records::request_time.ge($time))
            .filter(usage_records::request_time.gt($time).or(same_time))
            .filter(usage_records::operation.ne("count_tokens"))
            .order((usage_records::request_time, usage_records::id))
            .limit($limit)
            .select(Costed::as_select())
    }};
}
/// Rows whose cost may have to change: a chunk of those from `from` on, after the row with this time and id, oldest
/// first. Counting tokens costs nothing whatever the prices.
pub async fn costed(
    conn: &mut Conn,
    from: Timestamp,
    after: Option<(Timestamp, i64)>,
    limit: i64,
) -> Result<Vec<Costed>, DbError> {
    let (time, id) = after.unwrap_or((from, 0));
    Ok(on_conn!(conn, c => costed_after!(time, id, limit).load(c).await)?)
}

impl Costed {
    /// What it adds to a sum, but for its times; `failed` is what its outcome says.
    pub fn measures(&self, failed: bool) -> Measures {
        Measures {
            requests: 1,
            errors: i64::from(failed),
            input_tokens: self.input_tokens.unwrap_or(0),
            output_tokens: self.output_tokens.unwrap_or(0),
            cache_write_tokens: self.cache_write_tokens.unwrap_or(0),
            cache_write_1h_tokens: self.cache_write_1h_tokens.unwrap_or(0),
            cache_read_tokens: self.cache_read_tokens.unwrap_or(0),
            estimated: i64::from(self.estimated),
            ..Measures::of_cost(self.cost_nano_usd)
        }
    }
}

/// A row's cost and the price that made it.
pub type Cost = (Option<i64>, Option<i64>);

/// A chunk of rows that were priced anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repriced {
    /// The last row looked at; `None` = there was none.
    pub last: Option<(Timestamp, i64)>,
    pub changed: usize,
    /// Whether the ledger still has the version that the costs come from. If not, nothing was written.
    pub current: bool,
}

/// Gives a chunk of [`costed`] rows the costs that `price` says, and moves their summaries by the differences, in one
/// transaction.
///
/// # Errors
/// The database's; [`DbError::LeaseLost`].
pub async fn reprice(
    conn: &mut Conn,
    fence: Option<&Fence>,
    from: Timestamp,
    after: Option<(Timestamp, i64)>,
    limit: i64,
    version: i64,
    price: impl Fn(&Costed) -> Cost + Send + Sync,
) -> Result<Repriced, DbError> {
    let (time, id) = after.unwrap_or((from, 0));
    in_transaction!(conn, c => {
        c.check_fence(fence).await?;
        let levels = c.hold_levels(Hold::Alone).await?;
        let newest: Option<i64> = model_costs::table.select(max(model_costs::id)).first(c).await?;
        if newest.unwrap_or(0) != version {
            return Ok::<_, DbError>(Repriced { last: after, changed: 0, current: false });
        }
        let rows: Vec<Costed> = costed_after!(time, id, limit).load(c).await?;
        let mut changes = Changes::default();
        let mut changed = 0;
        for row in &rows {
            let (cost, price_id) = price(row);
            if (cost, price_id) == (row.cost_nano_usd, row.price_id) {
                continue;
            }
            diesel::update(usage_records::table.find(row.id))
                .set((usage_records::cost_nano_usd.eq(cost), usage_records::price_id.eq(price_id)))
                .execute(c)
                .await?;
            let difference = Measures::of_cost(cost) - Measures::of_cost(row.cost_nano_usd);
            let names = (row.model_id.as_str(), row.region.as_str(), row.endpoint_type.as_str());
            let place = Place::of_key(row.user_id, row.key_id, names);
            changes.note(&levels, row.request_time, &place, difference);
            changed += 1;
        }
        c.add(changes.into_rows()).await?;
        let last = rows.last().map(|row| (row.request_time, row.id));
        Ok(Repriced { last, changed, current: true })
    })
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub user_id: Option<i64>,
    pub model: Option<String>,
    pub region: Option<String>,
    pub key_id: Option<i64>,
    pub outcome: Option<String>,
    /// Inclusive.
    pub start: Option<Timestamp>,
    /// Exclusive.
    pub end: Option<Timestamp>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Offset(i64),
    /// After the row with this time and id, in the order of the list.
    After(Timestamp, i64),
}

/// Above this, a list's total is not counted any further.
pub const COUNT_CAP: i64 = 10_000;

macro_rules! filtered {
    ($filter:expr) => {{
        let filter = $filter;
        let mut query = usage_records::table.into_boxed();
        if let Some(user_id) = filter.user_id {
            query = query.filter(usage_records::user_id.eq(user_id));
        }
        if let Some(model) = filter.model.as_deref() {
            query = query.filter(usage_records::model_id.eq(model));
        }
        if let Some(region) = filter.region.as_deref() {
            query = query.filter(usage_records::region.eq(region));
        }
        if let Some(key_id) = filter.key_id {
            query = query.filter(usage_records::key_id.eq(key_id));
        }
        if let Some(outcome) = filter.outcome.as_deref() {
            query = query.filter(usage_records::outcome.eq(outcome));
            if outcome != "success" {
                // As the index of the failed ones has it: they are few, and found by it alone.
                query = query.filter(sql::<Bool>("outcome <> 'success'"));
            }
        }
        if let Some(start) = filter.start {
            query = query.filter(usage_records::request_time.ge(start));
        }
        if let Some(end) = filter.end {
            query = query.filter(usage_records::request_time.lt(end));
        }
        query
    }};
}

/// A page of rows, newest first.
pub async fn list(
    conn: &mut Conn,
    filter: &Filter,
    from: From,
    limit: i64,
) -> Result<Vec<UsageRecord>, DbError> {
    Ok(on_conn!(conn, c => {
        let mut query = filtered!(filter);
        match from {
            From::Offset(offset) => query = query.offset(offset),
            From::After(time, id) => {
                let same_time = usage_records::request_time.eq(time).and(usage_records::id.lt(id));
                query = query
                    .filter(usage_records::request_time.le(time))
                    .filter(usage_records::request_time.lt(time).or(same_time));
            }
        }
        let page = query
            .order((usage_records::request_time.desc(), usage_records::id.desc()))
            .limit(limit)
            .select(UsageRecord::as_select());
        page.load(c).await
    })?)
}

/// One row, by its id.
pub async fn find(conn: &mut Conn, id: i64) -> Result<Option<UsageRecord>, DbError> {
    let query = usage_records::table.find(id);
    Ok(on_conn!(conn, c => query.select(UsageRecord::as_select()).first(c).await.optional())?)
}

/// What the newest rows used and cost, so many at most.
pub async fn newest(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<Costed>, DbError> {
    Ok(on_conn!(conn, c => {
        let rows = filtered!(filter)
            .order((usage_records::request_time.desc(), usage_records::id.desc()))
            .limit(limit)
            .select(Costed::as_select());
        rows.load(c).await
    })?)
}

/// The number of rows, counted up to one more than [`COUNT_CAP`].
pub async fn count(conn: &mut Conn, filter: &Filter) -> Result<i64, DbError> {
    let ids: Vec<i64> = on_conn!(conn, c => {
        // In the order of an index, which is then read no further than the limit.
        let first = filtered!(filter)
            .order((usage_records::request_time.desc(), usage_records::id.desc()))
            .select(usage_records::id)
            .limit(COUNT_CAP + 1);
        first.load(c).await
    })?;
    Ok(ids.len() as i64)
}
