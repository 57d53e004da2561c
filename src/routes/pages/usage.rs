//! `/usage` and `/admin/usage`: what was used, narrowed to what somebody asks for, and call by call. One question and one
//! page; whose usage it may be about is all that differs.
//!
//! Sums and charts come from the summaries, which know people, keys, models and regions. How calls ended they do not
//! know: with a filter for that, sums are those of the calls themselves, as long as these are few.

mod asked;
mod filters;
pub mod one;
mod rows;
mod sums;

use actix_web::{
    HttpResponse,
    web::{Data, Query},
};
use askama::Template;
use chrono::{Datelike, NaiveDate};

pub use self::rows::Row;
use self::{
    asked::{Asked, GroupBy, Question, Whose, offers},
    filters::{Filters, Names},
    sums::Sums,
};
use super::{
    AdminViewer, Problem, Viewer,
    figures::{self, Measure, Range, Span},
};
use crate::{
    db::{
        self, Conn,
        levels::{self, Level},
        usage::Filter,
    },
    routes::{api::usage::page_of, error::ApiError},
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// A link of a few beside each other.
struct Link {
    name: &'static str,
    href: String,
    current: bool,
}

/// What was found.
struct Found {
    /// `None`: too many calls to be added up.
    sums: Option<Sums>,
    rows: Vec<Row>,
    /// What the list is a part of.
    told: String,
    newest: Option<String>,
    older: Option<String>,
    csv: String,
    json_lines: String,
    /// What has to be known of the figures.
    notes: Vec<String>,
    measures: Vec<Link>,
    groups: Vec<Link>,
}

#[derive(Template)]
#[template(path = "usage.html")]
struct UsagePage {
    shell: Shell,
    /// Of everybody, for admins.
    everybody: bool,
    path: &'static str,
    problem: Option<Problem>,
    filters: Filters,
    ranges: Vec<Link>,
    found: Option<Found>,
}

impl UsagePage {
    fn wrong(&self, field: &str) -> Option<&str> {
        self.problem.as_ref()?.with(field)
    }

    /// What is wrong with none of the fields that are shown.
    fn wrong_elsewhere(&self) -> Option<&str> {
        let shown = ["from", "to", "user_id", "model", "region", "key", "outcome", "limit"];
        self.problem.as_ref()?.besides(&shown)
    }
}

/// `GET /usage`
pub async fn own(
    viewer: Viewer,
    asked: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    // Whose it is, is not asked.
    let asked = Asked { user_id: None, ..asked.into_inner() };
    answer(&viewer, &worker, asked, Whose::Own(viewer.0.user_id)).await
}

/// `GET /admin/usage`
pub async fn everybodys(
    viewer: AdminViewer,
    asked: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    answer(&viewer.0, &worker, asked.into_inner(), Whose::Everybodys).await
}

async fn answer(
    viewer: &Viewer,
    worker: &Worker,
    asked: Asked,
    whose: Whose,
) -> Result<HttpResponse, ApiError> {
    let everybody = whose == Whose::Everybodys;
    let place = if everybody { Place::AdminUsage } else { Place::Usage };
    let path = place.href();
    let mut conn = worker.shared.pool.reader().await?;
    let shell = viewer.shell(&mut conn, worker, place).await?;
    let today = db::now().date();
    let mut names = Names::default();
    let answered = match Question::read(&mut conn, &asked, whose, today).await {
        Ok(question) => {
            names.person.clone_from(&question.person);
            find(&mut conn, (&asked, path), &question, whose, &mut names, today).await
        }
        // What may be chosen is offered to whoever chose something that is not there, too.
        Err(error) => {
            let levels = levels::read(&mut conn).await?;
            let range = Range::of(&mut conn, &levels, Span::last(30, today), today).await?;
            filters::offered(&mut conn, &levels, whose.person(), range, &mut names).await?;
            Err(error)
        }
    };
    let (found, problem) = match answered {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(Problem::of(error)?)),
    };
    let filters = filters::filters(&asked, whose, names, today);
    let ranges = filters::ranges(&asked, path, today);
    let wrong = problem.is_some();
    let page = UsagePage { shell, everybody, path, problem, filters, ranges, found };
    let status = if wrong { HttpResponse::BadRequest() } else { HttpResponse::Ok() };
    Ok(templates::answer(status, &page))
}

async fn find(
    conn: &mut Conn,
    (asked, path): (&Asked, &'static str),
    question: &Question,
    whose: Whose,
    names: &mut Names,
    today: NaiveDate,
) -> Result<Found, ApiError> {
    // A cursor that is none is told before anything is added up.
    let (rows, next) = page_of(conn, &question.filter, &question.page).await?;
    let levels = levels::read(conn).await?;
    let range = Range::of(conn, &levels, question.span, today).await?;
    filters::offered(conn, &levels, question.filter.user_id, range, names).await?;
    let sums = match question.filter.outcome {
        None => Some(sums::from_summaries(conn, &levels, (asked, path), question, range).await?),
        Some(_) => sums::from_calls(conn, (asked, path), question, range).await?,
    };
    let told = match (&sums, question.page.cursor.is_some()) {
        (_, true) => format!("{} older calls", show::grouped(rows.len() as i64)),
        // What is summed up and what is listed is the same, unless calls are cleaned up.
        (Some(sums), false) if levels.cleaned_before(Level::Records) <= range.start => format!(
            "The newest {} of {} calls",
            show::grouped(rows.len() as i64),
            show::grouped(sums.total.requests)
        ),
        _ => format!("The newest {} calls", show::grouped(rows.len() as i64)),
    };
    let rows = rows::in_words(conn, rows, whose).await?;
    let change = |changes: &[(&str, Option<&str>)]| asked.href(path, changes);
    let measures = Measure::ALL.map(|measure| Link {
        name: measure.name(),
        href: change(&[("measure", Some(measure.as_str()))]),
        current: measure == question.measure,
    });
    let groups = GroupBy::ALL.into_iter().filter(|group| offers(whose, *group));
    let groups = groups.map(|group| Link {
        name: sums::heading(group, range),
        href: change(&[("group", Some(group.as_str()))]),
        current: group == question.group,
    });
    let mut notes = Vec::new();
    if range.widened && sums.is_some() && question.filter.outcome.is_none() {
        notes.push(format!(
            "Of some of these days only whole months are kept: the figures are of {} to {}, the list is of the days \
             that you asked for.",
            range.start.date(),
            figures::back(range.end.date(), 1)
        ));
    }
    let cleaned = levels.cleaned_before(Level::Records);
    if cleaned > range.start {
        notes.push(format!(
            "Calls from before {} are cleaned up: they are in the figures, and no longer in the list.",
            cleaned.format("%Y-%m-%d %H:%M UTC")
        ));
    }
    Ok(Found {
        sums,
        rows,
        told,
        newest: question.page.cursor.is_some().then(|| change(&[("cursor", None)])),
        older: next.map(|cursor| change(&[("cursor", Some(&cursor))])),
        csv: export(question, whose, "csv"),
        json_lines: export(question, whose, "jsonl"),
        notes,
        measures: measures.into(),
        groups: groups.collect(),
    })
}

/// The address of the same calls as a file.
fn export(question: &Question, whose: Whose, format: &str) -> String {
    let Filter { user_id, model, region, key_id, outcome, start, end } = &question.filter;
    let everybody = whose == Whose::Everybodys;
    let path = if everybody { "/api/admin/usage/export" } else { "/api/usage/export" };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("format", format);
    for (name, time) in [("start_date", start), ("end_date", end)] {
        if let Some(time) = time {
            // The end of 2199 is the end of what may be asked for.
            let day = time.date();
            if day.year() < 2200 {
                query.append_pair(name, &day.to_string());
            }
        }
    }
    for (name, number) in [("user_id", user_id.filter(|_| everybody)), ("key_id", *key_id)] {
        if let Some(number) = number {
            query.append_pair(name, &number.to_string());
        }
    }
    for (name, text) in [("model", model), ("region", region), ("outcome", outcome)] {
        if let Some(text) = text {
            query.append_pair(name, text);
        }
    }
    format!("{path}?{}", query.finish())
}
