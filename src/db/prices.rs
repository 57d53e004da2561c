//! The price ledger. Rows are added and never changed or removed: a call names the row that priced it, and the highest id
//! is the ledger's version.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use super::{
    Conn, DbError, SqliteAsync, Timestamp,
    audit::{Append, Event, Origin},
    in_audited_transaction,
    levels::{Hands, Hold},
    on_conn,
    schema::model_costs,
    users::{contains, lower},
};
use crate::cache::Structural;

/// Rows a statement: 16 columns each, well below what either database binds at once.
const ROWS_PER_STATEMENT: usize = 500;

macro_rules! price_columns {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// A row to add.
        #[derive(Debug, Clone, PartialEq, Insertable)]
        #[diesel(table_name = model_costs, treat_none_as_default_value = false)]
        pub struct NewModelCost {
            $($(#[$doc])* pub $name: $kind,)*
        }

        /// A row of the ledger.
        #[derive(Debug, Clone, PartialEq, Queryable, Selectable, Serialize, Deserialize, Structural)]
        #[diesel(table_name = model_costs)]
        pub struct ModelCost {
            pub id: i64,
            $($(#[$doc])* pub $name: $kind,)*
        }

        #[cfg(test)]
        impl NewModelCost {
            /// As the ledger would keep it.
            pub fn kept(self, id: i64) -> ModelCost {
                ModelCost { id, $($name: self.$name,)* }
            }
        }
    };
}
price_columns! {
    /// `*` = any region without a row of its own.
    region: String,
    model_id: String,
    valid_from: Timestamp,
    /// From `valid_from` on there is no price here.
    ended: bool,
    /// Pico-dollars per token, as all that follow; `None` = unknown or not offered, 0 = free.
    input: Option<i64>,
    output: Option<i64>,
    /// For five minutes.
    cache_write: Option<i64>,
    cache_write_1h: Option<i64>,
    cache_read: Option<i64>,
    /// The same for calls with a long prompt; all `None` where there is no such tier.
    long_input: Option<i64>,
    long_output: Option<i64>,
    long_cache_write: Option<i64>,
    long_cache_write_1h: Option<i64>,
    long_cache_read: Option<i64>,
    /// `shipped`, `imported` or `manual`.
    source: String,
    created_at: Timestamp,
}

/// Which prices to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub region: Option<String>,
    pub model_id: Option<String>,
    /// A part of the id, in lower case.
    pub part_of_id: Option<String>,
    /// Also prices that ended, that others took the place of, and that are still to come.
    pub history: bool,
}

/// The newest row of each region and id that began by `$now`, unless the price has ended; or all rows.
macro_rules! current {
    ($filter:expr, $now:expr) => {{
        let newer = diesel::alias!(model_costs as newer);
        let (at, id) = (newer.field(model_costs::valid_from), newer.field(model_costs::id));
        let same = newer
            .field(model_costs::region)
            .eq(model_costs::region)
            .and(newer.field(model_costs::model_id).eq(model_costs::model_id));
        let later = at
            .gt(model_costs::valid_from)
            .or(at.eq(model_costs::valid_from).and(id.gt(model_costs::id)));
        let mut query = model_costs::table.into_boxed();
        if !$filter.history {
            query = query
                .filter(model_costs::valid_from.le($now))
                .filter(model_costs::ended.eq(false))
                .filter(diesel::dsl::not(diesel::dsl::exists(
                    newer.filter(same).filter(at.le($now)).filter(later).select(id),
                )));
        }
        if let Some(region) = &$filter.region {
            query = query.filter(model_costs::region.eq(region.clone()));
        }
        if let Some(model_id) = &$filter.model_id {
            query = query.filter(model_costs::model_id.eq(model_id.clone()));
        }
        if let Some(part) = &$filter.part_of_id {
            query = query
                .filter(lower(model_costs::model_id.nullable()).like(contains(part)).escape('\\'));
        }
        query
    }};
}

impl ModelCost {
    /// The prices that count now, or all, newest first: `limit` of them with ids below `before`, after passing over `offset`.
    pub async fn list(
        conn: &mut Conn,
        filter: &Filter,
        now: Timestamp,
        before: Option<i64>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        Ok(on_conn!(conn, c => {
            let mut query = current!(filter, now);
            if let Some(before) = before {
                query = query.filter(model_costs::id.lt(before));
            }
            query
                .order(model_costs::id.desc())
                .offset(offset)
                .limit(limit)
                .select(Self::as_select())
                .load(c)
                .await
        })?)
    }

    /// The same, by id and region: `limit` after passing over `offset`.
    pub async fn by_name(
        conn: &mut Conn,
        filter: &Filter,
        now: Timestamp,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        let order = (
            model_costs::model_id.asc(),
            model_costs::region.asc(),
            model_costs::valid_from.desc(),
            model_costs::id.desc(),
        );
        Ok(on_conn!(conn, c => {
            let query = current!(filter, now).order(order).offset(offset).limit(limit);
            query.select(Self::as_select()).load(c).await
        })?)
    }

    /// The regions that have prices of their own now, in order.
    pub async fn regions(conn: &mut Conn) -> Result<Vec<String>, DbError> {
        let regions =
            model_costs::table.select(model_costs::region).distinct().order(model_costs::region);
        Ok(on_conn!(conn, c => regions.load(c).await)?)
    }

    /// How many prices count now; counting stops after `cap`.
    pub async fn count(
        conn: &mut Conn,
        filter: &Filter,
        now: Timestamp,
        cap: i64,
    ) -> Result<i64, DbError> {
        let ids: Vec<i64> = on_conn!(conn, c => {
            current!(filter, now).select(model_costs::id).limit(cap).load(c).await
        })?;
        Ok(i64::try_from(ids.len()).unwrap_or(cap))
    }

    /// The row with this id.
    pub async fn find(conn: &mut Conn, id: i64) -> Result<Option<Self>, DbError> {
        let query = model_costs::table.find(id);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).first(c).await.optional())?)
    }

    /// Every row of one region and id, what is valid latest first.
    pub async fn history(
        conn: &mut Conn,
        region: &str,
        model_id: &str,
    ) -> Result<Vec<Self>, DbError> {
        let query = model_costs::table
            .filter(model_costs::region.eq(region).and(model_costs::model_id.eq(model_id)))
            .order((model_costs::valid_from.desc(), model_costs::id.desc()));
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }

    /// The whole ledger.
    pub async fn all(conn: &mut Conn) -> Result<Vec<Self>, DbError> {
        let query = model_costs::table.order(model_costs::id);
        Ok(on_conn!(conn, c => query.select(Self::as_select()).load(c).await)?)
    }
}

/// The ledger's newest row: its id, which is the ledger's version, and when it was added; `None` while it is empty.
pub async fn newest(conn: &mut Conn) -> Result<Option<(i64, Timestamp)>, DbError> {
    let query = model_costs::table
        .order(model_costs::id.desc())
        .select((model_costs::id, model_costs::created_at));
    Ok(on_conn!(conn, c => query.first(c).await.optional())?)
}

/// A change of the ledger: rows to add, the event that says so, and what the caller is to know.
pub struct Change<T> {
    pub rows: Vec<NewModelCost>,
    /// The event's type, object and metadata; `None` = nothing happened.
    pub event: Option<(&'static str, String, serde_json::Value)>,
    pub answer: T,
}

/// Changes the ledger: `decide` is given the time, and every row of these models (`None` = of all). No usage is written meanwhile, so
/// a price counts for exactly those calls that begin after the time.
///
/// # Errors
/// The database's; then nothing was changed.
pub async fn change<T: Send>(
    conn: &mut Conn,
    models: Option<&[&str]>,
    origin: &Origin,
    decide: impl FnOnce(Timestamp, Vec<ModelCost>) -> Change<T> + Send,
) -> Result<T, DbError> {
    in_audited_transaction!(conn, c => {
        c.hold_levels(Hold::Alone).await?;
        let now = super::now();
        let mut known = model_costs::table.order(model_costs::id).into_boxed();
        if let Some(models) = models {
            known = known.filter(model_costs::model_id.eq_any(models));
        }
        let known = known.select(ModelCost::as_select()).load(c).await?;
        let Change { rows, event, answer } = decide(now, known);
        if !rows.is_empty() {
            c.add_prices(rows).await?;
        }
        if let Some((event_type, object, metadata)) = event {
            c.append(Event { object, metadata, ..Event::new(now, event_type, origin) }).await?;
        }
        Ok::<T, DbError>(answer)
    })
}

/// Inside a transaction.
pub(crate) trait AddPrices {
    async fn add_prices(&mut self, rows: Vec<NewModelCost>) -> Result<(), DbError>;
}

impl AddPrices for diesel_async::AsyncPgConnection {
    async fn add_prices(&mut self, rows: Vec<NewModelCost>) -> Result<(), DbError> {
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            diesel::insert_into(model_costs::table).values(chunk).execute(self).await?;
        }
        Ok(())
    }
}

impl AddPrices for SqliteAsync {
    async fn add_prices(&mut self, rows: Vec<NewModelCost>) -> Result<(), DbError> {
        let work = move |c: &mut diesel::SqliteConnection| {
            rows.chunks(ROWS_PER_STATEMENT).try_for_each(|chunk| {
                let insert = diesel::insert_into(model_costs::table).values(chunk);
                diesel::RunQueryDsl::execute(insert, c).map(drop)
            })
        };
        Ok(self.spawn_blocking(work).await?)
    }
}
