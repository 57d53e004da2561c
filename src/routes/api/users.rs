//! `/api/admin/users`: people, for admins.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    keys::{self, KeyList, PageQuery},
    page::{Page, write_cursor},
};
use crate::{
    auth::Identity,
    db::{
        self, Conn, Timestamp,
        api_keys::ApiKeyRecord,
        audit::Event,
        sessions::SessionRecord,
        users::{Filter, PersonError, Sort, UserRecord},
    },
    routes::{
        body::Body,
        error::{ApiError, Code},
        extract::Admin,
        surface,
    },
    state::Worker,
};

/// Counted exactly up to this.
const COUNT_CAP: i64 = 10_000;
/// Longest text that is searched for, in characters.
const LONGEST_SEARCH: usize = 200;

/// A person.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct UserEntry {
    pub id: i64,
    pub provider: String,
    /// Who it is at the provider.
    pub provider_user_id: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub display_name: Option<String>,
    /// active, disabled or expired (the provider vouches no more; a sign-in ends that).
    pub state: String,
    pub admin: bool,
    #[serde(serialize_with = "super::time")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "super::time")]
    pub updated_at: Timestamp,
    #[serde(serialize_with = "super::time_or_null")]
    pub last_login_at: Option<Timestamp>,
    pub active_keys: i64,
}

/// People.
#[derive(Debug, Default, Serialize, Apiv2Schema)]
pub struct UserList {
    pub users: Vec<UserEntry>,
    /// Exact up to 10000; above, 10000 and `total_is_capped`.
    pub total: i64,
    pub total_is_capped: bool,
    pub limit: i64,
    pub offset: i64,
    pub next_cursor: Option<String>,
}

/// Whom to list, and how.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct UserQuery {
    /// Rows a page, 1 to 500. Default 50.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// email, created_at or last_login_at. Default created_at.
    sort: Option<String>,
    /// asc or desc. Default desc; asc for email.
    order: Option<String>,
    /// active, disabled or expired.
    state: Option<String>,
}

/// What to look for.
#[derive(Debug, Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    /// A part of an address, a name, or of who it is at the provider.
    q: String,
    /// Rows a page, 1 to 500. Default 50.
    limit: Option<i64>,
    /// Rows to pass over, up to 10000; beyond, use `cursor`.
    offset: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List people
///
/// Everybody who ever signed in, and those whom an operator made.
#[api_v2_operation(tags(Administration), operation_id = "listUsers")]
pub async fn list(
    _admin: Admin,
    query: Query<UserQuery>,
    worker: Data<Worker>,
) -> Result<Json<UserList>, ApiError> {
    let UserQuery { limit, offset, cursor, sort, order, state } = query.into_inner();
    let asked = Asked { text: None, sort, order, state, limit, offset, cursor };
    find(&worker, asked).await.map(Json)
}

/// Look for people
///
/// By a part of the address, the name, or the id at the provider.
#[api_v2_operation(tags(Administration), operation_id = "searchUsers")]
pub async fn search(
    _admin: Admin,
    query: Query<SearchQuery>,
    worker: Data<Worker>,
) -> Result<Json<UserList>, ApiError> {
    let SearchQuery { q, limit, offset, cursor } = query.into_inner();
    let asked = Asked { text: Some(q), limit, offset, cursor, ..Asked::default() };
    find(&worker, asked).await.map(Json)
}

/// Whom to look for, as it was asked.
#[derive(Debug, Default)]
pub struct Asked {
    /// A part of an address, a name, or of who it is at the provider.
    pub text: Option<String>,
    pub sort: Option<String>,
    pub order: Option<String>,
    pub state: Option<String>,
    pub limit: Option<i64>,
    pub offset: Option<i64>,
    pub cursor: Option<String>,
}

/// A page of people. Those who are looked for come by their address unless asked otherwise, all others by when they came.
pub async fn find(worker: &Worker, asked: Asked) -> Result<UserList, ApiError> {
    let page = Page::read(asked.limit, asked.offset, asked.cursor.as_deref())?;
    let text = asked.text.map(|text| text.trim().to_lowercase());
    // A NUL is no text to Postgres.
    let unfit = |text: &String| {
        text.is_empty() || text.chars().count() > LONGEST_SEARCH || text.contains('\0')
    };
    if text.as_ref().is_some_and(unfit) {
        return Err(ApiError::parameter("q", "q must have 1 to 200 characters."));
    }
    let sort = match asked.sort.as_deref() {
        None if text.is_some() => Sort::Email,
        None | Some("created_at") => Sort::CreatedAt,
        Some("email") => Sort::Email,
        Some("last_login_at") => Sort::LastLoginAt,
        Some(_) => {
            let message = "sort must be email, created_at or last_login_at.";
            return Err(ApiError::parameter("sort", message));
        }
    };
    let ascending = match asked.order.as_deref() {
        None => sort == Sort::Email,
        Some("asc") => true,
        Some("desc") => false,
        Some(_) => return Err(ApiError::parameter("order", "order must be asc or desc.")),
    };
    let state = asked.state;
    if state.as_deref().is_some_and(|state| !["active", "disabled", "expired"].contains(&state)) {
        let message = "state must be active, disabled or expired.";
        return Err(ApiError::parameter("state", message));
    }
    let filter = Filter { state, text, sort, ascending };
    // The cursor is a place: people are few, and sorted by what may be equal or absent.
    let place = page.number()?.unwrap_or(page.offset);
    let mut conn = worker.shared.pool.reader().await?;
    let users = UserRecord::page(&mut conn, &filter, place, page.limit).await?;
    let total = UserRecord::count(&mut conn, &filter).await?;
    let next = place + page.limit;
    Ok(UserList {
        users: entries(&mut conn, users).await?,
        total: total.min(COUNT_CAP),
        total_is_capped: total > COUNT_CAP,
        limit: page.limit,
        offset: page.offset,
        next_cursor: (next < total).then(|| write_cursor(next)),
    })
}

async fn entries(conn: &mut Conn, users: Vec<UserRecord>) -> Result<Vec<UserEntry>, ApiError> {
    let ids: Vec<i64> = users.iter().map(|user| user.id).collect();
    let keys: HashMap<i64, i64> =
        ApiKeyRecord::live_counts(conn, &ids, db::now()).await?.into_iter().collect();
    let entry = |user: UserRecord| UserEntry {
        active_keys: keys.get(&user.id).copied().unwrap_or(0),
        id: user.id,
        provider: user.provider,
        provider_user_id: user.subject,
        email: user.email,
        email_verified: user.email_verified,
        display_name: user.display_name,
        state: user.state,
        admin: user.admin,
        created_at: user.created_at,
        updated_at: user.updated_at,
        last_login_at: user.last_login_at,
    };
    Ok(users.into_iter().map(entry).collect())
}

fn nobody() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such person.")
}

async fn one(conn: &mut Conn, user: UserRecord) -> Result<UserEntry, ApiError> {
    entries(conn, vec![user]).await?.pop().ok_or_else(nobody)
}

/// The person with this id.
pub async fn known(conn: &mut Conn, id: i64) -> Result<UserEntry, ApiError> {
    let user = UserRecord::find(conn, id).await?.ok_or_else(nobody)?;
    one(conn, user).await
}

/// One person
///
/// As they are now.
#[api_v2_operation(tags(Administration), operation_id = "showUser")]
pub async fn show_one(
    _admin: Admin,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<Json<UserEntry>, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    known(&mut conn, path.into_inner()).await.map(Json)
}

/// What a person's state is to be.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub struct StateChange {
    /// active or disabled.
    state: String,
}

/// Let a person in, or lock them out
///
/// Disabling ends their sessions and tokens for good, and refuses their keys as long as it lasts; live streams end
/// within seconds, on every instance. The last active admin cannot be disabled.
#[api_v2_operation(tags(Administration), operation_id = "setUserState")]
pub async fn set_state(
    request: HttpRequest,
    admin: Admin,
    path: Path<i64>,
    body: Body<StateChange>,
    worker: Data<Worker>,
) -> Result<Json<UserEntry>, ApiError> {
    let state = body.read().await?.state;
    change_state(&request, &worker, &admin.0, path.into_inner(), &state).await.map(Json)
}

/// Lets a person in, or locks them out.
pub async fn change_state(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    id: i64,
    state: &str,
) -> Result<UserEntry, ApiError> {
    if !["active", "disabled"].contains(&state) {
        return Err(ApiError::parameter("state", "state must be active or disabled."));
    }
    let (origin, now) = (surface::origin(request, Some(by)), db::now());
    let changed = {
        let mut conn = worker.shared.pool.writer().await?;
        UserRecord::set_state(&mut conn, id, state, true, now, &origin).await
    };
    let user = changed.map_err(|error| match error {
        PersonError::Unknown => nobody(),
        PersonError::LastAdmin => ApiError::new(
            Code::Conflict,
            "This is the last active admin; make somebody else an admin first (admin.emails).",
        ),
        PersonError::Disabled => ApiError::new(Code::Conflict, "This person is disabled."),
        PersonError::Db(error) => error.into(),
    })?;
    surface::revalidate(worker).await;
    one(&mut worker.shared.pool.reader().await?, user).await
}

/// A person's keys
///
/// Newest first.
#[api_v2_operation(tags(Administration), operation_id = "listUserKeys")]
pub async fn keys(
    _admin: Admin,
    path: Path<i64>,
    query: Query<PageQuery>,
    worker: Data<Worker>,
) -> Result<Json<KeyList>, ApiError> {
    let id = path.into_inner();
    UserRecord::find(&mut worker.shared.pool.reader().await?, id).await?.ok_or_else(nobody)?;
    keys::of_person(&worker, id, query.into_inner()).await.map(Json)
}

/// Revoke a person's key
///
/// As its owner can.
#[api_v2_operation(tags(Administration), operation_id = "revokeUserKey")]
pub async fn revoke_key(
    request: HttpRequest,
    admin: Admin,
    path: Path<(i64, i64)>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let (user_id, key_id) = path.into_inner();
    keys::revoke_of(&request, &worker, &admin.0, user_id, key_id).await
}

/// End all of a person's sessions
///
/// Browsers and programs have to sign in again; keys stay.
#[api_v2_operation(tags(Administration), operation_id = "endUserSessions")]
pub async fn end_sessions(
    request: HttpRequest,
    admin: Admin,
    path: Path<i64>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    end_sessions_of(&request, &worker, &admin.0, path.into_inner()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends all of a person's sessions.
pub async fn end_sessions_of(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    id: i64,
) -> Result<(), ApiError> {
    let origin = surface::origin(request, Some(by));
    {
        let mut conn = worker.shared.pool.writer().await?;
        UserRecord::find(&mut conn, id).await?.ok_or_else(nobody)?;
        let event = Event::new(db::now(), "sessions_ended_by_admin", &origin);
        SessionRecord::end(&mut conn, id, None, event).await?;
    }
    surface::revalidate(worker).await;
    Ok(())
}
