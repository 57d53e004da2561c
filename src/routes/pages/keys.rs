//! `/keys`: one's own API keys. A key is shown once, on the page that answers the form; a form that comes twice makes no
//! second key.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Path, Query},
};
use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use chrono::TimeDelta;
use serde::Deserialize;

use super::{
    Pager, Problem, Viewer,
    connect::{Choice, Lines},
    page, see,
};
use crate::{
    auth::{Identity, random, sign_in::later},
    db::{
        self,
        api_keys::ApiKeyRecord,
        one_time_codes::{Form, OneTimeCode},
    },
    routes::{
        api::keys::{self, CreatedKey, KeyEntry, NewKey, PageQuery},
        csrf::Signed,
        error::{ApiError, Code},
    },
    settings::ApiKeys,
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// How long it is remembered that a form was used.
const REMEMBERED: TimeDelta = TimeDelta::days(30);
/// A key that ends within this is pointed out.
const SOON: TimeDelta = TimeDelta::days(7);
/// How long a key that is replaced may live on: seconds, and what pages call it.
const OVERLAPS: [(i64, &str); 4] =
    [(0, "at once"), (3600, "after 1 hour"), (86_400, "after 1 day"), (604_800, "after 1 week")];

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage<'a> {
    shell: Shell,
    rules: &'a ApiKeys,
    live: i64,
    /// There are as many as there may be.
    full: bool,
    rows: Vec<Row>,
    pager: Pager,
    /// The id of the form that makes a key.
    form: String,
    typed: Typed,
    problem: Problem,
    /// The key whose new name was not accepted, and that name.
    renaming: Option<(i64, String)>,
}

impl KeysPage<'_> {
    /// Whether it is this key whose new name was not accepted.
    fn renames(&self, id: &i64) -> bool {
        self.renaming.as_ref().is_some_and(|(renamed, _)| renamed == id)
    }

    /// What stands in the field for a key's new name.
    fn new_name<'b>(&'b self, key: &'b KeyEntry) -> &'b str {
        let typed = self.renaming.as_ref().filter(|(id, _)| *id == key.id);
        typed.map_or(&key.name, |(_, name)| name)
    }
}

struct Row {
    key: KeyEntry,
    /// It is in force, and ends soon.
    soon: bool,
    /// The id of the form that rotates it.
    form: String,
}

/// What was typed into the form that makes a key.
#[derive(Debug, Default)]
struct Typed {
    name: String,
    days: String,
    never: bool,
}

/// The page that shows a key.
#[derive(Template)]
#[template(path = "key.html")]
struct KeyPage {
    shell: Shell,
    key: CreatedKey,
    /// When the key ends that it takes the place of.
    old_ends: Option<&'static str>,
    lines: Lines,
    choices: Vec<Choice>,
}

/// A form came twice.
#[derive(Template)]
#[template(path = "sent.html")]
struct SentPage {
    shell: Shell,
    key: Option<KeyEntry>,
    /// The id of a form that rotates the key.
    form: String,
}

#[derive(Deserialize)]
pub struct ListQuery {
    done: Option<String>,
    offset: Option<i64>,
}

/// `GET /keys`
pub async fn list(
    viewer: Viewer,
    query: Query<ListQuery>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let mut shown = read(&viewer, &worker, query.offset).await?;
    shown.shell.notice = match query.done.as_deref() {
        Some("renamed") => Some("The key has its new name."),
        Some("revoked") => {
            Some("The key is revoked. It has ended here, and ends everywhere within seconds.")
        }
        _ => None,
    };
    Ok(page(&shown))
}

async fn read<'a>(
    viewer: &Viewer,
    worker: &'a Worker,
    offset: Option<i64>,
) -> Result<KeysPage<'a>, ApiError> {
    let (rules, now, user_id) = (&worker.shared.api_keys, db::now(), viewer.0.user_id);
    let query = PageQuery { limit: None, offset, cursor: None };
    let listed = keys::of_person(worker, user_id, query).await?;
    let mut conn = worker.shared.pool.reader().await?;
    let live = ApiKeyRecord::live_counts(&mut conn, &[user_id], now).await?;
    let live = live.first().map_or(0, |(_, count)| *count);
    let pager = pager(listed.offset, listed.limit, listed.keys.len(), listed.total);
    let row = |key: KeyEntry| Row {
        soon: key.status == "active" && key.expires_at.is_some_and(|end| end - now < SOON),
        key,
        form: random::text(),
    };
    Ok(KeysPage {
        shell: viewer.shell(&mut conn, worker, Place::Keys).await?,
        rules,
        live,
        full: live >= i64::from(rules.max_keys_per_user),
        rows: listed.keys.into_iter().map(row).collect(),
        pager,
        form: random::text(),
        typed: Typed {
            name: String::new(),
            days: rules.default_expiry_days.map_or(String::new(), |days| days.to_string()),
            never: rules.default_expiry_days.is_none() && rules.max_expiry_days.is_none(),
        },
        problem: Problem::default(),
        renaming: None,
    })
}

fn pager(offset: i64, limit: i64, shown: usize, total: i64) -> Pager {
    if total <= limit && offset == 0 {
        return Pager::default();
    }
    let at = |offset: i64| match offset {
        0 => "/keys".to_owned(),
        offset => format!("/keys?offset={offset}"),
    };
    let last = offset + i64::try_from(shown).unwrap_or(limit);
    Pager {
        told: format!("{}–{last} of {total}", (offset + 1).min(last)),
        previous: (offset > 0).then(|| at((offset - limit).max(0))),
        next: (last < total).then(|| at(offset + limit)),
    }
}

#[derive(Deserialize)]
pub struct CreateForm {
    form: String,
    name: String,
    #[serde(default)]
    expires_in_days: String,
    never: Option<String>,
}

/// `POST /keys`
pub async fn create(
    request: HttpRequest,
    signed: Signed<CreateForm>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Signed { identity, form: asked } = signed;
    let viewer = Viewer(identity);
    let form = once(&viewer.0, &asked.form)?;
    if let Some(answer) = sent_before(&viewer, &worker, &form).await? {
        return Ok(answer);
    }
    let made = match asked.new_key() {
        Ok(new) => keys::make(&request, &worker, &viewer.0, &new, Some(&form)).await,
        Err(error) => Err(error),
    };
    let error = match made {
        Ok(key) => return show_once(&viewer, &worker, key, None).await,
        Err(error) => error,
    };
    // Of two that came at once, this is the later one.
    if error.code == Code::Conflict
        && let Some(answer) = sent_before(&viewer, &worker, &form).await?
    {
        return Ok(answer);
    }
    let status = error.code.status();
    let problem = Problem::of(error)?;
    let mut shown = read(&viewer, &worker, None).await?;
    shown.problem = problem;
    shown.form = asked.form;
    shown.typed =
        Typed { name: asked.name, days: asked.expires_in_days, never: asked.never.is_some() };
    Ok(templates::answer(HttpResponse::build(status), &shown))
}

impl CreateForm {
    fn new_key(&self) -> Result<NewKey, ApiError> {
        let days = match (&self.never, self.expires_in_days.trim()) {
            (Some(_), _) => None,
            (None, days) => Some(days.parse().map_err(|_| {
                ApiError::parameter("expires_in_days", "Give a number of days, 1 or more.")
            })?),
        };
        Ok(NewKey { name: self.name.clone(), expires_in_days: Some(days) })
    }
}

#[derive(Deserialize)]
pub struct RotateForm {
    form: String,
    overlap_seconds: String,
}

/// `POST /keys/{id}/rotate`
pub async fn rotate(
    request: HttpRequest,
    signed: Signed<RotateForm>,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let Signed { identity, form: asked } = signed;
    let viewer = Viewer(identity);
    let form = once(&viewer.0, &asked.form)?;
    if let Some(answer) = sent_before(&viewer, &worker, &form).await? {
        return Ok(answer);
    }
    let overlap = OVERLAPS.iter().find(|(seconds, _)| seconds.to_string() == asked.overlap_seconds);
    let Some((seconds, ends)) = overlap else {
        let message = "overlap_seconds must be 0, 3600, 86400 or 604800.";
        return Err(ApiError::parameter("overlap_seconds", message));
    };
    let id = path.into_inner();
    let made = keys::replace(&request, &worker, &viewer.0, id, *seconds, Some(&form)).await;
    let error = match made {
        Ok(key) => return show_once(&viewer, &worker, key, Some(ends)).await,
        Err(error) => error,
    };
    if error.code == Code::Conflict
        && let Some(answer) = sent_before(&viewer, &worker, &form).await?
    {
        return Ok(answer);
    }
    let status = error.code.status();
    let problem = Problem::of(error)?;
    let mut shown = read(&viewer, &worker, None).await?;
    shown.problem = problem;
    Ok(templates::answer(HttpResponse::build(status), &shown))
}

/// A form as it is used up: by this person, under this id.
fn once(identity: &Identity, id: &str) -> Result<Form, ApiError> {
    if !random::is_random(id) {
        return Err(ApiError::parameter("form", "This is no form of this page. Load it again."));
    }
    // The id is random and no secret; the digest is the same on every instance, whatever its secrets.
    let text = format!("form {} {id}", identity.user_id);
    let digest = digest(&SHA256, text.as_bytes()).as_ref().to_vec();
    Ok(Form { user_id: identity.user_id, digest, until: later(db::now(), REMEMBERED) })
}

/// The answer to a form that came before.
async fn sent_before(
    viewer: &Viewer,
    worker: &Worker,
    form: &Form,
) -> Result<Option<HttpResponse>, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    let Some(made) = OneTimeCode::made_of(&mut conn, form).await? else { return Ok(None) };
    let id = made.strip_prefix("api_key:").and_then(|id| id.parse().ok());
    let key = match id {
        Some(id) => ApiKeyRecord::of_person(&mut conn, viewer.0.user_id, id).await?,
        None => None,
    };
    let shell = viewer.shell(&mut conn, worker, Place::Keys).await?;
    let key = key.map(|key| KeyEntry::new(key, db::now()));
    let shown = SentPage { shell, key, form: random::text() };
    Ok(Some(templates::answer(HttpResponse::Conflict(), &shown)))
}

async fn show_once(
    viewer: &Viewer,
    worker: &Worker,
    key: CreatedKey,
    old_ends: Option<&'static str>,
) -> Result<HttpResponse, ApiError> {
    let shell = {
        let mut conn = worker.shared.pool.reader().await?;
        viewer.shell(&mut conn, worker, Place::Keys).await?
    };
    let choices = Choice::all(worker, None);
    let lines = Lines::new(worker, Choice::chosen(&choices), &key.key);
    let shown = KeyPage { shell, key, old_ends, lines, choices };
    Ok(templates::answer(HttpResponse::build(StatusCode::CREATED), &shown))
}

#[derive(Deserialize)]
pub struct RenameForm {
    name: String,
}

/// `POST /keys/{id}/rename`
pub async fn rename(
    request: HttpRequest,
    signed: Signed<RenameForm>,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (Signed { identity, form }, id) = (signed, path.into_inner());
    let Err(error) = keys::rename_of(&request, &worker, &identity, id, &form.name).await else {
        return Ok(see("/keys?done=renamed"));
    };
    let status = error.code.status();
    let problem = Problem::of(error)?;
    let viewer = Viewer(identity);
    let mut shown = read(&viewer, &worker, None).await?;
    shown.problem = problem;
    shown.renaming = Some((id, form.name));
    Ok(templates::answer(HttpResponse::build(status), &shown))
}

/// A form without fields of its own.
#[derive(Deserialize)]
pub struct Nothing {}

/// `POST /keys/{id}/revoke`
pub async fn revoke(
    request: HttpRequest,
    signed: Signed<Nothing>,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let by = &signed.identity;
    keys::revoke_of(&request, &worker, by, by.user_id, path.into_inner()).await?;
    Ok(see("/keys?done=revoked"))
}
