//! What a call costs: prices, which of them counts for a call, and the sum. Pure, but for [`ledger`]; a call's tokens are
//! counted by `usage`.

pub mod import;
pub mod ledger;
pub mod money;
pub mod shipped;

use std::collections::HashMap;

use crate::{
    bedrock::model_id::{foundation, without_prefix},
    db::Timestamp,
    usage::TokenCounts,
};

/// The region of a price for every region that has none of its own.
pub const ANY_REGION: &str = "*";

/// Above so many prompt tokens the whole call has the price for long context, where there is one (protocol reference,
/// 6.1: "whole request re-priced above 200K prompt tokens").
pub const LONG_PROMPT: i64 = 200_000;

/// Pico-dollars per token. `None` = unknown or not offered, 0 = free.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub input: Option<i64>,
    pub output: Option<i64>,
    /// Writes that are kept for five minutes.
    pub cache_write: Option<i64>,
    /// Writes that are kept for an hour.
    pub cache_write_1h: Option<i64>,
    pub cache_read: Option<i64>,
}

/// A row of the ledger of prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    pub id: i64,
    pub valid_from: Timestamp,
    /// From `valid_from` on there is no price here: a deletion in a ledger that is only added to.
    pub ended: bool,
    pub rates: Rates,
    /// For calls with more than [`LONG_PROMPT`] prompt tokens; `None` = as any other call.
    pub long: Option<Rates>,
}

/// A price that is ten times another: most likely it is written for another number of tokens.
pub fn is_jump(before: i64, after: i64) -> bool {
    let (low, high) = (before.min(after), before.max(after));
    low > 0 && high / low >= 10
}

/// Every price of every time, by model and region.
#[derive(Debug, Default)]
pub struct Book {
    /// Model id, profile id or ARN; region; prices, the oldest first.
    models: HashMap<String, HashMap<String, Vec<Price>>>,
}

impl Book {
    /// `rows` are region (or [`ANY_REGION`]), model (an id, the id of a profile, or an ARN) and price, in any order.
    pub fn new(rows: impl IntoIterator<Item = (String, String, Price)>) -> Self {
        let mut models: HashMap<String, HashMap<String, Vec<Price>>> = HashMap::new();
        for (region, model_id, price) in rows {
            models.entry(model_id).or_default().entry(region).or_default().push(price);
        }
        for prices in models.values_mut().flat_map(HashMap::values_mut) {
            prices.sort_by_key(|price| (price.valid_from, price.id));
        }
        Self { models }
    }

    /// The price of a call to this model in this region at this time; `None` = not known.
    ///
    /// The first that has one of: (region, full id), (`*`, full id), (region, bare id), (`*`, bare id) (protocol
    /// reference, 6.2). The full id comes first since profiles of a geography cost more than the model. An ARN of a
    /// foundation model or an inference profile is itself a full id before the one in it; any other ARN says nothing of
    /// its model, and has a price only under its own name.
    pub fn find(&self, region: &str, model_id: &str, at: Timestamp) -> Option<&Price> {
        let either = |id| {
            let own = self.find_exact(region, id, at);
            own.or_else(|| self.find_exact(ANY_REGION, id, at))
        };
        let full = in_arn(model_id);
        let bare = without_prefix(full);
        let full_differs = full.len() < model_id.len(); // each is the end of the one before
        let bare_differs = bare.len() < full.len();
        either(model_id)
            .or_else(|| full_differs.then(|| either(full))?)
            .or_else(|| bare_differs.then(|| either(bare))?)
    }

    /// Every model, profile and ARN that has, had or will have a price somewhere.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// When a price under exactly this key that begins at this time is followed by another.
    pub fn followed_at(&self, region: &str, model_id: &str, at: Timestamp) -> Option<Timestamp> {
        let prices = self.models.get(model_id)?.get(region)?;
        let later = prices.partition_point(|price| price.valid_from <= at);
        Some(prices.get(later)?.valid_from)
    }

    /// Whether there ever was a row under exactly this key.
    pub fn knows(&self, region: &str, model_id: &str) -> bool {
        self.models.get(model_id).is_some_and(|regions| regions.contains_key(region))
    }

    /// The price under exactly this key at this time: of those that are valid from then or earlier the latest, the
    /// newest row among equals; `None` if there is none or that one ended the price.
    pub fn find_exact(&self, region: &str, model_id: &str, at: Timestamp) -> Option<&Price> {
        let prices = self.models.get(model_id)?.get(region)?;
        let later = prices.partition_point(|price| price.valid_from <= at);
        let last = prices.get(later.checked_sub(1)?)?;
        (!last.ended).then_some(last)
    }
}

/// What a call used of one class of tokens, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    pub tokens: i64,
    /// Pico-dollars per token; `None` = not known, or not offered.
    pub rate: Option<i64>,
}

impl Part {
    /// In pico-dollars. `None` = not known; tokens that are not there cost nothing, whatever their price.
    pub fn pico(&self) -> Option<i128> {
        match (self.tokens, self.rate) {
            (0, _) => Some(0),
            (tokens, Some(rate)) => i128::from(tokens).checked_mul(i128::from(rate)),
            (_, None) => None,
        }
    }
}

/// The five classes of a call's tokens at a price, and whether it is the one for long prompts. A negative count is none.
pub fn parts(tokens: &TokenCounts, price: Option<&Price>) -> ([Part; 5], bool) {
    let count = |reported: Option<i64>| reported.unwrap_or(0).max(0);
    let (input, cache_read) = (count(tokens.input), count(tokens.cache_read));
    let hour = count(tokens.cache_write_1h);
    let five_minutes = count(tokens.cache_write).saturating_sub(hour).max(0);
    let prompt = [input, five_minutes, hour, cache_read].map(i128::from).iter().sum::<i128>();
    let long = price.and_then(|price| price.long).filter(|_| prompt > i128::from(LONG_PROMPT));
    let rates = long.or(price.map(|price| price.rates)).unwrap_or_default();
    let part = |name, tokens, rate| Part { name, tokens, rate };
    let parts = [
        part("Input", input, rates.input),
        part("Output", count(tokens.output), rates.output),
        part("Cache write, 5 minutes", five_minutes, rates.cache_write),
        part("Cache write, 1 hour", hour, rates.cache_write_1h),
        part("Cache read", cache_read, rates.cache_read),
    ];
    (parts, long.is_some())
}

/// What a call costs in nano-dollars, rounded half up once, over all; `None` = not known.
///
/// A class with tokens and no price makes the whole unknown; a class without tokens needs no price. A negative count is
/// none. `None` also stands for a cost beyond an `i64`, which is nine billion dollars for one call: counts up to 2^40
/// stay below it at any price under one dollar per 1,000 tokens.
pub fn cost(tokens: &TokenCounts, price: Option<&Price>) -> Option<i64> {
    let (parts, _) = parts(tokens, price);
    let pico = parts.iter().try_fold(0_i128, |sum, part| sum.checked_add(part.pico()?))?;
    i64::try_from(pico.checked_add(500)? / 1000).ok()
}

/// The id in an ARN that says what it runs, with its prefix; anything else as it is.
fn in_arn(model_id: &str) -> &str {
    let says = model_id.starts_with("arn:") && foundation(model_id) != model_id;
    if says { model_id.rsplit('/').next().unwrap_or(model_id) } else { model_id }
}

#[cfg(test)]
mod tests;
