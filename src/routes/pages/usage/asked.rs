//! What a query of these pages asks for: as it was typed, and read.

use chrono::{Datelike, NaiveDate};
use serde::Deserialize;

use super::super::figures::{self, Measure, Span};
use crate::{
    db::{
        Conn,
        api_keys::ApiKeyRecord,
        summaries::read::{Dimension, Selection},
        usage::Filter,
        users::UserRecord,
    },
    routes::{
        api::{
            page::Page,
            usage::{Given, filter},
        },
        error::ApiError,
    },
};

/// Calls a page, unless another number is asked for.
const CALLS: i64 = 25;

macro_rules! asked {
    ($($name:ident,)*) => {
        /// What a query asks for, as it was typed.
        #[derive(Debug, Default, Clone, Deserialize)]
        #[serde(default)]
        pub struct Asked {
            $(#[serde(deserialize_with = "crate::routes::pages::filled")] pub $name: Option<String>,)*
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
    pub fn href(&self, path: &str, changes: &[(&str, Option<&str>)]) -> String {
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
    pub const ALL: [Self; 5] = [Self::Model, Self::Person, Self::Region, Self::Key, Self::Day];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Model => "model",
            Self::Region => "region",
            Self::Key => "key",
            Self::Day => "day",
        }
    }

    pub fn name(self) -> &'static str {
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
pub(super) struct Question {
    pub span: Span,
    /// Of the calls; its times are those of the span.
    pub filter: Filter,
    pub measure: Measure,
    pub group: GroupBy,
    pub page: Page,
    /// Who is asked about, if it is one person.
    pub person: Option<String>,
}

/// Whose usage a page is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Of the person with this id.
    Own(i64),
    Everybodys,
}

impl Whose {
    /// The one person that it is about.
    pub fn person(self) -> Option<i64> {
        match self {
            Self::Own(user_id) => Some(user_id),
            Self::Everybodys => None,
        }
    }
}

impl Question {
    /// # Errors
    /// 400 for what is wrong, by its field.
    pub async fn read(
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
        let limit = named("limit", &asked.limit, "A page has 1 to 500 calls.")?.unwrap_or(CALLS);
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
    pub fn selection(&self, by: &[Dimension]) -> Selection {
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

pub(super) fn offers(whose: Whose, group: GroupBy) -> bool {
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
        ApiError::parameter(field, format!("Choose one of {}.", names.join(", ")))
    })
}

pub(super) fn read_span(asked: &Asked, today: NaiveDate) -> Result<Span, ApiError> {
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
