//! `/usage/calls/{id}` and `/admin/usage/calls/{id}`: one call, and how its cost comes about.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use askama::Template;

use super::{super::page, Row};
use crate::{
    db::{
        api_keys::ApiKeyRecord,
        prices::ModelCost,
        usage::{self, UsageRecord},
        users::UserRecord,
    },
    pricing::{self, Part, ledger, money::dollars},
    routes::{
        error::{ApiError, Code},
        pages::{AdminViewer, Viewer},
    },
    state::Worker,
    templates::{Place, Shell, show},
    usage::TokenCounts,
};

/// A class of tokens, its price and what it comes to.
struct Line {
    name: &'static str,
    tokens: i64,
    /// Dollars for a million.
    price: Option<String>,
    /// Dollars, exactly.
    cost: Option<String>,
}

/// How a cost comes about.
struct Sum {
    lines: Vec<Line>,
    /// Dollars, exactly; before rounding.
    exact: Option<String>,
    /// Whether it is not what was recorded.
    differs: bool,
    price: ModelCost,
    long: bool,
}

#[derive(Template)]
#[template(path = "call.html")]
struct CallPage {
    shell: Shell,
    everybody: bool,
    call: UsageRecord,
    row: Row,
    sum: Option<Sum>,
    /// Why there is no sum.
    why_none: &'static str,
}

/// `GET /usage/calls/{id}`
pub async fn own(
    viewer: Viewer,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    answer(&viewer, &worker, path.into_inner(), false).await
}

/// `GET /admin/usage/calls/{id}`
pub async fn anybodys(
    viewer: AdminViewer,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    answer(&viewer.0, &worker, path.into_inner(), true).await
}

async fn answer(
    viewer: &Viewer,
    worker: &Worker,
    id: i64,
    everybody: bool,
) -> Result<HttpResponse, ApiError> {
    let place = if everybody { Place::AdminUsage } else { Place::Usage };
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, worker, place).await?;
    let call = usage::find(&mut conn, id).await?;
    // Somebody else's is not told from one that is not there.
    let call = call.filter(|call| everybody || call.user_id == viewer.0.user_id);
    let call = call.ok_or_else(|| ApiError::new(Code::NotFound, "There is no such call."))?;
    let keys: Vec<i64> = call.key_id.into_iter().collect();
    let keys = ApiKeyRecord::names(&mut conn, &keys).await?;
    let people = UserRecord::names(&mut conn, &[call.user_id]).await?;
    let price = match call.price_id {
        Some(id) => ModelCost::find(&mut conn, id).await?,
        None => None,
    };
    let known = call.total_tokens().is_some();
    let sum = price.filter(|_| known).map(|price| Sum::of(&call, price));
    let why_none = why_none(&call);
    let row = Row::new(call.clone(), &keys, &people);
    Ok(page(&CallPage { shell, everybody, call, row, sum, why_none }))
}

impl Sum {
    fn of(call: &UsageRecord, row: ModelCost) -> Self {
        let tokens = TokenCounts {
            input: call.input_tokens,
            output: call.output_tokens,
            cache_write: call.cache_write_tokens,
            cache_write_1h: call.cache_write_1h_tokens,
            cache_read: call.cache_read_tokens,
        };
        let price = ledger::price(&row);
        let (parts, long) = pricing::parts(&tokens, Some(&price));
        let exact = parts.iter().try_fold(0_i128, |sum, part| sum.checked_add(part.pico()?));
        let line = |part: &Part| Line {
            name: part.name,
            tokens: part.tokens,
            // Pico-dollars a token are micro-dollars a million.
            price: part.rate.map(|rate| trimmed(i128::from(rate), 6)),
            cost: part.pico().map(|pico| trimmed(pico, 12)),
        };
        Self {
            lines: parts.iter().map(line).collect(),
            exact: exact.map(|pico| trimmed(pico, 12)),
            differs: pricing::cost(&tokens, Some(&price)) != call.cost_nano_usd,
            price: row,
            long,
        }
    }
}

impl Sum {
    /// Whether the price counts for calls of any time.
    fn is_of_old(&self) -> bool {
        self.price.valid_from <= ledger::always()
    }

    /// Where admins see the other prices of the same region and model.
    fn history(&self) -> String {
        let ModelCost { region, model_id, .. } = &self.price;
        let encoded = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        format!("/admin/costs/{}/{}", encoded(region), encoded(model_id))
    }
}

/// A number with so many decimal places, without the zeros at its end.
fn trimmed(number: i128, places: u32) -> String {
    let unit = 10_u128.pow(places);
    let (sign, size) = (if number < 0 { "−" } else { "" }, number.unsigned_abs());
    let text = format!("{sign}{}.{:0width$}", size / unit, size % unit, width = places as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn why_none(call: &UsageRecord) -> &'static str {
    match call.cost_nano_usd {
        Some(_) if call.operation == "count_tokens" => "Counting tokens costs nothing.",
        Some(0) => "It used no tokens, so it cost nothing whatever the price.",
        Some(_) => "The price that it comes from is not known any more.",
        None if call.estimated && call.total_tokens().is_none() => {
            "The cost is not known: the call was cut off before Bedrock said how many tokens it used."
        }
        None => {
            "The cost is not known: there was no price for this model in this region. An admin can set one and have \
             calls priced again."
        }
    }
}

impl CallPage {
    fn dollars(&self) -> Option<String> {
        self.call.cost_nano_usd.map(dollars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_numbers_have_no_zeros_at_their_end() {
        for (number, places, told) in [
            (0, 6, "0"),
            (3_000_000, 6, "3"),
            (300_000, 6, "0.3"),
            (1, 12, "0.000000000001"),
            (-1_500_000_000_000, 12, "−1.5"),
        ] {
            assert_eq!(trimmed(number, places), told);
        }
    }
}
