//! What is added to the ledger: shipped prices, an import, a price made or ended by hand.

use serde_json::json;

use super::{Source, always, book, long, rates};
use crate::{
    db::{
        Conn, DbError, Timestamp,
        audit::Origin,
        prices::{self, Change, ModelCost, NewModelCost},
    },
    pricing::{
        Book, Rates,
        import::{self, Comparison, Entry, Tiers},
        in_arn, money, shipped,
    },
};

/// Changes of an import that its event names; the ledger has all of them, with the time of the event.
const CHANGES_TOLD: usize = 100;

/// A row to add.
fn new_row(
    (region, model_id): (&str, &str),
    valid_from: Timestamp,
    (rates, long): Tiers,
    source: Source,
    now: Timestamp,
) -> NewModelCost {
    let long = long.unwrap_or_default();
    NewModelCost {
        region: region.to_owned(),
        model_id: model_id.to_owned(),
        valid_from,
        ended: false,
        input: rates.input,
        output: rates.output,
        cache_write: rates.cache_write,
        cache_write_1h: rates.cache_write_1h,
        cache_read: rates.cache_read,
        long_input: long.input,
        long_output: long.output,
        long_cache_write: long.cache_write,
        long_cache_write_1h: long.cache_write_1h,
        long_cache_read: long.cache_read,
        source: source.as_str().to_owned(),
        created_at: now,
    }
}

/// What seeding did, or found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seeded {
    pub added: usize,
    /// Shipped prices that were older and are now as shipped.
    pub refreshed: usize,
    /// Shipped prices that are older, and stay so without `--force-seed`.
    pub differing: usize,
}

/// Adds shipped prices that are not there at all. With `refresh` those that came with an older release become what this
/// one ships, from now on. What was imported, made by hand or ended by hand stays as it is.
///
/// # Errors
/// The database's.
pub async fn seed(conn: &mut Conn, refresh: bool, origin: &Origin) -> Result<Seeded, DbError> {
    // Mostly there is nothing to do, and nobody has to wait for it.
    let (rows, seeded) = plan_seed(&ModelCost::all(conn).await?, refresh, crate::db::now());
    if rows.is_empty() {
        return Ok(seeded);
    }
    prices::change(conn, None, origin, move |now, known| {
        let (rows, seeded) = plan_seed(&known, refresh, now);
        let Seeded { added, refreshed, .. } = seeded;
        let metadata = json!({ "added": added, "refreshed": refreshed });
        let event = (!rows.is_empty()).then(|| ("prices_seeded", "prices".to_owned(), metadata));
        Change { rows, event, answer: seeded }
    })
    .await
}

fn plan_seed(known: &[ModelCost], refresh: bool, now: Timestamp) -> (Vec<NewModelCost>, Seeded) {
    let mut newest = std::collections::HashMap::new();
    for row in known {
        let at = newest.entry((row.region.as_str(), row.model_id.as_str())).or_insert(row);
        if (row.valid_from, row.id) > (at.valid_from, at.id) {
            *at = row;
        }
    }
    let mut seeded = Seeded::default();
    let mut rows = Vec::new();
    for entry in shipped::shipped() {
        let key = (entry.region.as_str(), entry.model_id.as_str());
        let tiers = (entry.rates, entry.long);
        match newest.get(&key) {
            None => {
                seeded.added += 1;
                let from = entry.valid_from.unwrap_or_else(always);
                rows.push(new_row(key, from, tiers, Source::Shipped, now));
            }
            Some(row) if row.source != Source::Shipped.as_str() || row.ended => {}
            Some(row) if (rates(row), long(row)) == tiers => {}
            Some(_) if refresh => {
                seeded.refreshed += 1;
                let from = entry.valid_from.unwrap_or(now);
                rows.push(new_row(key, from, tiers, Source::Shipped, now));
            }
            Some(_) => seeded.differing += 1,
        }
    }
    (rows, seeded)
}

/// What an import changes, or would.
#[derive(Debug, Default)]
pub struct Imported {
    pub added: usize,
    pub changed: usize,
    pub unchanged: usize,
    /// In the order of the file.
    pub changes: Vec<Changed>,
}

/// A price that an import adds or changes.
#[derive(Debug)]
pub struct Changed {
    /// With the time from which it counts.
    pub entry: Entry,
    /// Of exactly this region and model, as it counted before.
    pub before: Option<Tiers>,
    /// Where there was none: the broader one that calls have had instead, such as that of any region.
    pub instead_of: Option<Tiers>,
    /// When a price that is there already follows it.
    pub until: Option<Timestamp>,
}

/// Compares prices with those that count, and adds those that differ, in one transaction; a dry run adds nothing.
///
/// # Errors
/// The database's.
pub async fn import(
    conn: &mut Conn,
    entries: Vec<Entry>,
    dry_run: bool,
    origin: &Origin,
) -> Result<Imported, DbError> {
    prices::change(conn, None, origin, move |now, known| {
        let book = book(known);
        let before = |entry: &Entry| {
            let at = entry.valid_from.unwrap_or(now);
            let price = book.find_exact(&entry.region, &entry.model_id, at)?;
            Some((price.rates, price.long))
        };
        let Comparison { added, changed, unchanged, changes } = import::compare(&entries, before);
        let rows: Vec<NewModelCost> = changes
            .iter()
            .map(|change| {
                let entry = change.entry;
                let key = (entry.region.as_str(), entry.model_id.as_str());
                let from = entry.valid_from.unwrap_or_else(|| begins(&book, key, now));
                new_row(key, from, (entry.rates, entry.long), Source::Imported, now)
            })
            .collect();
        let told = changes.iter().take(CHANGES_TOLD).map(|change| {
            let entry = change.entry;
            json!({
                "price": format!("{}/{}", entry.region, entry.model_id),
                "before": change.before.map(shown),
                "after": shown((entry.rates, entry.long)),
            })
        });
        let metadata = json!({
            "added": added,
            "changed": changed,
            "unchanged": unchanged,
            "changes": told.collect::<Vec<_>>(),
        });
        let from: Vec<Timestamp> = rows.iter().map(|row| row.valid_from).collect();
        let changes = changes.into_iter().zip(from).map(|(change, from)| {
            let entry = Entry { valid_from: Some(from), ..change.entry.clone() };
            let broader = book.find(&entry.region, &entry.model_id, from.max(now));
            let instead_of = broader.filter(|_| change.before.is_none());
            let instead_of = instead_of.map(|price| (price.rates, price.long));
            let until = book.followed_at(&entry.region, &entry.model_id, from);
            Changed { entry, before: change.before, instead_of, until }
        });
        let answer = Imported { added, changed, unchanged, changes: changes.collect() };
        let event = (!dry_run && !rows.is_empty())
            .then(|| ("prices_imported", "prices".to_owned(), metadata));
        Change { rows: if dry_run { Vec::new() } else { rows }, event, answer }
    })
    .await
}

/// From when on a price counts that does not say so: from now on; but if calls to this model had no price so far, from
/// the beginning, so that those that were made can be priced, too.
fn begins(book: &Book, (region, model_id): (&str, &str), now: Timestamp) -> Timestamp {
    let had_one = book.find(region, model_id, now).is_some() || book.knows(region, model_id);
    if had_one { now } else { always() }
}

/// Sets the price of one region and id. Answers false if that is what it was.
///
/// # Errors
/// The database's.
pub async fn set(
    conn: &mut Conn,
    (region, model_id): (&str, &str),
    valid_from: Option<Timestamp>,
    tiers: Tiers,
    origin: &Origin,
) -> Result<bool, DbError> {
    let names = names(model_id);
    prices::change(conn, Some(&names), origin, |now, known| {
        let book = book(known);
        let key = (region, model_id);
        let from = valid_from.unwrap_or_else(|| begins(&book, key, now));
        let before = book.find_exact(region, model_id, valid_from.unwrap_or(now));
        let before = before.map(|price| (price.rates, price.long));
        if before == Some(tiers) {
            return Change { rows: Vec::new(), event: None, answer: false };
        }
        let metadata = json!({
            "valid_from": from.and_utc().to_rfc3339(),
            "before": before.map(shown),
            "after": shown(tiers),
        });
        let event = ("price_set", format!("price:{region}/{model_id}"), metadata);
        let rows = vec![new_row(key, from, tiers, Source::Manual, now)];
        Change { rows, event: Some(event), answer: true }
    })
    .await
}

/// What ending a price came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Now,
    /// It had ended already.
    Before,
    NeverWas,
}

/// Ends the price of one region and id from now on, and those that were to count later.
///
/// # Errors
/// The database's.
pub async fn end(
    conn: &mut Conn,
    (region, model_id): (&str, &str),
    origin: &Origin,
) -> Result<Ended, DbError> {
    prices::change(conn, Some(&[model_id]), origin, |now, known| {
        let key = (region, model_id);
        let later = known
            .iter()
            .filter(|row| (row.region.as_str(), row.valid_from > now) == (region, true));
        let mut later: Vec<Timestamp> = later.map(|row| row.valid_from).collect();
        later.sort_unstable();
        later.dedup();
        let book = book(known);
        let at = |time: &Timestamp| book.find_exact(region, model_id, *time);
        // Also what was to count later does not.
        let ends: Vec<Timestamp> =
            std::iter::once(now).chain(later).filter(|time| at(time).is_some()).collect();
        let Some(first) = ends.first().and_then(at) else {
            let answer = if book.knows(region, model_id) { Ended::Before } else { Ended::NeverWas };
            return Change { rows: Vec::new(), event: None, answer };
        };
        let metadata = json!({ "before": shown((first.rates, first.long)) });
        let event = ("price_ended", format!("price:{region}/{model_id}"), metadata);
        let none = (Rates::default(), None);
        let row =
            |from| NewModelCost { ended: true, ..new_row(key, from, none, Source::Manual, now) };
        let rows = ends.into_iter().map(row).collect();
        Change { rows, event: Some(event), answer: Ended::Now }
    })
    .await
}

/// Under which ids a call to this one may be priced.
fn names(model_id: &str) -> Vec<&str> {
    let full = in_arn(model_id);
    vec![model_id, full, crate::bedrock::model_id::without_prefix(full)]
}

/// Prices for the audit log, in dollars per 1,000 tokens.
fn shown((rates, long): Tiers) -> serde_json::Value {
    let one = |rates: Rates| {
        json!({
            "input": rates.input.map(money::price),
            "output": rates.output.map(money::price),
            "cache_write": rates.cache_write.map(money::price),
            "cache_write_1h": rates.cache_write_1h.map(money::price),
            "cache_read": rates.cache_read.map(money::price),
        })
    };
    json!({ "unit": "USD per 1,000 tokens", "prices": one(rates), "long": long.map(one) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rows: &[NewModelCost]) -> Vec<ModelCost> {
        (1..).zip(rows.iter().cloned()).map(|(id, row)| row.kept(id)).collect()
    }

    fn now() -> Timestamp {
        "2026-11-27T12:00:00".parse().unwrap()
    }

    #[test]
    fn an_empty_ledger_gets_every_shipped_price_and_a_full_one_nothing() {
        let (rows, seeded) = plan_seed(&[], false, now());
        let known = kept(&rows);

        let (again, nothing) = plan_seed(&known, true, now());

        assert_eq!(seeded.added, shipped::shipped().len());
        assert!(rows.iter().all(|row| row.valid_from == always()));
        assert_eq!((again, nothing), (Vec::new(), Seeded::default()));
    }

    #[test]
    fn a_refresh_replaces_what_was_shipped_and_keeps_what_was_not() {
        let mut known = kept(&plan_seed(&[], false, now()).0);
        let [old, by_hand, ended, ..] = known.as_mut_slice() else { panic!("three rows") };
        old.input = Some(1);
        by_hand.input = Some(2);
        by_hand.source = "manual".to_owned();
        ended.ended = true;
        let key = (old.region.clone(), old.model_id.clone());

        let (left, found) = plan_seed(&known, false, now());
        let (rows, refreshed) = plan_seed(&known, true, now());

        assert_eq!((left.len(), found.differing), (0, 1));
        assert_eq!((rows.len(), refreshed.refreshed, refreshed.added), (1, 1, 0));
        assert_eq!((rows[0].region.clone(), rows[0].model_id.clone()), key);
        assert_eq!(rows[0].valid_from, now());
    }
}
