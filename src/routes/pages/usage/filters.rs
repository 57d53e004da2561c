//! The filters of these pages as they stand, and what each offers.

use chrono::NaiveDate;

use super::{
    super::figures::{Range, Span},
    Link,
    asked::{Asked, Whose, read_span},
    rows::words,
};
use crate::{
    db::{
        Conn,
        api_keys::ApiKeyRecord,
        levels::Levels,
        summaries::read::{self, Dimension, Group, Selection},
    },
    routes::{api::usage::OUTCOMES, error::ApiError},
};

/// Keys that a filter offers.
const MOST_KEYS: i64 = 1_000;
const PER_PAGE: [&str; 4] = ["25", "50", "100", "200"];

/// A choice of a filter.
pub(super) struct Choice {
    pub value: String,
    pub name: String,
}

/// A field of the filters with what may be chosen.
pub(super) struct Choices {
    pub name: &'static str,
    pub label: &'static str,
    /// What is chosen if nothing is; empty = there is always something.
    pub any: &'static str,
    pub chosen: String,
    pub all: Vec<Choice>,
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

/// The filters as they stand.
pub(super) struct Filters {
    /// As typed, or else what it means that nothing was.
    pub from: String,
    pub to: String,
    pub choices: Vec<Choices>,
    /// For admins: whom it is about, as typed and by name.
    pub user_id: Option<String>,
    pub person: Option<String>,
    /// What is neither shown nor lost.
    pub hidden: Vec<(&'static str, String)>,
}

/// What filters offer.
#[derive(Default)]
pub(super) struct Names {
    pub models: Vec<String>,
    pub regions: Vec<String>,
    pub keys: Vec<(i64, String)>,
    pub person: Option<String>,
}

pub(super) fn filters(asked: &Asked, whose: Whose, names: Names, today: NaiveDate) -> Filters {
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
pub(super) fn ranges(asked: &Asked, path: &str, today: NaiveDate) -> Vec<Link> {
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

/// What there is to choose: models and regions of the range, and a person's keys.
pub(super) async fn offered(
    conn: &mut Conn,
    levels: &Levels,
    user_id: Option<i64>,
    range: Range,
    names: &mut Names,
) -> Result<(), ApiError> {
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
