//! Summaries of usage. Hours change in the transaction of the rows that they are sums of; longer periods are built from
//! shorter ones by [`build`], and from then on change with their rows, too.

pub mod build;
pub mod people;
pub mod read;

use std::{
    collections::BTreeMap,
    ops::{Add, AddAssign, Neg, Sub},
};

use diesel::{prelude::*, upsert::excluded};

use super::{
    DbError, SqliteAsync, Timestamp, levels::Levels, period::Period, schema::usage_summaries,
    usage::NewUsage,
};

/// What a row tells apart: of each key, model, region and endpoint; of each person alone; or of each model, region and
/// endpoint of everybody, with 0 for the user.
pub const KEY: &str = "key";
pub const PERSON: &str = "person";
pub const EVERYBODY: &str = "everybody";
pub const DETAILS: [&str; 3] = [KEY, PERSON, EVERYBODY];
/// Rows a statement: 21 columns each, well below what either database binds at once.
const ROWS_PER_STATEMENT: usize = 500;

/// What a summary is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Queryable, Selectable, Insertable)]
#[diesel(table_name = usage_summaries, treat_none_as_default_value = false)]
pub struct Place {
    pub detail: String,
    pub user_id: i64,
    /// 0 = none.
    pub key_id: i64,
    pub model_id: String,
    pub region: String,
    pub endpoint_type: String,
}

impl Place {
    pub(crate) fn of(row: &NewUsage) -> Self {
        let names = (row.model_id.as_str(), row.region.as_str(), row.endpoint_type.as_str());
        Self::of_key(row.user_id, row.key_id, names)
    }

    /// The place of calls of a person with a key, or none, by model, region and endpoint.
    pub(crate) fn of_key(
        user_id: i64,
        key_id: Option<i64>,
        (model_id, region, endpoint_type): (&str, &str, &str),
    ) -> Self {
        Self {
            detail: KEY.to_owned(),
            user_id,
            key_id: key_id.unwrap_or(0),
            model_id: model_id.to_owned(),
            region: region.to_owned(),
            endpoint_type: endpoint_type.to_owned(),
        }
    }

    /// The rows that the calls of a key are in besides their own.
    fn wider(&self) -> [Self; 2] {
        let nothing = String::new;
        let person = Self {
            detail: PERSON.to_owned(),
            user_id: self.user_id,
            key_id: 0,
            model_id: nothing(),
            region: nothing(),
            endpoint_type: nothing(),
        };
        let everybody =
            Self { detail: EVERYBODY.to_owned(), user_id: 0, key_id: 0, ..self.clone() };
        [person, everybody]
    }
}

macro_rules! measures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is summed up. Money is nano-dollars, of the calls whose cost is known.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Queryable, Selectable, Insertable)]
        #[diesel(table_name = usage_summaries, treat_none_as_default_value = false)]
        pub struct Measures {
            $($(#[$doc])* pub $name: i64,)*
        }

        impl AddAssign for Measures {
            fn add_assign(&mut self, other: Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)*
            }
        }

        impl Neg for Measures {
            type Output = Self;
            fn neg(self) -> Self {
                Self { $($name: self.$name.saturating_neg(),)* }
            }
        }

        /// Adds rows to what is there.
        macro_rules! adding {
            ($rows:expr) => {
                diesel::insert_into(usage_summaries::table)
                    .values($rows)
                    .on_conflict(usage_summaries::table.primary_key())
                    .do_update()
                    .set(($(usage_summaries::$name
                        .eq(usage_summaries::$name + excluded(usage_summaries::$name)),)*))
            };
        }

        /// Puts rows in the place of what is there.
        macro_rules! replacing {
            ($rows:expr) => {
                diesel::insert_into(usage_summaries::table)
                    .values($rows)
                    .on_conflict(usage_summaries::table.primary_key())
                    .do_update()
                    .set(($(usage_summaries::$name.eq(excluded(usage_summaries::$name)),)*))
            };
        }
    };
}
measures! {
    requests,
    /// Every outcome but success.
    errors,
    input_tokens,
    output_tokens,
    cache_write_tokens,
    cache_write_1h_tokens,
    cache_read_tokens,
    cost_nano_usd,
    /// Calls whose cost is not known.
    unpriced,
    estimated,
    duration_ms,
    duration_count,
    first_byte_ms,
    first_byte_count,
}

impl Measures {
    /// Of all classes.
    pub fn tokens(&self) -> i64 {
        self.input_tokens + self.output_tokens + self.cache_write_tokens + self.cache_read_tokens
    }

    /// Of one call.
    pub fn of(row: &NewUsage) -> Self {
        Self {
            requests: 1,
            errors: i64::from(row.outcome != "success"),
            input_tokens: row.input_tokens.unwrap_or(0),
            output_tokens: row.output_tokens.unwrap_or(0),
            cache_write_tokens: row.cache_write_tokens.unwrap_or(0),
            cache_write_1h_tokens: row.cache_write_1h_tokens.unwrap_or(0),
            cache_read_tokens: row.cache_read_tokens.unwrap_or(0),
            estimated: i64::from(row.estimated),
            duration_ms: row.response_time_ms.unwrap_or(0),
            duration_count: i64::from(row.response_time_ms.is_some()),
            first_byte_ms: row.time_to_first_byte_ms.unwrap_or(0),
            first_byte_count: i64::from(row.time_to_first_byte_ms.is_some()),
            ..Self::of_cost(row.cost_nano_usd)
        }
    }

    /// The part of a call that its cost makes.
    pub fn of_cost(cost_nano_usd: Option<i64>) -> Self {
        Self {
            cost_nano_usd: cost_nano_usd.unwrap_or(0),
            unpriced: i64::from(cost_nano_usd.is_none()),
            ..Self::default()
        }
    }

    /// Of the calls whose duration is known.
    pub fn average_duration_ms(&self) -> Option<i64> {
        average(self.duration_ms, self.duration_count)
    }

    pub fn average_first_byte_ms(&self) -> Option<i64> {
        average(self.first_byte_ms, self.first_byte_count)
    }

    /// What the calls cost whose cost is known; `None` = of none that cost anything.
    pub fn known_cost(&self) -> Option<i64> {
        (self.unpriced == 0 || self.cost_nano_usd > 0).then_some(self.cost_nano_usd)
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

fn average(sum: i64, count: i64) -> Option<i64> {
    (count > 0).then(|| (sum + count / 2) / count)
}

impl Add for Measures {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sub for Measures {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = usage_summaries, treat_none_as_default_value = false)]
pub struct UsageSummary {
    pub period_type: String,
    pub period_start: Timestamp,
    #[diesel(embed)]
    pub place: Place,
    #[diesel(embed)]
    pub measures: Measures,
}

/// Changes of summaries, in the order of the table's key, so that transactions take its rows in one order.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<(&'static str, Timestamp, Place), Measures>);

impl Changes {
    /// Adds what a row, or a correction of one, changes: in its hour and in every longer period that is built.
    pub(crate) fn note(
        &mut self,
        levels: &Levels,
        at: Timestamp,
        place: &Place,
        measures: Measures,
    ) {
        for period in Period::ALL {
            let start = period.floor(at);
            if levels.takes(period, start) {
                let [person, everybody] = place.wider();
                for place in [place.clone(), person, everybody] {
                    *self.0.entry((period.as_str(), start, place)).or_default() += measures;
                }
            }
        }
    }

    pub(crate) fn into_rows(self) -> Vec<UsageSummary> {
        let rows = self.0.into_iter().filter(|(_, measures)| !measures.is_zero());
        rows.map(|((period, period_start, place), measures)| UsageSummary {
            period_type: period.to_owned(),
            period_start,
            place,
            measures,
        })
        .collect()
    }
}

/// Inside a transaction that holds the levels: writes summaries.
pub(crate) trait WriteSummaries {
    async fn add(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError>;
    async fn replace(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError>;
}

impl WriteSummaries for diesel_async::AsyncPgConnection {
    async fn add(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError> {
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            diesel_async::RunQueryDsl::execute(adding!(chunk), self).await?;
        }
        Ok(())
    }

    async fn replace(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError> {
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            diesel_async::RunQueryDsl::execute(replacing!(chunk), self).await?;
        }
        Ok(())
    }
}

// diesel-async has no multi-row insert for SQLite: one hop onto the connection's own thread.
impl WriteSummaries for SqliteAsync {
    async fn add(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError> {
        let work = move |c: &mut diesel::SqliteConnection| {
            rows.chunks(ROWS_PER_STATEMENT)
                .try_for_each(|chunk| diesel::RunQueryDsl::execute(adding!(chunk), c).map(drop))
        };
        Ok(self.spawn_blocking(work).await?)
    }

    async fn replace(&mut self, rows: Vec<UsageSummary>) -> Result<(), DbError> {
        let work = move |c: &mut diesel::SqliteConnection| {
            rows.chunks(ROWS_PER_STATEMENT)
                .try_for_each(|chunk| diesel::RunQueryDsl::execute(replacing!(chunk), c).map(drop))
        };
        Ok(self.spawn_blocking(work).await?)
    }
}
