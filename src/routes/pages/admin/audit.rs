//! `/admin/audit`: what happened, and whether the log of it is whole.

use std::collections::HashMap;

use actix_web::{
    HttpResponse,
    http::StatusCode,
    web::{Data, Query},
};
use askama::Template;
use serde::Deserialize;

use super::list::{Part, address, called, number, page_with};
use crate::{
    db::{Conn, audit::TYPES, users::UserRecord},
    routes::{
        api::{
            audit::{self, AuditEntry, AuditList, AuditQuery, AuditVerdict},
            users::{self, UserEntry},
        },
        error::ApiError,
        pages::{AdminViewer, Pager, Problem, filled, page},
    },
    state::Worker,
    templates::{Place, Shell, show},
};

/// As far as lists go by places; beyond, by cursors, and forwards alone.
const FARTHEST: i64 = 10_000;
/// People that a choice is offered of.
const CHOICE: i64 = 10;

#[derive(Template)]
#[template(path = "admin/audit.html")]
struct AuditPage {
    shell: Shell,
    asked: Asked,
    list: AuditList,
    pager: Pager,
    people: People,
    /// Who may be meant, if they are several.
    choice: Vec<UserEntry>,
    problem: Problem,
}

/// Names of people by their ids.
pub struct People(HashMap<i64, String>);

#[derive(Template)]
#[template(path = "admin/audit_verified.html")]
struct VerifiedPage {
    shell: Shell,
    verdict: AuditVerdict,
}

impl VerifiedPage {
    fn checked(&self) -> String {
        show::grouped(i64::try_from(self.verdict.checked).unwrap_or(i64::MAX))
    }
}

/// What the page's address says.
#[derive(Default, Deserialize)]
pub struct Asked {
    /// An id, or a part of an address or name.
    #[serde(default, deserialize_with = "filled")]
    user_id: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    event_type: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    success: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    start_date: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    end_date: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    limit: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    offset: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

/// `GET /admin/audit`
pub async fn list(
    admin: AdminViewer,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let asked = query.into_inner();
    let mut choice = Vec::new();
    let (list, pager, problem) = match found(&worker, &asked, &mut choice).await {
        Ok((list, pager)) => (list, pager, Problem::default()),
        Err(error) => (AuditList::default(), Pager::default(), Problem::of(error)?),
    };
    let mut conn = worker.shared.pool.reader().await?;
    let people = People::of(&mut conn, &list.logs).await?;
    let shell = admin.0.shell(&mut conn, &worker, Place::AdminAudit).await?;
    let page = AuditPage { shell, asked, list, pager, people, choice, problem };
    Ok(page_with(&page.problem, StatusCode::BAD_REQUEST, &page))
}

async fn found(
    worker: &Worker,
    asked: &Asked,
    choice: &mut Vec<UserEntry>,
) -> Result<(AuditList, Pager), ApiError> {
    let query = AuditQuery {
        limit: number("limit", asked.limit.as_deref())?,
        offset: number("offset", asked.offset.as_deref())?,
        cursor: asked.cursor.clone(),
        user_id: match &asked.user_id {
            Some(text) => Some(meant(worker, text, choice).await?),
            None => None,
        },
        event_type: asked.event_type.clone(),
        success: match asked.success.as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => {
                return Err(ApiError::parameter("success", "success must be true or false."));
            }
        },
        start_date: asked.start_date.clone(),
        end_date: asked.end_date.clone(),
    };
    let list = audit::listed(worker, query).await?;
    let next = list.offset + list.limit;
    let pager = match &asked.cursor {
        None => {
            let part = Part {
                place: list.offset,
                shown: list.logs.len(),
                limit: list.limit,
                total: list.total,
                total_is_capped: list.total_is_capped,
            };
            let before = (list.offset - list.limit).max(0).to_string();
            let previous = (list.offset > 0).then(|| asked.address(Some(&before), None));
            let next = list.next_cursor.as_deref().filter(|_| next < list.total).map(|cursor| {
                if next > FARTHEST {
                    return asked.address(None, Some(cursor));
                }
                asked.address(Some(&next.to_string()), None)
            });
            Pager { told: part.told(), previous, next }
        }
        Some(_) => Pager {
            told: list
                .logs
                .first()
                .map(|first| format!("from {} on", first.id))
                .unwrap_or_default(),
            previous: Some(asked.address(None, None)),
            next: list.next_cursor.as_deref().map(|cursor| asked.address(None, Some(cursor))),
        },
    };
    Ok((list, pager))
}

/// The person that an id, or a part of an address or name, means.
async fn meant(worker: &Worker, text: &str, choice: &mut Vec<UserEntry>) -> Result<i64, ApiError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let wrong = |message: &'static str| ApiError::parameter("user_id", message);
    let asked = users::Asked {
        text: Some(text.to_owned()),
        limit: Some(CHOICE),
        ..users::Asked::default()
    };
    let found = users::find(worker, asked).await;
    let mut found = found.map_err(|error| match error.field() {
        Some("q") => wrong("This must be an id, or 1 to 200 characters of an address or name."),
        _ => error,
    })?;
    let exactly = |user: &UserEntry| {
        user.email.as_ref().is_some_and(|email| email.eq_ignore_ascii_case(text))
    };
    let mut exact = found.users.iter().filter(|user| exactly(user));
    if let (Some(one), None) = (exact.next(), exact.next()) {
        return Ok(one.id);
    }
    match found.users.as_slice() {
        [] => Err(wrong("Nobody is found by this.")),
        [one] => Ok(one.id),
        _ => {
            choice.append(&mut found.users);
            Err(wrong("Several people are found by this. Choose one of them."))
        }
    }
}

impl Asked {
    fn address(&self, offset: Option<&str>, cursor: Option<&str>) -> String {
        self.address_of(self.user_id.as_deref(), offset.filter(|offset| *offset != "0"), cursor)
    }

    fn address_of(
        &self,
        user_id: Option<&str>,
        offset: Option<&str>,
        cursor: Option<&str>,
    ) -> String {
        let members = [
            ("user_id", user_id),
            ("event_type", self.event_type.as_deref()),
            ("success", self.success.as_deref()),
            ("start_date", self.start_date.as_deref()),
            ("end_date", self.end_date.as_deref()),
            ("limit", self.limit.as_deref()),
            ("offset", offset),
            ("cursor", cursor),
        ];
        address("/admin/audit", &members)
    }

    /// The same for this person.
    fn for_person(&self, id: &i64) -> String {
        self.address_of(Some(&id.to_string()), None, None)
    }

    fn text<'a>(&self, text: &'a Option<String>) -> &'a str {
        text.as_deref().unwrap_or_default()
    }

    /// The kind of field that shows what was typed, even if it is no day.
    fn kind(&self, text: &Option<String>) -> &'static str {
        let day = |text: &String| text.len() == 10 && text.parse::<chrono::NaiveDate>().is_ok();
        if text.as_ref().is_none_or(day) { "date" } else { "text" }
    }

    fn is_known_type(&self) -> bool {
        self.event_type.as_deref().is_none_or(|given| TYPES.contains(&given))
    }

    fn is_filtered(&self) -> bool {
        let all =
            [&self.user_id, &self.event_type, &self.success, &self.start_date, &self.end_date];
        all.into_iter().any(Option::is_some)
    }
}

impl People {
    /// Those whom these events concern, and who did them.
    async fn of(conn: &mut Conn, logs: &[AuditEntry]) -> Result<Self, ApiError> {
        let actors = logs.iter().filter_map(|entry| person_of(&entry.actor));
        Self::with_ids(conn, logs.iter().filter_map(|entry| entry.user_id).chain(actors)).await
    }

    /// Those among these actors who are people.
    pub async fn among(
        conn: &mut Conn,
        actors: impl Iterator<Item = &str>,
    ) -> Result<Self, ApiError> {
        Self::with_ids(conn, actors.filter_map(person_of)).await
    }

    async fn with_ids(conn: &mut Conn, ids: impl Iterator<Item = i64>) -> Result<Self, ApiError> {
        let mut ids: Vec<i64> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Self(HashMap::new()));
        }
        let people = UserRecord::with_ids(conn, &ids).await?;
        let named = people.into_iter().map(|user| {
            (user.id, called(user.id, user.email.as_deref(), user.display_name.as_deref()))
        });
        Ok(Self(named.collect()))
    }

    fn name(&self, id: &i64) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| format!("person {id}"))
    }

    /// Who did it, in words.
    pub fn actor(&self, actor: &str) -> String {
        person_of(actor).map_or_else(|| actor.to_owned(), |id| self.name(&id))
    }
}

/// The person that an actor such as `user:7` is.
fn person_of(actor: &str) -> Option<i64> {
    actor.strip_prefix("user:")?.parse().ok()
}

impl AuditEntry {
    /// What it was done with.
    pub fn credential(&self) -> Option<&str> {
        self.metadata.get("credential")?.as_str()
    }

    /// The rest of what is noted, to read; `None` if that is nothing.
    pub fn noted(&self) -> Option<String> {
        let mut members = self.metadata.as_object()?.clone();
        members.remove("credential");
        if members.is_empty() { None } else { serde_json::to_string_pretty(&members).ok() }
    }

    /// Whether somebody did it about themselves.
    pub fn is_own(&self) -> bool {
        self.user_id.is_some() && person_of(&self.actor) == self.user_id
    }
}

/// `GET /admin/audit/verify`: it looks, and changes nothing.
pub async fn verify(admin: AdminViewer, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let verdict = audit::verdict(&worker).await?;
    let mut conn = worker.shared.pool.reader().await?;
    let shell = admin.0.shell(&mut conn, &worker, Place::AdminAudit).await?;
    Ok(page(&VerifiedPage { shell, verdict }))
}
