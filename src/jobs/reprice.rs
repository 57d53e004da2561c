//! Gives calls that were made the costs that the price ledger says now, after a price was wrong or missing.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Done, JobError, Work};
use crate::{
    db::{
        self, DbError, Pool, Timestamp,
        audit::{self, Event, Origin},
        levels::{self, Level},
        usage as rows,
    },
    pricing::{ledger::Ledger, money::dollars},
};

/// The name of its lease and runs; it has no schedule.
pub const NAME: &str = "usage_reprice";
/// Rows a transaction.
const CHUNK: i64 = 1000;

/// The difference that it makes to calls of one model in one region.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    pub calls: u64,
    /// Nano-dollars, of the calls with a known cost.
    pub before: i128,
    pub after: i128,
    pub unpriced_before: u64,
    pub unpriced_after: u64,
}

/// What would change.
#[derive(Debug, Default)]
pub struct Preview {
    /// By region and model.
    pub differences: BTreeMap<(String, String), Difference>,
    /// Calls that were looked at.
    pub looked_at: u64,
    /// Rows from before are cleaned up: their costs stay as they are in the summaries.
    pub rows_from: Timestamp,
}

impl Preview {
    pub fn total(&self) -> Difference {
        self.differences.values().fold(Difference::default(), |mut sum, one| {
            sum.calls += one.calls;
            sum.before += one.before;
            sum.after += one.after;
            sum.unpriced_before += one.unpriced_before;
            sum.unpriced_after += one.unpriced_after;
            sum
        })
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |nano: i128| i64::try_from(nano).map_or_else(|_| nano.to_string(), dollars);
        write!(
            f,
            "{} calls: {} USD becomes {} USD; without a known cost {}, then {}",
            self.calls,
            shown(self.before),
            shown(self.after),
            self.unpriced_before,
            self.unpriced_after
        )
    }
}

/// What [`reprice`] would change.
///
/// # Errors
/// The database's.
pub async fn preview(
    pool: &Pool,
    from: Timestamp,
    mut looked_at: impl FnMut(u64),
) -> Result<Preview, DbError> {
    let mut conn = pool.reader().await?;
    let ledger = Ledger::read(&mut conn).await?;
    let rows_from = levels::read(&mut conn).await?.cleaned_before(Level::Records);
    drop(conn);
    let mut preview = Preview { rows_from, ..Preview::default() };
    let mut after = None;
    loop {
        let mut conn = pool.reader().await?;
        let chunk = rows::costed(&mut conn, from, after, CHUNK).await?;
        let Some(last) = chunk.last() else { return Ok(preview) };
        after = Some((last.request_time, last.id));
        preview.looked_at += chunk.len() as u64;
        for row in chunk {
            let (cost, price_id) = ledger.price_again(&row);
            if (cost, price_id) == (row.cost_nano_usd, row.price_id) {
                continue;
            }
            let one = preview.differences.entry((row.region, row.model_id)).or_default();
            one.calls += 1;
            one.before += i128::from(row.cost_nano_usd.unwrap_or(0));
            one.after += i128::from(cost.unwrap_or(0));
            one.unpriced_before += u64::from(row.cost_nano_usd.is_none());
            one.unpriced_after += u64::from(cost.is_none());
        }
        looked_at(preview.looked_at);
    }
}

/// Gives every call from `from` on its cost, and moves the summaries by the differences. Doing it again changes nothing.
///
/// # Errors
/// [`JobError`]; what was priced until then stays.
pub async fn reprice(work: &Work<'_>, from: Timestamp, origin: &Origin) -> Result<Done, JobError> {
    let mut ledger = Ledger::read(&mut work.writer().await?).await?;
    let (mut after, mut changed, mut chunks) = (None, 0, 0_u64);
    loop {
        let mut conn = work.writer().await?;
        let fence = work.fence.as_ref();
        let price = |row: &rows::Costed| ledger.price_again(row);
        let chunk =
            rows::reprice(&mut conn, fence, from, after, CHUNK, ledger.version, price).await?;
        if !chunk.current {
            ledger = Ledger::read(&mut conn).await?;
            continue;
        }
        changed += chunk.changed;
        chunks += 1;
        work.tell("calls", chunks * CHUNK as u64, None);
        if chunk.last.is_none() {
            break;
        }
        after = chunk.last;
    }
    let event = Event {
        object: "usage".to_owned(),
        metadata: json!({ "from": from.and_utc().to_rfc3339(), "calls": changed }),
        ..Event::new(db::now(), "usage_repriced", origin)
    };
    audit::record(&mut work.writer().await?, event).await?;
    Ok(Done { rows: changed, message: format!("priced {changed} calls anew") })
}
