//! `/admin`: the overview of everybody's usage.

use std::collections::HashMap;

use actix_web::{
    HttpResponse,
    web::{Data, Query},
};
use askama::Template;
use serde::Deserialize;

use crate::{
    db::{
        self, Conn, Timestamp,
        levels::{self, Level, Levels},
        period::Period,
        summaries::{
            Measures, people,
            people::{Mover, Spender},
            read::{self, Dimension, Selection},
        },
        users::UserRecord,
    },
    jobs::upkeep::{self, Unpriced},
    routes::{
        error::ApiError,
        pages::{
            AdminViewer, Problem,
            figures::{self, ByModel, Figure, Measure, Part, Range, Span},
            home::{MODELS, Recently, cache_hits},
        },
    },
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// People of whom it is told what they spent, and how that changed.
const MOST_SPENDERS: i64 = 10;
const MOST_MOVERS: i64 = 5;
const RANGES: [u64; 3] = [7, 30, 90];

/// Of which days.
#[derive(Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "crate::routes::pages::filled")]
    days: Option<String>,
}

/// Somebody, by name.
struct Person {
    name: String,
    user_id: i64,
}

/// Who spends more or less than before.
struct Moved {
    person: Person,
    mover: Mover,
}

/// A model, and how many of its calls failed.
struct Failing {
    name: String,
    sums: Measures,
}

#[derive(Template)]
#[template(path = "admin/overview.html")]
struct OverviewPage {
    shell: Shell,
    problem: Option<Problem>,
    ranges: Vec<(u64, bool)>,
    found: Option<Found>,
}

struct Found {
    recently: Vec<Recently>,
    total: Measures,
    cached: (i64, i64),
    widened: bool,
    spend: Figure,
    errors: Figure,
    times: Figure,
    models: Vec<Part>,
    regions: Vec<Part>,
    spenders: Vec<(Person, Part)>,
    people: i64,
    failing: Vec<Failing>,
    /// Those who spend more first, and who spends most less last; `None` = not known.
    moved: Option<Vec<Moved>>,
    unpriced: Vec<Unpriced>,
}

/// `GET /admin`
pub async fn show(
    viewer: AdminViewer,
    asked: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.0.shell(&mut conn, &worker, Place::AdminOverview).await?;
    let days = match asked.days.as_deref() {
        None => Some(30),
        Some(text) => text.parse().ok().filter(|days| RANGES.contains(days)),
    };
    let (found, problem) = match days {
        Some(days) => {
            drop(conn);
            (Some(find(&worker, days, db::now()).await?), None)
        }
        None => {
            let error = ApiError::parameter("days", "days must be 7, 30 or 90.");
            (None, Some(Problem::of(error)?))
        }
    };
    let status = if problem.is_some() { HttpResponse::BadRequest() } else { HttpResponse::Ok() };
    let ranges = RANGES.map(|range| (range, days == Some(range))).into();
    Ok(templates::answer(status, &OverviewPage { shell, problem, ranges, found }))
}

/// Four questions at once, each on a connection of its own: together they take as long as the longest.
async fn find(worker: &Worker, days: u64, now: Timestamp) -> Result<Found, ApiError> {
    let today = now.date();
    let pool = &worker.shared.pool;
    let sums = async {
        let conn = &mut pool.reader().await?;
        let levels = levels::read(conn).await?;
        let range = Range::of(conn, &levels, Span::last(days, today), today).await?;
        let everybody = Selection::default();
        let models = ByModel::read(conn, &levels, everybody.clone(), range).await?;
        let recently = Recently::all(conn, &levels, &everybody, &models, (days, today)).await?;
        let regions = Selection::new(None, None, &[Dimension::Region]);
        let regions = read::total(conn, &levels, &regions, range.start, range.end).await?;
        Ok::<_, ApiError>((models, recently, regions))
    };
    let spenders = async {
        let conn = &mut pool.reader().await?;
        let levels = levels::read(conn).await?;
        let range = Range::of(conn, &levels, Span::last(days, today), today).await?;
        let range = (range.start, range.end);
        Ok::<_, ApiError>(people::top(conn, &levels, range, MOST_SPENDERS).await?)
    };
    let movers = async {
        let conn = &mut pool.reader().await?;
        let levels = levels::read(conn).await?;
        movers(conn, &levels, today).await
    };
    let unpriced = async {
        let conn = &mut pool.reader().await?;
        Ok::<_, ApiError>(upkeep::without_price(conn, upkeep::DAYS, now).await?)
    };
    // All to their ends, also when one fails: a query must not be dropped half-way.
    let (sums, spenders, movers, unpriced) = futures_util::join!(sums, spenders, movers, unpriced);
    let (spenders, movers, unpriced) = (spenders?, movers?, unpriced?);
    let (models, recently, regions) = sums?;
    let ids = spenders.iter().map(|one| one.user_id);
    let ids = ids.chain(movers.iter().flatten().map(|mover| mover.user_id));
    let names = UserRecord::names(&mut pool.reader().await?, &ids.collect::<Vec<_>>()).await?;

    let total = models.total();
    let whole = total.cost_nano_usd;
    let narrowed = |name: &str, value: &str| {
        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        Some(format!("/admin/usage?{name}={value}"))
    };
    let mut regions: Vec<(String, Measures)> =
        regions.into_iter().map(|(group, sums)| (group.region.unwrap_or_default(), sums)).collect();
    figures::sort(&mut regions, |sums| sums.cost_nano_usd);
    let by_model = models.models().into_iter().map(|(name, sums)| {
        let href = narrowed("model", &name);
        Part::new(name, href, &sums, whole)
    });
    let by_model: Vec<Part> = by_model.collect();
    let mut failing = models.models();
    failing.retain(|(_, sums)| sums.errors > 0);
    figures::sort(&mut failing, |sums| sums.errors);
    failing.truncate(MODELS);
    let moved = |mover: Mover| Moved { person: person(&names, mover.user_id), mover };
    Ok(Found {
        recently,
        total,
        cached: cache_hits(&total),
        widened: models.range.widened,
        spend: models.figure("spend", Measure::Cost),
        errors: models.errors("errors"),
        times: models.times("times"),
        models: Part::first(by_model, MODELS, "models"),
        regions: regions
            .into_iter()
            .map(|(name, sums)| {
                let href = narrowed("region", &name);
                Part::new(name, href, &sums, whole)
            })
            .collect(),
        people: spenders.first().map_or(0, |one| one.people),
        spenders: spenders
            .into_iter()
            .map(|one| (person(&names, one.user_id), spent(&one, whole)))
            .collect(),
        failing: failing.into_iter().map(|(name, sums)| Failing { name, sums }).collect(),
        moved: movers.map(|movers| movers.into_iter().map(moved).collect()),
        unpriced,
    })
}

/// Whole days: today's, which is not over, would make everybody spend less.
async fn movers(
    conn: &mut Conn,
    levels: &Levels,
    today: chrono::NaiveDate,
) -> Result<Option<Vec<Mover>>, ApiError> {
    let yesterday = figures::back(today, 1);
    let recent = Span::last(7, yesterday);
    let before = Span::last(7, figures::back(recent.from, 1));
    let (recent, before) = ((recent.start(), recent.end()), (before.start(), before.end()));
    if before.0 < levels.cleaned_before(Level::Summaries(Period::Daily)) {
        return Ok(None);
    }
    Ok(Some(people::movers(conn, levels, recent, before, MOST_MOVERS).await?))
}

fn person(names: &HashMap<i64, String>, user_id: i64) -> Person {
    let name = names.get(&user_id).cloned().unwrap_or_else(|| format!("person {user_id}"));
    Person { name, user_id }
}

fn spent(one: &Spender, whole: i64) -> Part {
    Part {
        name: String::new(),
        href: None,
        requests: one.requests,
        tokens: one.tokens,
        cost: (one.unpriced == 0 || one.cost_nano_usd > 0).then_some(one.cost_nano_usd),
        unpriced: one.unpriced,
        whole,
    }
}
