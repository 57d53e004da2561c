//! The price ledger in the database: read into a [`Book`], and changed (`changes`). The one part of pricing that asks the
//! database.

mod changes;

use serde::{Deserialize, Serialize};

pub use changes::{Changed, Ended, Imported, Seeded, end, import, seed, set};

use super::{Book, Price, Rates, cost};
use crate::{
    cache::{CachedObject, Moment, TypedCache},
    db::{
        Conn, DbError, Timestamp,
        prices::{self, ModelCost},
        summaries::Measures,
        usage::{Cost, Costed, NewUsage},
    },
    usage::TokenCounts,
};

/// Shipped prices without a date of their own count for calls of any time.
pub fn always() -> Timestamp {
    chrono::NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default().into()
}

/// Who says what a price is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Shipped,
    Imported,
    Manual,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Imported => "imported",
            Self::Manual => "manual",
        }
    }
}

/// All rows of a ledger, by id. As rows are only added, the newest one names them all.
#[derive(Clone, Serialize, Deserialize, CachedObject)]
#[cache(name = "prices", ttl = 3600)]
struct Rows(Vec<ModelCost>);

/// By its time, too: after a restore the same number is given to another row.
fn name_of((id, created_at): (i64, Timestamp)) -> String {
    format!("{id} {}", created_at.and_utc().timestamp_micros())
}

/// The ledger as it was read.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The highest id in it.
    pub version: i64,
    book: Book,
}

impl Ledger {
    /// # Errors
    /// The database's.
    pub async fn read(conn: &mut Conn) -> Result<Self, DbError> {
        Ok(Self::from_rows(ModelCost::all(conn).await?))
    }

    /// The same, with rows that another instance read in the last hour; the database is asked for the version alone then.
    ///
    /// # Errors
    /// The database's.
    pub async fn read_shared(
        conn: &mut Conn,
        cache: &TypedCache,
        at: Moment,
    ) -> Result<Self, DbError> {
        // One instance keeps what it read as its ledger: a second copy would be for nobody.
        let newest = if cache.is_shared() { prices::newest(conn).await? } else { None };
        let Some(newest) = newest else { return Self::read(conn).await };
        if let Some(Rows(rows)) = cache.get(name_of(newest), at).await {
            return Ok(Self::from_rows(rows));
        }
        let rows = Rows(ModelCost::all(conn).await?);
        if let Some(last) = rows.0.last() {
            cache.put(name_of((last.id, last.created_at)), &rows, at).await;
        }
        Ok(Self::from_rows(rows.0))
    }

    /// `rows` by id.
    fn from_rows(rows: Vec<ModelCost>) -> Self {
        let version = rows.last().map_or(0, |row| row.id);
        Self { version, book: book(rows) }
    }

    /// Every model, profile and ARN in it.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.book.models()
    }

    /// What a row costs. `None` = the price of a class that it used is not known, or nothing is known of its tokens.
    /// Counting tokens costs nothing.
    pub fn price(&self, row: &NewUsage) -> Cost {
        if row.operation == "count_tokens" {
            return (Some(0), None);
        }
        let tokens = TokenCounts {
            input: row.input_tokens,
            output: row.output_tokens,
            cache_write: row.cache_write_tokens,
            cache_write_1h: row.cache_write_1h_tokens,
            cache_read: row.cache_read_tokens,
        };
        self.of(&row.region, &row.model_id, row.request_time, tokens, row.estimated)
    }

    /// The same for a row that was written.
    pub fn price_again(&self, row: &Costed) -> Cost {
        let tokens = TokenCounts {
            input: row.input_tokens,
            output: row.output_tokens,
            cache_write: row.cache_write_tokens,
            cache_write_1h: row.cache_write_1h_tokens,
            cache_read: row.cache_read_tokens,
        };
        self.of(&row.region, &row.model_id, row.request_time, tokens, row.estimated)
    }

    /// What keeps calls of a model from having a cost, given the tokens that they used together.
    pub fn lacks(
        &self,
        region: &str,
        model_id: &str,
        used: &Measures,
        now: Timestamp,
    ) -> Option<Lack> {
        let Some(price) = self.book.find(region, model_id, now) else { return Some(Lack::Price) };
        let five_minutes = used.cache_write_tokens - used.cache_write_1h_tokens;
        let classes = [
            (used.input_tokens, price.rates.input, Lack::Input),
            (used.output_tokens, price.rates.output, Lack::Output),
            (five_minutes, price.rates.cache_write, Lack::CacheWrite),
            (used.cache_write_1h_tokens, price.rates.cache_write_1h, Lack::CacheWrite1h),
            (used.cache_read_tokens, price.rates.cache_read, Lack::CacheRead),
        ];
        let lacking = classes.into_iter().find(|(used, rate, _)| *used > 0 && rate.is_none());
        lacking.map(|(.., lack)| lack)
    }

    fn of(
        &self,
        region: &str,
        model_id: &str,
        at: Timestamp,
        tokens: TokenCounts,
        estimated: bool,
    ) -> Cost {
        if estimated && tokens.is_empty() {
            return (None, None);
        }
        let price = self.book.find(region, model_id, at);
        (cost(&tokens, price), price.map(|price| price.id))
    }
}

/// What is not known of a model that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    Price,
    Input,
    Output,
    CacheWrite,
    CacheWrite1h,
    CacheRead,
    /// Nothing any more: its calls from before have no cost yet.
    Repricing,
}

impl Lack {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Price => "it has no price",
            Self::Input => "its price has none for input",
            Self::Output => "its price has none for output",
            Self::CacheWrite => "its price has none for cache writes of five minutes",
            Self::CacheWrite1h => "its price has none for cache writes of an hour",
            Self::CacheRead => "its price has none for cache reads",
            Self::Repricing => {
                "it has a price now; `job reprice` gives calls from before their cost"
            }
        }
    }
}

fn book(rows: Vec<ModelCost>) -> Book {
    Book::new(rows.into_iter().map(|row| {
        let price = price(&row);
        (row.region, row.model_id, price)
    }))
}

/// What a row says.
pub fn price(row: &ModelCost) -> Price {
    Price {
        id: row.id,
        valid_from: row.valid_from,
        ended: row.ended,
        rates: rates(row),
        long: long(row),
    }
}

/// The prices of a row.
pub fn rates(row: &ModelCost) -> Rates {
    Rates {
        input: row.input,
        output: row.output,
        cache_write: row.cache_write,
        cache_write_1h: row.cache_write_1h,
        cache_read: row.cache_read,
    }
}

/// Its prices for long prompts, where it has any.
pub fn long(row: &ModelCost) -> Option<Rates> {
    let long = Rates {
        input: row.long_input,
        output: row.long_output,
        cache_write: row.long_cache_write,
        cache_write_1h: row.long_cache_write_1h,
        cache_read: row.long_cache_read,
    };
    (long != Rates::default()).then_some(long)
}
