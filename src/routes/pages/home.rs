//! `/`: the overview of somebody's own usage.

use actix_web::{HttpResponse, web::Data};
use askama::Template;
use chrono::NaiveDate;

use super::{
    Viewer,
    figures::{ByModel, Figure, Measure, Part, Range, Span, back},
    page,
    usage::Row,
};
use crate::{
    db::{
        self, Conn, DbError,
        api_keys::ApiKeyRecord,
        levels::{self, Levels},
        period::Period,
        summaries::{
            Measures,
            read::{self, Selection},
        },
        usage::{self, Filter, From},
    },
    routes::{
        api::streams::{self, StreamEntry},
        error::ApiError,
    },
    state::Worker,
    templates::{Place, Shell, show},
};

/// Models that an overview tells apart.
pub const MODELS: usize = 8;
/// Calls that are shown.
const RECENT: i64 = 10;

/// What was used in some days.
pub struct Recently {
    pub name: String,
    pub sums: Measures,
}

impl Recently {
    /// Of today, and of the last days up to `days`, which `models` are the sums of.
    ///
    /// # Errors
    /// The database's.
    pub async fn all(
        conn: &mut Conn,
        levels: &Levels,
        selection: &Selection,
        models: &ByModel,
        (days, today): (u64, NaiveDate),
    ) -> Result<Vec<Self>, DbError> {
        let range = models.range;
        if range.widened {
            // So few days are kept that what is there is no sum of days.
            let name = format!("{} to {}", range.start.date(), back(range.end.date(), 1));
            return Ok(vec![Self { name, sums: models.total() }]);
        }
        let mut told = Vec::new();
        for some in [1, 7, 30, 90].into_iter().filter(|some| *some <= days) {
            let span = Span::last(some, today);
            let sums = if some == days {
                models.total()
            } else if range.period == Period::Daily {
                models.since(span.start())
            } else {
                let (start, end) = (span.start(), span.end());
                let all = read::total(conn, levels, selection, start, end).await?;
                all.into_values().fold(Measures::default(), |sum, one| sum + one)
            };
            let name = if some == 1 { "Today".to_owned() } else { format!("Last {some} days") };
            told.push(Self { name, sums });
        }
        Ok(told)
    }
}

/// What was sent to models, and how much of it came from their cache.
pub fn cache_hits(sums: &Measures) -> (i64, i64) {
    let read = sums.cache_read_tokens;
    (read, read + sums.input_tokens + sums.cache_write_tokens)
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage<'a> {
    shell: Shell,
    /// The address of this service.
    service: &'a str,
    /// Nothing was called yet.
    newcomer: bool,
    recently: Vec<Recently>,
    cached: (i64, i64),
    figure: Figure,
    parts: Vec<Part>,
    calls: Vec<Row>,
    streams: Vec<StreamEntry>,
}

/// `GET /`
pub async fn show(viewer: Viewer, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let user_id = viewer.0.user_id;
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, &worker, Place::Overview).await?;
    let own = Filter { user_id: Some(user_id), ..Filter::default() };
    let rows = usage::list(&mut conn, &own, From::Offset(0), RECENT).await?;
    let keys: Vec<i64> = rows.iter().filter_map(|row| row.key_id).collect();
    let keys = ApiKeyRecord::names(&mut conn, &keys).await?;
    let today = db::now().date();
    let levels = levels::read(&mut conn).await?;
    let range = Range::of(&mut conn, &levels, Span::last(30, today), today).await?;
    let selection = Selection::new(Some(user_id), None, &[]);
    let models = ByModel::read(&mut conn, &levels, selection.clone(), range).await?;
    let recently = Recently::all(&mut conn, &levels, &selection, &models, (30, today)).await?;
    let total = models.total();
    let part = |(name, sums): (String, Measures)| {
        let query = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
        Part::new(name, Some(format!("/usage?model={query}")), &sums, total.cost_nano_usd)
    };
    // With a connection of its own.
    drop(conn);
    let streams = streams::of_person(&worker, user_id).await?;
    Ok(page(&HomePage {
        shell,
        service: &worker.shared.sign_in.public_url,
        newcomer: rows.is_empty() && total.requests == 0,
        recently,
        cached: cache_hits(&total),
        figure: models.figure("spend", Measure::Cost),
        parts: Part::first(models.models().into_iter().map(part).collect(), MODELS, "models"),
        calls: rows.into_iter().map(|row| Row::new(row, &keys, &Default::default())).collect(),
        streams,
    }))
}
