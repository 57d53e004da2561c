//! `/usage` and `/admin/usage`: what was used, narrowed to what somebody asks for, and call by call. One question and one
//! page; whose usage it may be about is all that differs.
//!
//! Sums and charts come from the summaries, which know people, keys, models and regions. How calls ended they do not
//! know: with a filter for that, sums are those of the calls themselves, as long as these are few.

pub mod one;

use std::collections::BTreeMap;

use actix_web::{
    HttpResponse,
    web::{Data, Query},
};
use askama::Template;
use chrono::{Datelike, NaiveDate};
use serde::Deserialize;

use super::{
    AdminViewer, Problem, Viewer,
    figures::{self, ByModel, Figure, Measure, Part, Range, Span},
};
use crate::{
    db::{
        self, Conn,
        api_keys::ApiKeyRecord,
        levels::{self, Level, Levels},
        summaries::{
            Measures, people,
            read::{self, Dimension, Group, Groups, Selection},
        },
        usage::{self, Filter, UsageRecord},
        users::UserRecord,
    },
    routes::{
        api::{
            page::Page,
            usage::{Given, OUTCOMES, filter, page_of},
        },
        error::ApiError,
    },
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// So many calls at most are added up to tell what those of one outcome used.
const MOST_ADDED_UP: i64 = 2_000;
/// People that a table has a row each for.
const MOST_PEOPLE: i64 = 40;
/// Keys that a filter offers.
const MOST_KEYS: i64 = 1_000;
/// Calls a page, unless another number is asked for.
const CALLS: i64 = 25;
const PER_PAGE: [&str; 4] = ["25", "50", "100", "200"];

macro_rules! asked {
    ($($name:ident,)*) => {
        /// What a query asks for, as it was typed.
        #[derive(Debug, Default, Clone, Deserialize)]
        #[serde(default)]
        pub struct Asked {
            $(#[serde(deserialize_with = "super::filled")] $name: Option<String>,)*
        }

        impl Asked {
            fn pairs(&self) -> Vec<(&'static str, Option<&str>)> {
                vec![$((stringify!($name), self.$name.as_deref()),)*]
            }
        }
    };
}
asked!(from, to, user_id, model, region, key, outcome, measure, group, limit, cursor,);

impl Asked {
    /// Where the same is asked with some of it changed.
    fn href(&self, path: &str, changes: &[(&str, Option<&str>)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let mut any = false;
        for (name, own) in self.pairs() {
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            if let Some(value) = changed.map_or(own, |(_, value)| *value) {
                query.append_pair(name, value);
                any = true;
            }
        }
        if any { format!("{path}?{}", query.finish()) } else { path.to_owned() }
    }
}

/// By what sums are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    Person,
    Model,
    Region,
    Key,
    Day,
}

impl GroupBy {
    const ALL: [Self; 5] = [Self::Model, Self::Person, Self::Region, Self::Key, Self::Day];

    fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Model => "model",
            Self::Region => "region",
            Self::Key => "key",
            Self::Day => "day",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Person => "Person",
            Self::Model => "Model",
            Self::Region => "Region",
            Self::Key => "Key",
            Self::Day => "Day",
        }
    }
}

/// What was asked for, read.
struct Question {
    span: Span,
    /// Of the calls; its times are those of the span.
    filter: Filter,
    measure: Measure,
    group: GroupBy,
    page: Page,
    /// Who is asked about, if it is one person.
    person: Option<String>,
}

/// Whose usage a page is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Of the person with this id.
    Own(i64),
    Everybodys,
}

impl Question {
    /// # Errors
    /// 400 for what is wrong, by its field.
    async fn read(
        conn: &mut Conn,
        asked: &Asked,
        whose: Whose,
        today: NaiveDate,
    ) -> Result<Self, ApiError> {
        let span = read_span(asked, today)?;
        let named = |name: &'static str, text: &Option<String>, message: &'static str| match text {
            Some(text) => {
                text.parse::<i64>().map(Some).map_err(|_| ApiError::parameter(name, message))
            }
            None => Ok(None),
        };
        let user_id = match whose {
            Whose::Own(user_id) => Some(user_id),
            Whose::Everybodys => match &asked.user_id {
                Some(text) => Some(numbered(conn, text).await?),
                None => None,
            },
        };
        let key_id = named("key", &asked.key, "A key is asked for by its number.")?;
        let given = Given {
            user_id,
            key_id,
            model: asked.model.clone(),
            region: asked.region.clone(),
            outcome: asked.outcome.clone(),
            ..Given::default()
        };
        let calls = filter(given)?;
        let measure = one_of("measure", &asked.measure, &Measure::ALL, Measure::as_str)?;
        let offered = GroupBy::ALL.into_iter().filter(|group| offers(whose, *group));
        let group = one_of("group", &asked.group, &offered.collect::<Vec<_>>(), GroupBy::as_str)?;
        let limit = named("limit", &asked.limit, "limit must be 1 to 500.")?.unwrap_or(CALLS);
        let page = Page::read(Some(limit), None, asked.cursor.as_deref())?;
        let mut person = None;
        if let (Whose::Everybodys, Some(user_id)) = (whose, user_id) {
            let user = UserRecord::find(conn, user_id).await?;
            let no_such = || ApiError::parameter("user_id", "There is no such person.");
            person = Some(user.ok_or_else(no_such)?.called());
        }
        // A key that is somebody else's is not told from one that is not.
        let mut owner = user_id;
        if let Some(key_id) = key_id {
            let found = ApiKeyRecord::owner(conn, key_id).await?;
            if found.is_none() || user_id.is_some_and(|user_id| found != Some(user_id)) {
                return Err(ApiError::parameter("key", "There is no such key."));
            }
            owner = found;
        }
        let filter =
            Filter { user_id: owner, start: Some(span.start()), end: Some(span.end()), ..calls };
        Ok(Self { span, filter, measure, group, page, person })
    }

    /// The same of summaries, if they know it.
    fn selection(&self, by: &[Dimension]) -> Selection {
        let Filter { user_id, model, region, key_id, .. } = self.filter.clone();
        Selection::new(user_id, model, by).within(region, key_id)
    }
}

/// Somebody's number, by itself or by their address.
async fn numbered(conn: &mut Conn, text: &str) -> Result<i64, ApiError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    // A NUL is no text to Postgres.
    let found = match text.contains('\0') {
        true => Vec::new(),
        false => UserRecord::with_email(conn, text).await?,
    };
    let message = match found.as_slice() {
        [one] => return Ok(one.id),
        [] => "Nobody has this address. It can be a number, too.",
        _ => {
            "Several people have this address: give the number instead, as on the page of a person."
        }
    };
    Err(ApiError::parameter("user_id", message))
}

fn offers(whose: Whose, group: GroupBy) -> bool {
    group != GroupBy::Person || whose == Whose::Everybodys
}

/// The first of them, unless another is asked for.
fn one_of<T: Copy>(
    field: &'static str,
    text: &Option<String>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, ApiError> {
    let chosen = match text {
        Some(text) => all.iter().find(|one| name(**one) == text),
        None => all.first(),
    };
    chosen.copied().ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        ApiError::parameter(field, format!("{field} must be one of {}.", names.join(", ")))
    })
}

fn read_span(asked: &Asked, today: NaiveDate) -> Result<Span, ApiError> {
    let read = |field: &'static str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let day = text.parse::<NaiveDate>().ok();
        let day = day.filter(|day| (2000..2200).contains(&day.year()));
        let message = "Write a day such as 2026-11-21, from 2000 to 2199.";
        day.map(Some).ok_or_else(|| ApiError::parameter(field, message))
    };
    let (from, to) = (read("from", &asked.from)?, read("to", &asked.to)?);
    let to = to.unwrap_or_else(|| from.unwrap_or(today).max(today));
    let from = from.unwrap_or_else(|| figures::back(to, 29));
    if from > to {
        return Err(ApiError::parameter("to", "The last day is before the first."));
    }
    Ok(Span { from, to })
}

/// A choice of a filter.
struct Choice {
    value: String,
    name: String,
}

/// A field of the filters with what may be chosen.
struct Choices {
    name: &'static str,
    label: &'static str,
    /// What is chosen if nothing is; empty = there is always something.
    any: &'static str,
    chosen: String,
    all: Vec<Choice>,
}

impl Choices {
    /// What is in the address is offered, too, whether there is such a thing or not.
    fn new(
        (name, label, any): (&'static str, &'static str, &'static str),
        chosen: &Option<String>,
        all: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let chosen = chosen.clone().unwrap_or_default();
        let mut all: Vec<Choice> =
            all.into_iter().map(|(value, name)| Choice { value, name }).collect();
        if !chosen.is_empty() && all.iter().all(|choice| choice.value != chosen) {
            all.push(Choice { value: chosen.clone(), name: chosen.clone() });
        }
        Self { name, label, any, chosen, all }
    }
}

/// A link of a few beside each other.
struct Link {
    name: &'static str,
    href: String,
    current: bool,
}

/// The filters as they stand.
struct Filters {
    /// As typed, or else what it means that nothing was.
    from: String,
    to: String,
    choices: Vec<Choices>,
    /// For admins: whom it is about, as typed and by name.
    user_id: Option<String>,
    person: Option<String>,
    /// What is neither shown nor lost.
    hidden: Vec<(&'static str, String)>,
}

/// A call in the list.
pub struct Row {
    pub id: i64,
    pub at: db::Timestamp,
    pub person: String,
    pub user_id: i64,
    pub model: String,
    pub region: String,
    pub key: String,
    /// Of all classes; `None` = nothing is known of them.
    pub tokens: Option<i64>,
    /// It counted the tokens of a prompt, and used none itself.
    pub counts: bool,
    pub cost: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub ms: Option<i64>,
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

struct Sums {
    total: Measures,
    figure: Figure,
    group: &'static str,
    parts: Vec<Part>,
    /// Why there are no parts.
    no_parts: Option<&'static str>,
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
        Err(error) => Err(error),
    };
    let (found, problem) = match answered {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(Problem::of(error)?)),
    };
    let filters = filters(&asked, whose, names, today);
    let ranges = ranges(&asked, path, today);
    let wrong = problem.is_some();
    let page = UsagePage { shell, everybody, path, problem, filters, ranges, found };
    let status = if wrong { HttpResponse::BadRequest() } else { HttpResponse::Ok() };
    Ok(templates::answer(status, &page))
}

/// What filters offer.
#[derive(Default)]
struct Names {
    models: Vec<String>,
    regions: Vec<String>,
    keys: Vec<(i64, String)>,
    person: Option<String>,
}

fn filters(asked: &Asked, whose: Whose, names: Names, today: NaiveDate) -> Filters {
    let same = |names: Vec<String>| names.into_iter().map(|name| (name.clone(), name));
    let outcomes = OUTCOMES.map(|outcome| (outcome.to_owned(), words(outcome)));
    let keys = names.keys.into_iter().map(|(id, name)| (id.to_string(), name));
    let limit = asked.limit.clone().or(Some(PER_PAGE[0].to_owned()));
    let limits = PER_PAGE.map(|limit| (limit.to_owned(), limit.to_owned()));
    let span = read_span(asked, today).unwrap_or(Span::last(30, today));
    let hidden = [("measure", &asked.measure), ("group", &asked.group)];
    let everybody = whose == Whose::Everybodys;
    Filters {
        from: asked.from.clone().unwrap_or_else(|| span.from.to_string()),
        to: asked.to.clone().unwrap_or_else(|| span.to.to_string()),
        choices: vec![
            Choices::new(("model", "Model", "All models"), &asked.model, same(names.models)),
            Choices::new(("region", "Region", "All regions"), &asked.region, same(names.regions)),
            Choices::new(("key", "API key", "All keys and sign-ins"), &asked.key, keys),
            Choices::new(("outcome", "Outcome", "All outcomes"), &asked.outcome, outcomes),
            Choices::new(("limit", "Calls a page", ""), &limit, limits),
        ],
        user_id: everybody.then(|| asked.user_id.clone().unwrap_or_default()),
        person: names.person,
        hidden: hidden
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect(),
    }
}

/// Ranges that are asked for often.
fn ranges(asked: &Asked, path: &str, today: NaiveDate) -> Vec<Link> {
    let span = read_span(asked, today).ok();
    let ranges = [("Today", 1), ("7 days", 7), ("30 days", 30), ("90 days", 90)];
    let link = |(name, days)| {
        let range = Span::last(days, today);
        let (from, to) = (range.from.to_string(), range.to.to_string());
        let changes = [("from", Some(from.as_str())), ("to", Some(&to)), ("cursor", None)];
        Link { name, href: asked.href(path, &changes), current: span == Some(range) }
    };
    ranges.into_iter().map(link).collect()
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
    offered(conn, &levels, question, range, names).await?;
    let sums = match question.filter.outcome {
        None => Some(from_summaries(conn, &levels, (asked, path), question, range).await?),
        Some(_) => from_calls(conn, (asked, path), question, range).await?,
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
    let rows = in_words(conn, rows, whose).await?;
    let change = |changes: &[(&str, Option<&str>)]| asked.href(path, changes);
    let measures = Measure::ALL.map(|measure| Link {
        name: measure.name(),
        href: change(&[("measure", Some(measure.as_str()))]),
        current: measure == question.measure,
    });
    let groups = GroupBy::ALL.into_iter().filter(|group| offers(whose, *group));
    let groups = groups.map(|group| Link {
        name: heading(group, range),
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

/// What there is to choose: models and regions of the range, and a person's keys.
async fn offered(
    conn: &mut Conn,
    levels: &Levels,
    question: &Question,
    range: Range,
    names: &mut Names,
) -> Result<(), ApiError> {
    let user_id = question.filter.user_id;
    let by = [Dimension::Model, Dimension::Region];
    let all = Selection::new(user_id, None, &by);
    let groups = read::total(conn, levels, &all, range.start, range.end).await?;
    let of = |part: fn(&Group) -> &Option<String>| {
        let mut names: Vec<String> =
            groups.keys().filter_map(|group| part(group).clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    names.models = of(|group| &group.model_id);
    names.regions = of(|group| &group.region);
    if user_id.is_some() {
        let keys = ApiKeyRecord::list(conn, user_id, MOST_KEYS).await?;
        let name = |key: ApiKeyRecord| (key.id, format!("{} (…{})", key.name, key.hint));
        names.keys = keys.into_iter().map(name).collect();
    }
    Ok(())
}

async fn from_summaries(
    conn: &mut Conn,
    levels: &Levels,
    (asked, path): (&Asked, &str),
    question: &Question,
    range: Range,
) -> Result<Sums, ApiError> {
    let models = ByModel::read(conn, levels, question.selection(&[]), range).await?;
    let total = models.total();
    let whole = total.cost_nano_usd;
    let narrowed =
        |name: &str, value: &str| Some(asked.href(path, &[(name, Some(value)), ("cursor", None)]));
    let mut no_parts = None;
    let span = (range.start, range.end);
    let parts = match question.group {
        GroupBy::Model => by_model(&models, &narrowed),
        GroupBy::Day => by_day(&models, asked, path),
        GroupBy::Region => {
            let selection = question.selection(&[Dimension::Region]);
            let groups = read::total(conn, levels, &selection, span.0, span.1).await?;
            let groups =
                groups.into_iter().map(|(group, sums)| (group.region.unwrap_or_default(), sums));
            sorted(groups.collect(), whole, |name| narrowed("region", name))
        }
        GroupBy::Key if question.filter.user_id.is_none() => {
            no_parts = Some("Keys belong to people: ask for a person to see theirs.");
            Vec::new()
        }
        GroupBy::Key => {
            let selection = question.selection(&[Dimension::Key]);
            let groups = read::total(conn, levels, &selection, span.0, span.1).await?;
            keys(conn, groups, whole, &narrowed).await?
        }
        GroupBy::Person => match (question.filter.user_id, &question.filter) {
            (Some(user_id), _) => {
                let name = UserRecord::names(conn, &[user_id]).await?.remove(&user_id);
                let href = Some(format!("/admin/users/{user_id}"));
                let name = name.unwrap_or_else(|| format!("person {user_id}"));
                vec![Part::new(name, href, &total, whole)]
            }
            (None, Filter { model: None, region: None, .. }) => {
                spenders(conn, levels, span, &total, &narrowed).await?
            }
            _ => {
                no_parts = Some(
                    "Who used one model or region is not summed up for everybody: ask for a person, or export the calls.",
                );
                Vec::new()
            }
        },
    };
    let figure = models.figure("spend", question.measure);
    Ok(Sums { total, figure, group: heading(question.group, range), parts, no_parts })
}

fn heading(group: GroupBy, range: Range) -> &'static str {
    match group {
        GroupBy::Day => range.head(),
        group => group.name(),
    }
}

fn by_model(models: &ByModel, href: &impl Fn(&str, &str) -> Option<String>) -> Vec<Part> {
    let whole = models.total().cost_nano_usd;
    let part = |(name, sums): (String, Measures)| {
        let href = href("model", &name);
        Part::new(name, href, &sums, whole)
    };
    models.models().into_iter().map(part).collect()
}

fn by_day(models: &ByModel, asked: &Asked, path: &str) -> Vec<Part> {
    let whole = models.total().cost_nano_usd;
    let used = models.periods().into_iter().rev().filter(|(_, sums)| sums.requests > 0);
    let part = |(at, sums): (db::Timestamp, Measures)| {
        let Span { from, to } = models.range.days_of(at);
        let (from, to) = (from.to_string(), to.to_string());
        let changes = [("from", Some(from.as_str())), ("to", Some(&to)), ("cursor", None)];
        Part::new(models.range.name(at), Some(asked.href(path, &changes)), &sums, whole)
    };
    used.map(part).collect()
}

fn sorted(
    mut groups: Vec<(String, Measures)>,
    whole: i64,
    href: impl Fn(&str) -> Option<String>,
) -> Vec<Part> {
    figures::sort(&mut groups, |sums| sums.cost_nano_usd);
    let part = |(name, sums): (String, Measures)| {
        let href = href(&name);
        Part::new(name, href, &sums, whole)
    };
    groups.into_iter().map(part).collect()
}

async fn keys(
    conn: &mut Conn,
    groups: Groups,
    whole: i64,
    href: &impl Fn(&str, &str) -> Option<String>,
) -> Result<Vec<Part>, ApiError> {
    let id_of = |group: &Group| group.key_id.unwrap_or(0);
    let ids: Vec<i64> = groups.keys().map(id_of).filter(|id| *id != 0).collect();
    let names = ApiKeyRecord::names(conn, &ids).await?;
    let mut groups: Vec<(i64, Measures)> =
        groups.into_iter().map(|(group, sums)| (id_of(&group), sums)).collect();
    groups.sort_by_key(|(id, sums)| (-sums.cost_nano_usd, -sums.requests, *id));
    let part = |(id, sums): (i64, Measures)| match id {
        0 => Part::new(SIGNED_IN.to_owned(), None, &sums, whole),
        id => Part::new(key_name(&names, id), href("key", &id.to_string()), &sums, whole),
    };
    Ok(groups.into_iter().map(part).collect())
}

const SIGNED_IN: &str = "no key (signed in)";

fn key_name(names: &std::collections::HashMap<i64, String>, id: i64) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("key {id}"))
}

/// Those who spent most, and all others together.
async fn spenders(
    conn: &mut Conn,
    levels: &Levels,
    span: (db::Timestamp, db::Timestamp),
    total: &Measures,
    href: &impl Fn(&str, &str) -> Option<String>,
) -> Result<Vec<Part>, ApiError> {
    let found = people::top(conn, levels, span, MOST_PEOPLE).await?;
    let ids: Vec<i64> = found.iter().map(|one| one.user_id).collect();
    let mut names = UserRecord::names(conn, &ids).await?;
    let whole = total.cost_nano_usd;
    let everybody = found.first().map_or(0, |one| one.people);
    let (mut requests, mut tokens, mut cost, mut unpriced) = (0, 0, 0, 0);
    let mut parts = Vec::with_capacity(found.len() + 1);
    for one in found {
        requests += one.requests;
        tokens += one.tokens;
        cost += one.cost_nano_usd;
        unpriced += one.unpriced;
        let name = names.remove(&one.user_id);
        parts.push(Part {
            name: name.unwrap_or_else(|| format!("person {}", one.user_id)),
            href: href("user_id", &one.user_id.to_string()),
            requests: one.requests,
            tokens: one.tokens,
            cost: (one.unpriced == 0 || one.cost_nano_usd > 0).then_some(one.cost_nano_usd),
            unpriced: one.unpriced,
            whole,
        });
    }
    let others = everybody - parts.len() as i64;
    if others > 0 {
        parts.push(Part {
            name: format!("{} other people", show::grouped(others)),
            href: None,
            requests: total.requests - requests,
            tokens: total.tokens() - tokens,
            cost: Some(whole - cost),
            unpriced: total.unpriced - unpriced,
            whole,
        });
    }
    Ok(parts)
}

/// Sums of the calls themselves; `None` if they are too many.
async fn from_calls(
    conn: &mut Conn,
    (asked, path): (&Asked, &str),
    question: &Question,
    range: Range,
) -> Result<Option<Sums>, ApiError> {
    let calls = usage::newest(conn, &question.filter, MOST_ADDED_UP + 1).await?;
    if calls.len() as i64 > MOST_ADDED_UP {
        return Ok(None);
    }
    let failed = question.filter.outcome.as_deref() != Some("success");
    let mut sums = Groups::new();
    let mut parts: BTreeMap<(i64, String), Measures> = BTreeMap::new();
    for call in calls {
        let measures = call.measures(failed);
        let part = match question.group {
            GroupBy::Model | GroupBy::Day => (0, call.model_id.clone()),
            GroupBy::Region => (0, call.region),
            GroupBy::Key => (call.key_id.unwrap_or(0), String::new()),
            GroupBy::Person => (call.user_id, String::new()),
        };
        *parts.entry(part).or_default() += measures;
        let group = Group {
            period_start: range.period.floor(call.request_time),
            user_id: None,
            key_id: None,
            model_id: Some(call.model_id),
            region: None,
            endpoint_type: None,
        };
        *sums.entry(group).or_default() += measures;
    }
    // The days that were asked for, whatever is kept of others.
    let (start, end) = if range.widened {
        (question.span.start().max(range.start), question.span.end().min(range.end))
    } else {
        (range.start, range.end)
    };
    let models = ByModel { range: Range { start, end, ..range }, sums };
    let total = models.total();
    let whole = total.cost_nano_usd;
    let narrowed =
        |name: &str, value: &str| Some(asked.href(path, &[(name, Some(value)), ("cursor", None)]));
    let parts = match question.group {
        GroupBy::Model => by_model(&models, &narrowed),
        GroupBy::Day => by_day(&models, asked, path),
        GroupBy::Region => {
            let groups = parts.into_iter().map(|((_, name), sums)| (name, sums)).collect();
            sorted(groups, whole, |name| narrowed("region", name))
        }
        GroupBy::Key => {
            let groups = parts.into_iter().map(|((id, _), sums)| {
                (
                    Group {
                        period_start: start,
                        user_id: None,
                        key_id: Some(id),
                        model_id: None,
                        region: None,
                        endpoint_type: None,
                    },
                    sums,
                )
            });
            keys(conn, groups.collect(), whole, &narrowed).await?
        }
        GroupBy::Person => {
            let ids: Vec<i64> = parts.keys().map(|(id, _)| *id).collect();
            let called = UserRecord::names(conn, &ids).await?;
            let mut groups: Vec<_> = parts.into_iter().collect();
            groups.sort_by_key(|((id, _), sums)| (-sums.cost_nano_usd, -sums.requests, *id));
            let part = |((id, _), sums): ((i64, String), Measures)| {
                let name = called.get(&id).cloned().unwrap_or_else(|| format!("person {id}"));
                Part::new(name, narrowed("user_id", &id.to_string()), &sums, whole)
            };
            groups.into_iter().map(part).collect()
        }
    };
    let figure = models.figure("spend", question.measure);
    let group = heading(question.group, range);
    Ok(Some(Sums { total, figure, group, parts, no_parts: None }))
}

/// Rows of the list, with names in the place of numbers.
async fn in_words(
    conn: &mut Conn,
    rows: Vec<UsageRecord>,
    whose: Whose,
) -> Result<Vec<Row>, ApiError> {
    let mut unnamed: Vec<i64> = rows.iter().filter_map(|row| row.key_id).collect();
    unnamed.sort_unstable();
    unnamed.dedup();
    let keys = ApiKeyRecord::names(conn, &unnamed).await?;
    let mut people: Vec<i64> = rows.iter().map(|row| row.user_id).collect();
    people.sort_unstable();
    people.dedup();
    let people = match whose {
        Whose::Own(_) => std::collections::HashMap::new(),
        Whose::Everybodys => UserRecord::names(conn, &people).await?,
    };
    Ok(rows.into_iter().map(|row| Row::new(row, &keys, &people)).collect())
}

impl Row {
    pub fn new(
        row: UsageRecord,
        keys: &std::collections::HashMap<i64, String>,
        people: &std::collections::HashMap<i64, String>,
    ) -> Self {
        let tokens = row.total_tokens();
        Self {
            id: row.id,
            at: row.request_time,
            person: people
                .get(&row.user_id)
                .cloned()
                .unwrap_or_else(|| format!("person {}", row.user_id)),
            user_id: row.user_id,
            model: row.model_id,
            region: row.region,
            key: row.key_id.map_or_else(|| SIGNED_IN.to_owned(), |id| key_name(keys, id)),
            tokens,
            counts: row.operation == "count_tokens",
            cost: row.cost_nano_usd,
            estimated: row.estimated,
            outcome: row.outcome,
            ms: row.response_time_ms,
        }
    }

    pub fn outcome_in_words(&self) -> String {
        words(&self.outcome)
    }

    pub fn failed(&self) -> bool {
        self.outcome != "success"
    }
}

/// `upstream_error` as people write it.
fn words(outcome: &str) -> String {
    outcome.replace('_', " ")
}
