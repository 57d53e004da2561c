//! `/api/admin/costs`: the price ledger, listed, imported and changed by hand; and models that have no price.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use chrono::SubsecRound;
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::page::{Page, write_cursor};
use crate::{
    db::{
        self, Timestamp,
        prices::{Filter, ModelCost},
        usage::COUNT_CAP,
    },
    jobs::upkeep::{self, Unpriced},
    pricing::{
        Rates,
        import::{self, Tiers},
        ledger::{self, Ended},
        money,
    },
    routes::{
        body::{Body, Csv},
        error::{ApiError, Code},
        extract::Admin,
        surface,
    },
    state::Worker,
};

/// Rows a page unless asked otherwise: prices are looked at together.
const PAGE: i64 = 500;

/// Which prices to list.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct CostsQuery {
    /// A region, or `*`.
    region: Option<String>,
    /// An id, the id of a profile, or an ARN; exactly.
    model_id: Option<String>,
    /// true: every row of the ledger, also prices that ended, that others took the place of, and that are still to come.
    history: Option<bool>,
    /// Rows a page, 1 to 500. Default 500.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The prices that count now, the newest first.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct CostList {
    pub costs: Vec<Cost>,
    /// Exact up to 10000; above, 10000 and `total_is_capped`.
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// A price, in US dollars per 1,000 tokens; null = not known or not offered, 0 = free.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Cost {
    id: i64,
    /// `*` = any region without a price of its own.
    region: String,
    model_id: String,
    input_cost_per_1k_tokens: Option<String>,
    output_cost_per_1k_tokens: Option<String>,
    /// Kept for five minutes.
    cache_write_cost_per_1k_tokens: Option<String>,
    cache_write_1h_cost_per_1k_tokens: Option<String>,
    cache_read_cost_per_1k_tokens: Option<String>,
    /// As the five above, for calls with more than 200,000 prompt tokens; all null = the same.
    input_long_cost_per_1k_tokens: Option<String>,
    output_long_cost_per_1k_tokens: Option<String>,
    cache_write_long_cost_per_1k_tokens: Option<String>,
    cache_write_1h_long_cost_per_1k_tokens: Option<String>,
    cache_read_long_cost_per_1k_tokens: Option<String>,
    #[serde(serialize_with = "super::time")]
    valid_from: Timestamp,
    /// true: from `valid_from` on there is no price here; only in a history.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    /// shipped, imported or manual.
    source: String,
    /// When this row was added; it never changes.
    #[serde(serialize_with = "super::time")]
    updated_at: Timestamp,
}

impl From<ModelCost> for Cost {
    fn from(row: ModelCost) -> Self {
        let price = |pico: Option<i64>| pico.map(money::price);
        Self {
            id: row.id,
            input_cost_per_1k_tokens: price(row.input),
            output_cost_per_1k_tokens: price(row.output),
            cache_write_cost_per_1k_tokens: price(row.cache_write),
            cache_write_1h_cost_per_1k_tokens: price(row.cache_write_1h),
            cache_read_cost_per_1k_tokens: price(row.cache_read),
            input_long_cost_per_1k_tokens: price(row.long_input),
            output_long_cost_per_1k_tokens: price(row.long_output),
            cache_write_long_cost_per_1k_tokens: price(row.long_cache_write),
            cache_write_1h_long_cost_per_1k_tokens: price(row.long_cache_write_1h),
            cache_read_long_cost_per_1k_tokens: price(row.long_cache_read),
            region: row.region,
            model_id: row.model_id,
            valid_from: row.valid_from,
            ended: row.ended,
            source: row.source,
            updated_at: row.created_at,
        }
    }
}

/// A price with those that counted before, and may count later.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct CostWithHistory {
    #[serde(flatten)]
    cost: Cost,
    /// Every row of this region and model, what is valid latest first.
    history: Vec<Cost>,
}

/// The prices that count
///
/// Of each region and model. The price of a call is the first there is of: its region and id, `*` and its id, its region
/// and its id without the prefix of a profile, `*` and that; as it was at the time of the call.
#[api_v2_operation(tags(Administration), operation_id = "listCosts")]
pub async fn list(
    _admin: Admin,
    query: Query<CostsQuery>,
    worker: Data<Worker>,
) -> Result<Json<CostList>, ApiError> {
    let CostsQuery { region, model_id, history, limit, offset, cursor } = query.into_inner();
    let page = Page::read(limit.or(Some(PAGE)), offset, cursor.as_deref())?;
    let filter = Filter {
        region: super::name("region", region)?,
        model_id: super::name("model_id", model_id)?,
        part_of_id: None,
        history: history.unwrap_or(false),
    };
    let before = page.number()?;
    let now = db::now();
    let mut conn = worker.shared.pool.reader().await?;
    let rows = ModelCost::list(&mut conn, &filter, now, before, page.offset, page.limit).await?;
    let counted = ModelCost::count(&mut conn, &filter, now, COUNT_CAP + 1).await?;
    let full = i64::try_from(rows.len()).is_ok_and(|count| count == page.limit);
    Ok(Json(CostList {
        next_cursor: rows.last().filter(|_| full).map(|last| write_cursor(last.id)),
        costs: rows.into_iter().map(Cost::from).collect(),
        total: counted.min(COUNT_CAP),
        total_is_capped: counted > COUNT_CAP,
        limit: page.limit,
        offset: page.offset,
    }))
}

/// Whether to change anything.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    /// true: only say what would change.
    dry_run: Option<bool>,
}

/// What an import changed, or would.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct ImportResult {
    /// false: it was a dry run.
    applied: bool,
    added: usize,
    changed: usize,
    unchanged: usize,
    changes: Vec<ImportChange>,
}

/// A price that an import added or changed.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct ImportChange {
    /// Of the file.
    line: u64,
    region: String,
    model_id: String,
    /// From when on it counts.
    #[serde(serialize_with = "super::time_or_null")]
    valid_from: Option<Timestamp>,
    /// null: there was none.
    before: Option<Prices>,
    after: Prices,
}

/// Prices in US dollars per 1,000 tokens.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct Prices {
    input_cost_per_1k_tokens: Option<String>,
    output_cost_per_1k_tokens: Option<String>,
    cache_write_cost_per_1k_tokens: Option<String>,
    cache_write_1h_cost_per_1k_tokens: Option<String>,
    cache_read_cost_per_1k_tokens: Option<String>,
    input_long_cost_per_1k_tokens: Option<String>,
    output_long_cost_per_1k_tokens: Option<String>,
}

impl From<Tiers> for Prices {
    fn from((rates, long): Tiers) -> Self {
        let price = |pico: Option<i64>| pico.map(money::price);
        let long = long.unwrap_or_default();
        Self {
            input_cost_per_1k_tokens: price(rates.input),
            output_cost_per_1k_tokens: price(rates.output),
            cache_write_cost_per_1k_tokens: price(rates.cache_write),
            cache_write_1h_cost_per_1k_tokens: price(rates.cache_write_1h),
            cache_read_cost_per_1k_tokens: price(rates.cache_read),
            input_long_cost_per_1k_tokens: price(long.input),
            output_long_cost_per_1k_tokens: price(long.output),
        }
    }
}

/// Import prices
///
/// A CSV file with the columns region, model_id, input_per_1k, output_per_1k, and if you like cache_write_per_1k,
/// cache_read_per_1k, cache_write_1h_per_1k, input_long_per_1k, output_long_per_1k and valid_from; at most 5 MiB and 20,000
/// rows. It is checked as a whole, and applied as a whole or not at all. A row replaces the whole price of its region and
/// model. Without valid_from it counts from now on, or, if calls to the model had no price so far, from the beginning.
#[api_v2_operation(tags(Administration), operation_id = "importCosts", consumes = "text/csv")]
pub async fn import(
    request: HttpRequest,
    admin: Admin,
    query: Query<ImportQuery>,
    file: Csv,
    worker: Data<Worker>,
) -> Result<Json<ImportResult>, ApiError> {
    let dry_run = query.into_inner().dry_run.unwrap_or(false);
    let entries = import::read(&file.read().await?).map_err(ApiError::csv)?;
    let origin = surface::origin(&request, Some(&admin.0));
    let mut conn = worker.shared.pool.writer().await?;
    let imported = ledger::import(&mut conn, entries, dry_run, &origin).await?;
    let changes =
        imported.changes.into_iter().map(|ledger::Changed { entry, before, .. }| ImportChange {
            line: entry.line,
            region: entry.region,
            model_id: entry.model_id,
            valid_from: entry.valid_from,
            before: before.map(Prices::from),
            after: (entry.rates, entry.long).into(),
        });
    Ok(Json(ImportResult {
        applied: !dry_run,
        added: imported.added,
        changed: imported.changed,
        unchanged: imported.unchanged,
        changes: changes.collect(),
    }))
}

/// A region and a model as they stand in a path. The extractor has decoded them, an encoded `/` too; once is enough.
pub fn key((region, model_id): (String, String)) -> Result<(String, String), ApiError> {
    if !import::is_region(&region) {
        let message = "region must be * or a name such as us-east-1.";
        return Err(ApiError::parameter("region", message));
    }
    if let Some(wrong) = import::wrong_with_id(&model_id) {
        return Err(ApiError::parameter("model_id", format!("model_id: {wrong}.")));
    }
    Ok((region, model_id))
}

pub fn no_price() -> ApiError {
    ApiError::new(Code::NotFound, "There is no price for this region and model.")
}

/// The row that counts now, of a history.
pub fn current(history: &[ModelCost], now: Timestamp) -> Option<&ModelCost> {
    let begun = history.iter().find(|row| row.valid_from <= now);
    begun.filter(|row| !row.ended)
}

/// One price
///
/// The one of exactly this region (or `*`) and model that counts now, with its history. Slashes and colons of an ARN may
/// stand in the path as they are.
#[api_v2_operation(tags(Administration), operation_id = "showCost")]
pub async fn show(
    _admin: Admin,
    path: Path<(String, String)>,
    worker: Data<Worker>,
) -> Result<Json<CostWithHistory>, ApiError> {
    let (region, model_id) = key(path.into_inner())?;
    let mut conn = worker.shared.pool.reader().await?;
    let history = ModelCost::history(&mut conn, &region, &model_id).await?;
    let cost = current(&history, db::now()).cloned().ok_or_else(no_price)?;
    let history = history.into_iter().map(Cost::from).collect();
    Ok(Json(CostWithHistory { cost: cost.into(), history }))
}

/// A price: text or a number, US dollars per 1,000 tokens.
fn price<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    use serde::de::Error;
    let text = match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => {
            return Err(D::Error::custom("a price is a decimal number, or text that is one"));
        }
    };
    money::parse_price(&text).map(Some).map_err(D::Error::custom)
}

/// What a price is to be, in US dollars per 1,000 tokens, as text or number. What is absent or null is not offered.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub struct NewCost {
    #[serde(default, deserialize_with = "price")]
    pub input_cost_per_1k_tokens: Option<i64>,
    #[serde(default, deserialize_with = "price")]
    pub output_cost_per_1k_tokens: Option<i64>,
    #[serde(default, deserialize_with = "price")]
    pub cache_write_cost_per_1k_tokens: Option<i64>,
    #[serde(default, deserialize_with = "price")]
    pub cache_write_1h_cost_per_1k_tokens: Option<i64>,
    #[serde(default, deserialize_with = "price")]
    pub cache_read_cost_per_1k_tokens: Option<i64>,
    /// For calls with more than 200,000 prompt tokens; what they cache is priced in proportion.
    #[serde(default, deserialize_with = "price")]
    pub input_long_cost_per_1k_tokens: Option<i64>,
    #[serde(default, deserialize_with = "price")]
    pub output_long_cost_per_1k_tokens: Option<i64>,
    /// RFC 3339 or a date. Absent: from now on, or from the beginning if calls to the model had no price so far.
    pub valid_from: Option<String>,
}

impl NewCost {
    pub fn tiers(&self) -> Result<Tiers, ApiError> {
        let rates = Rates {
            input: self.input_cost_per_1k_tokens,
            output: self.output_cost_per_1k_tokens,
            cache_write: self.cache_write_cost_per_1k_tokens,
            cache_write_1h: self.cache_write_1h_cost_per_1k_tokens,
            cache_read: self.cache_read_cost_per_1k_tokens,
        };
        if rates == Rates::default() {
            let message = "A price needs at least one of its five. To have none, end it.";
            return Err(ApiError::parameter("input_cost_per_1k_tokens", message));
        }
        let wanted = (self.input_long_cost_per_1k_tokens, self.output_long_cost_per_1k_tokens);
        let long = match wanted {
            (None, None) => None,
            (Some(input), Some(output)) => {
                let long = import::for_long_prompts(&rates, input, Some(output));
                Some(long.ok_or_else(|| {
                    let message = "A price for long prompts needs an input price above 0, and none \
                                   of its own above 1000.";
                    ApiError::parameter("input_long_cost_per_1k_tokens", message)
                })?)
            }
            (None, Some(_)) | (Some(_), None) => {
                let message = "The two prices for long prompts come together.";
                return Err(ApiError::parameter("input_long_cost_per_1k_tokens", message));
            }
        };
        Ok((rates, long))
    }

    /// To the millisecond, as calls have their times, and as it is shown.
    pub fn valid_from(&self) -> Result<Option<Timestamp>, ApiError> {
        let read = |text: &String| super::read_time("valid_from", text);
        let time = self.valid_from.as_ref().map(read).transpose()?;
        Ok(time.map(|time| time.trunc_subsecs(3)))
    }
}

/// Set a price
///
/// The whole price of exactly this region (or `*`) and model. What counted before stays in the history, and calls keep
/// the price that they were made at; `bedrock_proxy job reprice` prices calls anew.
#[api_v2_operation(tags(Administration), operation_id = "setCost")]
pub async fn set(
    request: HttpRequest,
    admin: Admin,
    path: Path<(String, String)>,
    body: Body<NewCost>,
    worker: Data<Worker>,
) -> Result<Json<Cost>, ApiError> {
    let (region, model_id) = key(path.into_inner())?;
    let body = body.read().await?;
    let (tiers, valid_from) = (body.tiers()?, body.valid_from()?);
    let origin = surface::origin(&request, Some(&admin.0));
    let mut conn = worker.shared.pool.writer().await?;
    ledger::set(&mut conn, (&region, &model_id), valid_from, tiers, &origin).await?;
    let history = ModelCost::history(&mut conn, &region, &model_id).await?;
    let at = valid_from.unwrap_or_else(db::now);
    let cost = current(&history, at).or(history.first()).cloned().ok_or_else(no_price)?;
    Ok(Json(cost.into()))
}

/// End a price
///
/// From now on there is none of exactly this region and model, nor one that was to count later; the history stays.
#[api_v2_operation(tags(Administration), operation_id = "endCost")]
pub async fn end(
    request: HttpRequest,
    admin: Admin,
    path: Path<(String, String)>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (region, model_id) = key(path.into_inner())?;
    let origin = surface::origin(&request, Some(&admin.0));
    let mut conn = worker.shared.pool.writer().await?;
    match ledger::end(&mut conn, (&region, &model_id), &origin).await? {
        Ended::Now | Ended::Before => Ok(HttpResponse::NoContent().finish()),
        Ended::NeverWas => Err(no_price()),
    }
}

/// Models that were called in the last 30 days and whose calls have no known cost.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct UnpricedList {
    pub models: Vec<UnpricedModel>,
    /// Of usage that were looked at.
    pub days: u32,
}

/// A model without a price, or with one that lacks something.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct UnpricedModel {
    region: String,
    model_id: String,
    /// What is missing.
    reason: &'static str,
    /// Calls without a cost.
    unpriced_requests: i64,
    total_requests: i64,
    total_tokens: i64,
}

impl From<Unpriced> for UnpricedModel {
    fn from(Unpriced { region, model_id, measures, lack }: Unpriced) -> Self {
        Self {
            region,
            model_id,
            reason: lack.as_str(),
            unpriced_requests: measures.unpriced,
            total_requests: measures.requests,
            total_tokens: measures.tokens(),
        }
    }
}

/// Models without a price
///
/// Set or import one, then `bedrock_proxy job reprice --from DATE` gives the calls that were made their cost.
#[api_v2_operation(tags(Administration), operation_id = "listUnpricedModels")]
pub async fn unpriced(_admin: Admin, worker: Data<Worker>) -> Result<Json<UnpricedList>, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let found = upkeep::without_price(&mut conn, upkeep::DAYS, db::now()).await?;
    let models = found.into_iter().map(UnpricedModel::from).collect();
    Ok(Json(UnpricedList { models, days: upkeep::DAYS }))
}
