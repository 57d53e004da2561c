//! `/admin/users/{id}`: everything of one person, and what can be done about it.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Path, Query},
};
use askama::Template;
use chrono::TimeDelta;
use serde::Deserialize;

use super::list::{Part, address, number, page_with};
use crate::{
    auth::Identity,
    db::{self, Timestamp, period::Period, summaries::Measures, users::UserRecord},
    routes::{
        api::{
            keys::{self, KeyEntry, KeyList, PageQuery},
            streams::{self, StreamEntry},
            summaries,
            users::{self, UserEntry},
        },
        auth::sessions::{self, SessionEntry},
        csrf::SignedByAdmin,
        error::{ApiError, Code},
        pages::{AdminViewer, Pager, Problem, Viewer, filled, see, sessions::Nothing},
    },
    state::Worker,
    templates::{Place, Shell, show},
};

/// Keys on one page.
const KEYS: i64 = 25;
/// Models that are told one by one.
const MODELS: usize = 6;

#[derive(Template)]
#[template(path = "admin/person.html")]
struct PersonPage {
    shell: Shell,
    /// Whether it is who looks at it.
    oneself: bool,
    person: UserEntry,
    last_check: Option<Timestamp>,
    usage: Usage,
    keys: KeyList,
    pager: Pager,
    sessions: Vec<SessionEntry>,
    streams: Vec<StreamEntry>,
    now: Timestamp,
    problem: Problem,
}

/// What somebody used lately; days are UTC days, and today is one of them.
struct Usage {
    spans: [(&'static str, Measures); 3],
    /// Of the longest span, the dearest first; the last may be all others.
    models: Vec<(Option<String>, Measures)>,
}

/// What the page's address says.
#[derive(Default, Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    limit: Option<String>,
    /// Of the keys.
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    done: Option<String>,
}

/// `GET /admin/users/{id}`
pub async fn show(
    admin: AdminViewer,
    path: Path<i64>,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    show_with(admin.0, &worker, *path, query.into_inner(), None).await
}

async fn show_with(
    viewer: Viewer,
    worker: &Worker,
    id: i64,
    asked: Asked,
    problem: Option<ApiError>,
) -> Result<HttpResponse, ApiError> {
    let mut status = StatusCode::BAD_REQUEST;
    let mut problem = match problem {
        Some(error) => {
            status = error.code.status();
            Problem::of(error)?
        }
        None => Problem::default(),
    };
    let notice = match asked.done.as_deref() {
        Some("disabled") => Some(
            "The person is disabled. Sessions and tokens have ended; live streams end within seconds.",
        ),
        Some("enabled") => Some("The person may sign in again. Their keys count again."),
        Some("sessions") => Some("All sessions have ended."),
        Some("key") => Some("The key is revoked."),
        Some("cut") => Some("The stream is cut."),
        _ => None,
    };
    let (shell, person, last_check, usage, sessions) = {
        let mut conn = worker.shared.pool.reader().await?;
        let person = users::known(&mut conn, id).await?;
        let current = viewer.0.credential.session_id();
        (
            viewer.shell(&mut conn, worker, Place::AdminUsers).await?.with_notice(notice),
            person,
            UserRecord::last_check(&mut conn, id).await?,
            usage_of(&mut conn, id).await?,
            sessions::live_of(&mut conn, worker, id, current).await?,
        )
    };
    let (keys, pager) = match keys_of(worker, id, &asked).await {
        Ok(found) => found,
        Err(error) => {
            problem = Problem::of(error)?;
            (KeyList::default(), Pager::default())
        }
    };
    let page = PersonPage {
        shell,
        oneself: viewer.0.user_id == id,
        person,
        last_check,
        usage,
        keys,
        pager,
        sessions,
        streams: streams::of_person(worker, id).await?,
        now: db::now(),
        problem,
    };
    Ok(page_with(&page.problem, status, &page))
}

async fn usage_of(conn: &mut db::Conn, id: i64) -> Result<Usage, ApiError> {
    let today = Period::Daily.floor(db::now());
    let mut spans = [("Today", 0), ("7 days", 6), ("30 days", 29)]
        .map(|(name, days)| (name, days, Measures::default()));
    let mut models = Vec::new();
    for (_, days, sums) in &mut spans {
        let start = today.checked_sub_signed(TimeDelta::days(*days)).unwrap_or(today);
        models = summaries::by_model_since(conn, id, start).await?;
        for (_, of_model) in &models {
            *sums += *of_model;
        }
    }
    models.sort_by_key(|(_, sums)| std::cmp::Reverse((sums.cost_nano_usd, sums.requests)));
    let others = if models.len() > MODELS + 1 { models.split_off(MODELS) } else { Vec::new() };
    let mut models: Vec<_> = models.into_iter().map(|(model, sums)| (Some(model), sums)).collect();
    let rest = others.into_iter().map(|(_, sums)| sums).reduce(|mut all, sums| {
        all += sums;
        all
    });
    models.extend(rest.map(|sums| (None, sums)));
    Ok(Usage { spans: spans.map(|(name, _, sums)| (name, sums)), models })
}

async fn keys_of(worker: &Worker, id: i64, asked: &Asked) -> Result<(KeyList, Pager), ApiError> {
    let limit = Some(number("limit", asked.limit.as_deref())?.unwrap_or(KEYS));
    let place = Part::place(limit, None, asked.cursor.as_deref())?;
    let query = PageQuery { limit, offset: None, cursor: asked.cursor.clone() };
    let keys = keys::of_person(worker, id, query).await?;
    let part = Part {
        place,
        shown: keys.keys.len(),
        limit: keys.limit,
        total: keys.total,
        total_is_capped: keys.total_is_capped,
    };
    let path = format!("/admin/users/{id}");
    let limit = asked.limit.as_deref();
    let pager = part.pager(|cursor| address(&path, &[("limit", limit), ("cursor", cursor)]));
    Ok((keys, pager))
}

impl PersonPage {
    /// The cost of calls; what of it is not known is told beside it.
    fn cost(&self, sums: &Measures) -> show::Cost {
        show::Cost(sums.known_cost())
    }

    fn key_mood(&self, key: &KeyEntry) -> &'static str {
        match key.status {
            "active" => "good",
            "revoked" => "bad",
            _ => "warn",
        }
    }

    fn age(&self, stream: &StreamEntry) -> Option<i64> {
        Some((self.now - stream.started_at).num_milliseconds().max(0))
    }
}

/// What becomes of a person.
#[derive(Deserialize)]
pub struct StateForm {
    state: String,
}

/// `POST /admin/users/{id}/state`
pub async fn set_state(
    request: HttpRequest,
    signed: SignedByAdmin<StateForm>,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let SignedByAdmin { identity, form } = signed;
    let changed = users::change_state(&request, &worker, &identity, *path, &form.state).await;
    let done = if form.state == "active" { "enabled" } else { "disabled" };
    after(identity, &worker, *path, changed.map(drop), done).await
}

/// `POST /admin/users/{id}/sessions/end`
pub async fn end_sessions(
    request: HttpRequest,
    signed: SignedByAdmin<Nothing>,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let ended = users::end_sessions_of(&request, &worker, &signed.identity, *path).await;
    after(signed.identity, &worker, *path, ended, "sessions").await
}

/// `POST /admin/users/{id}/keys/{key_id}/revoke`
pub async fn revoke_key(
    request: HttpRequest,
    signed: SignedByAdmin<Nothing>,
    path: Path<(i64, i64)>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (id, key_id) = path.into_inner();
    let revoked = keys::revoke_of(&request, &worker, &signed.identity, id, key_id).await;
    after(signed.identity, &worker, id, revoked.map(drop), "key").await
}

/// Back to the person; with what is wrong, if something is that an admin can mend.
async fn after(
    identity: Arc<Identity>,
    worker: &Worker,
    id: i64,
    outcome: Result<(), ApiError>,
    done: &str,
) -> Result<HttpResponse, ApiError> {
    match outcome {
        Ok(()) => Ok(see(&format!("/admin/users/{id}?done={done}"))),
        Err(error) if matches!(error.code, Code::Conflict | Code::InvalidParameter) => {
            show_with(Viewer(identity), worker, id, Asked::default(), Some(error)).await
        }
        Err(error) => Err(error),
    }
}
