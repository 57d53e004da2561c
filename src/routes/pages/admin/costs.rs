//! `/admin/costs`: the price ledger; one price with its history, changed and ended by hand.

use std::collections::HashMap;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use askama::Template;
use serde::Deserialize;

use super::audit::People;
use crate::{
    auth::Identity,
    db::{
        self, Conn, Timestamp,
        audit::AuditLogEntry,
        prices::{Filter, ModelCost},
        usage::COUNT_CAP,
    },
    jobs::upkeep::{self, Unpriced},
    pricing::{
        Rates, is_jump,
        ledger::{self, Ended},
        money,
    },
    routes::{
        api::{
            costs::{NewCost, current, key, no_price},
            page::{Page, write_cursor},
        },
        csrf::SignedByAdmin,
        error::ApiError,
        pages::{AdminViewer, Pager, Problem, Viewer, filled, mended, page, see},
        surface,
    },
    state::Worker,
    templates::{Place, Shell, show},
};

/// Prices a page.
const PAGE: i64 = 100;

/// Which prices to show.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    /// A part of a model's id.
    #[serde(default, deserialize_with = "filled")]
    q: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    region: Option<String>,
    /// `yes`: also what counted before, and what will.
    #[serde(default, deserialize_with = "filled")]
    history: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "admin/costs.html")]
struct CostsPage {
    shell: Shell,
    asked: Asked,
    regions: Vec<String>,
    prices: Vec<ModelCost>,
    unpriced: Vec<Unpriced>,
    days: u32,
    now: Timestamp,
    pager: Pager,
    problem: Problem,
}

/// `GET /admin/costs`
pub async fn list(
    viewer: AdminViewer,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (asked, now) = (query.into_inner(), db::now());
    let filter = Filter {
        region: asked.region.clone(),
        model_id: None,
        part_of_id: asked.q.as_ref().map(|part| part.to_lowercase()),
        history: asked.history.is_some(),
    };
    let read = Page::read(Some(PAGE), None, asked.cursor.as_deref());
    let (place, problem) = mended(read.and_then(|page| page.number()))?;
    let place = place.unwrap_or(0);
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.0.shell(&mut conn, &worker, Place::AdminCosts).await?;
    let prices = ModelCost::by_name(&mut conn, &filter, now, place, PAGE).await?;
    let total = ModelCost::count(&mut conn, &filter, now, COUNT_CAP + 1).await?;
    let next = (place + PAGE < total).then(|| asked.at(place + PAGE));
    let previous = (place > 0).then(|| asked.at((place - PAGE).max(0)));
    let unpriced = upkeep::without_price(&mut conn, upkeep::DAYS, now).await?;
    let done = asked.done.as_deref();
    let shown = CostsPage {
        shell: shell.with_notice(match done {
            Some("set") => Some("The price is set."),
            Some("ended") => Some("The price has ended."),
            Some("imported") => Some("The prices are imported."),
            _ => None,
        }),
        regions: ModelCost::regions(&mut conn).await?,
        pager: Pager {
            told: match total {
                1 => "1 price".to_owned(),
                total if total > COUNT_CAP => {
                    format!("more than {} prices", show::grouped(COUNT_CAP))
                }
                total => format!("{} prices", show::grouped(total)),
            },
            previous,
            next,
        },
        prices,
        unpriced,
        days: upkeep::DAYS,
        now,
        asked,
        problem,
    };
    Ok(shown.problem.answer(&shown))
}

impl Asked {
    /// The address of another part of the same list.
    fn at(&self, place: i64) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let known = [("q", &self.q), ("region", &self.region), ("history", &self.history)];
        for (name, value) in known {
            query.extend_pairs(value.iter().map(|value| (name, value)));
        }
        if place > 0 {
            query.append_pair("cursor", &write_cursor(place));
        }
        format!("/admin/costs?{}", query.finish())
    }
}

/// A price as it is typed: US dollars per million tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Typed {
    region: String,
    model_id: String,
    input: String,
    output: String,
    cache_write: String,
    cache_write_1h: String,
    cache_read: String,
    input_long: String,
    output_long: String,
    valid_from: String,
    action: String,
    /// `yes`: prices that are ten times what they were are meant so.
    confirmed: String,
}

impl Typed {
    /// As it would be typed to have this price.
    fn of(price: &ModelCost) -> Self {
        let told = |pico: Option<i64>| pico.map(money::price_per_million).unwrap_or_default();
        Self {
            region: price.region.clone(),
            model_id: price.model_id.clone(),
            input: told(price.input),
            output: told(price.output),
            cache_write: told(price.cache_write),
            cache_write_1h: told(price.cache_write_1h),
            cache_read: told(price.cache_read),
            input_long: told(price.long_input),
            output_long: told(price.long_output),
            valid_from: String::new(),
            action: String::new(),
            confirmed: String::new(),
        }
    }

    /// What there is to say once it is set. Most clients use the cache.
    fn done(&self) -> &'static str {
        let all = |prices: [&String; 2]| prices.into_iter().all(|price| !price.trim().is_empty());
        match (all([&self.input, &self.output]), all([&self.cache_write, &self.cache_read])) {
            (true, true) => "set",
            (true, false) => "set_without_cache",
            (false, _) => "set_in_part",
        }
    }

    fn read(&self) -> Result<NewCost, ApiError> {
        let price = |field: &'static str, text: &str| match text.trim() {
            "" => Ok(None),
            text => money::parse_price_per_million(text).map(Some).map_err(|error| {
                let message = match error {
                    money::PriceError::TooFine => "At most six decimal places.".to_owned(),
                    money::PriceError::TooHigh => {
                        "At most 1,000,000 per million tokens.".to_owned()
                    }
                    money::PriceError::NotANumber => "Write it like 3 or 0.25.".to_owned(),
                    other => format!("It cannot be: {other}."),
                };
                ApiError::parameter(field, message)
            }),
        };
        let valid_from = self.valid_from.trim();
        Ok(NewCost {
            input_cost_per_1k_tokens: price("input", &self.input)?,
            output_cost_per_1k_tokens: price("output", &self.output)?,
            cache_write_cost_per_1k_tokens: price("cache_write", &self.cache_write)?,
            cache_write_1h_cost_per_1k_tokens: price("cache_write_1h", &self.cache_write_1h)?,
            cache_read_cost_per_1k_tokens: price("cache_read", &self.cache_read)?,
            input_long_cost_per_1k_tokens: price("input_long", &self.input_long)?,
            output_long_cost_per_1k_tokens: price("output_long", &self.output_long)?,
            valid_from: (!valid_from.is_empty()).then(|| valid_from.to_owned()),
        })
    }
}

/// One of the fields of a price.
pub struct Field<'a> {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    value: &'a str,
    /// What it means if nothing is in it.
    empty: &'static str,
}

#[derive(Template)]
#[template(path = "admin/price.html")]
struct PricePage {
    shell: Shell,
    /// `None`: a price that is yet to be made.
    key: Option<(String, String)>,
    current: Option<ModelCost>,
    history: Vec<ModelCost>,
    /// Who added the rows of the history, as far as it is kept.
    by: HashMap<Timestamp, String>,
    typed: Typed,
    problem: Problem,
    now: Timestamp,
}

const FIELDS: [&str; 11] = [
    "confirmed",
    "region",
    "model_id",
    "input",
    "output",
    "cache_write",
    "cache_write_1h",
    "cache_read",
    "input_long",
    "output_long",
    "valid_from",
];

impl PricePage {
    /// Whether it is this row that counts now.
    fn counts(&self, price: &ModelCost) -> bool {
        self.current.as_ref().is_some_and(|current| current.id == price.id)
    }

    fn fields(&self) -> [Field<'_>; 7] {
        let field = |name, label, hint, value| {
            let empty = "not offered";
            Field { name, label, hint, value, empty }
        };
        let typed = &self.typed;
        [
            field("input", "Input", "", typed.input.as_str()),
            field("output", "Output", "", &typed.output),
            field("cache_write", "Cache write, 5 minutes", "", &typed.cache_write),
            field("cache_write_1h", "Cache write, 1 hour", "", &typed.cache_write_1h),
            field("cache_read", "Cache read", "", &typed.cache_read),
            Field {
                empty: "the same",
                ..field(
                    "input_long",
                    "Input, long prompts",
                    "above 200,000 tokens",
                    &typed.input_long,
                )
            },
            Field {
                empty: "the same",
                ..field(
                    "output_long",
                    "Output, long prompts",
                    "together with the one before",
                    &typed.output_long,
                )
            },
        ]
    }

    async fn of(
        conn: &mut Conn,
        shell: Shell,
        key: (String, String),
        typed: Option<Typed>,
        problem: Problem,
    ) -> Result<Self, ApiError> {
        let now = db::now();
        let history = ModelCost::history(conn, &key.0, &key.1).await?;
        let newest = history.first().ok_or_else(no_price)?;
        let times: Vec<Timestamp> = history.iter().map(|row| row.created_at).collect();
        let by = AuditLogEntry::actors_of_prices(conn, &times).await?;
        let people = People::among(conn, by.values().map(String::as_str)).await?;
        let by = by.into_iter().map(|(at, actor)| (at, people.actor(&actor))).collect();
        let current = current(&history, now).cloned();
        let typed = typed.unwrap_or_else(|| Typed::of(current.as_ref().unwrap_or(newest)));
        Ok(Self { shell, key: Some(key), current, history, by, typed, problem, now })
    }

    /// Who added a row; those that came with the service were added by nobody.
    fn added_by(&self, price: &ModelCost) -> &str {
        self.by.get(&price.created_at).map_or("–", String::as_str)
    }
}

/// `GET /admin/costs/{region}/{model_id}`
pub async fn show(
    viewer: AdminViewer,
    path: Path<(String, String)>,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let key = key(path.into_inner())?;
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.0.shell(&mut conn, &worker, Place::AdminCosts).await?;
    let shell = shell.with_notice(match query.done.as_deref() {
        Some("set") => Some("The price is set."),
        Some("set_without_cache") => Some(
            "The price is set. Calls that use the model's cache have no cost, as a price for that is missing.",
        ),
        Some("set_in_part") => Some(
            "The price is set. It has none for input or output: calls that use that have no cost.",
        ),
        Some("ended") => Some("The price has ended."),
        Some("same") => Some("That is what the price was already."),
        _ => None,
    });
    Ok(page(&PricePage::of(&mut conn, shell, key, None, Problem::default()).await?))
}

/// `GET /admin/costs/new`: perhaps for a model that was called and has none.
pub async fn ask_for_new(
    viewer: AdminViewer,
    query: Query<Typed>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.0.shell(&mut conn, &worker, Place::AdminCosts).await?;
    Ok(page(&new_page(shell, query.into_inner(), Problem::default())))
}

fn new_page(shell: Shell, typed: Typed, problem: Problem) -> PricePage {
    let (key, current, history, by) = (None, None, Vec::new(), HashMap::new());
    PricePage { shell, key, current, history, by, typed, problem, now: db::now() }
}

/// `POST /admin/costs/new`
pub async fn create(
    request: HttpRequest,
    signed: SignedByAdmin<Typed>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let SignedByAdmin { identity, form } = signed;
    let key = (form.region.trim().to_owned(), form.model_id.trim().to_owned());
    let set = match self::key(key) {
        Ok(key) => add(&request, &worker, &identity, key, &form).await,
        Err(error) => Err(error),
    };
    match mended(set.map(Some))? {
        (Some((region, model_id)), _) => {
            let done = form.done();
            Ok(see(&format!("/admin/costs/{region}/{model_id}?done={done}")))
        }
        (None, problem) => {
            let mut conn = worker.shared.pool.reader().await?;
            let shell = Viewer(identity).shell(&mut conn, &worker, Place::AdminCosts).await?;
            let shown = new_page(shell, form, problem);
            Ok(shown.problem.answer(&shown))
        }
    }
}

/// `POST /admin/costs/{region}/{model_id}`: sets the price, or ends it.
pub async fn change(
    request: HttpRequest,
    path: Path<(String, String)>,
    signed: SignedByAdmin<Typed>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (key, SignedByAdmin { identity, form }) = (key(path.into_inner())?, signed);
    let place = |done: &str| see(&format!("/admin/costs/{}/{}?done={done}", key.0, key.1));
    if form.action == "end" {
        let origin = surface::origin(&request, Some(&identity));
        let mut conn = worker.shared.pool.writer().await?;
        return match ledger::end(&mut conn, (&key.0, &key.1), &origin).await? {
            Ended::Now | Ended::Before => Ok(place("ended")),
            Ended::NeverWas => Err(no_price()),
        };
    }
    match mended(set(&request, &worker, &identity, &key, &form).await.map(Some))? {
        (Some(changed), _) => Ok(place(if changed { form.done() } else { "same" })),
        (None, problem) => {
            let mut conn = worker.shared.pool.reader().await?;
            let shell = Viewer(identity).shell(&mut conn, &worker, Place::AdminCosts).await?;
            let shown = PricePage::of(&mut conn, shell, key, Some(form), problem).await?;
            Ok(shown.problem.answer(&shown))
        }
    }
}

/// Sets the price of a region and model that have none. Answers with the two.
async fn add(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    key: (String, String),
    typed: &Typed,
) -> Result<(String, String), ApiError> {
    let history = {
        let mut conn = worker.shared.pool.reader().await?;
        ModelCost::history(&mut conn, &key.0, &key.1).await?
    };
    if current(&history, db::now()).is_some() {
        let message = "There is a price of exactly this region and model already: change it on its own page, where the two stand side by side.";
        return Err(ApiError::parameter("model_id", message));
    }
    set(request, worker, by, &key, typed).await.map(|_| key)
}

/// Sets a price as it was typed. Answers whether it is another than before.
async fn set(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    (region, model_id): &(String, String),
    typed: &Typed,
) -> Result<bool, ApiError> {
    let wanted = typed.read()?;
    let of_form =
        |error: ApiError| match error.field().and_then(|name| name.split_once("_cost_per_")) {
            Some((field, _)) => ApiError::parameter(field.to_owned(), error.message().to_owned()),
            None => error,
        };
    let (tiers, valid_from) = (wanted.tiers().map_err(of_form)?, wanted.valid_from()?);
    if typed.confirmed != "yes" {
        let mut conn = worker.shared.pool.reader().await?;
        let history = ModelCost::history(&mut conn, region, model_id).await?;
        let before = current(&history, db::now()).map(ledger::rates);
        if let Some((before, after)) = before.and_then(|before| jump(&before, &tiers.0)) {
            let [before, after] = [before, after].map(money::price_per_million);
            let message = format!(
                "It is ${before} so far, and would be ${after} per million tokens. Is that right?"
            );
            return Err(ApiError::parameter("confirmed", message));
        }
    }
    let origin = surface::origin(request, Some(by));
    let mut conn = worker.shared.pool.writer().await?;
    Ok(ledger::set(&mut conn, (region, model_id), valid_from, tiers, &origin).await?)
}

/// The first of these prices that becomes ten times what it was, or a tenth.
fn jump(before: &Rates, after: &Rates) -> Option<(i64, i64)> {
    let classes: [fn(&Rates) -> Option<i64>; 5] = [
        |rates| rates.input,
        |rates| rates.output,
        |rates| rates.cache_write,
        |rates| rates.cache_write_1h,
        |rates| rates.cache_read,
    ];
    let pairs = classes.into_iter().filter_map(|class| class(before).zip(class(after)));
    pairs.into_iter().find(|(before, after)| is_jump(*before, *after))
}

/// A price as pages show it: per million tokens, with the figure per 1,000 for whoever points at it.
fn per_million(pico: &Option<i64>) -> String {
    let Some(pico) = *pico else { return "–".to_owned() };
    let text = money::price_per_million(pico);
    match text.split_once('.') {
        Some((_, places)) if places.len() == 1 => format!("${text}0"),
        _ => format!("${text}"),
    }
}

/// Whether a price counts for calls of any time.
fn is_of_old(price: &ModelCost) -> bool {
    price.valid_from <= ledger::always()
}

fn per_1k(pico: &Option<i64>) -> String {
    pico.map_or_else(String::new, |pico| format!("${} per 1,000 tokens", money::price(pico)))
}
